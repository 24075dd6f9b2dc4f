# What a front-end does to its back-end: READs of the pool, WRITEs of its own rings, calls.  All answer OK, LOST, LATE or STOPPED.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport remote_region, work_request
from rnvm.frontend.state cimport frontend, instance, journal

# n bytes at an offset of the pool.
cdef int remote_read(frontend *fe, uint64_t offset, void *to, uint64_t n) noexcept nogil
# Where the first part of a range of the pool stands: *size bytes at *at of *region.
cdef int remote_place(frontend *fe, uint64_t offset, uint64_t n, remote_region **region, uint64_t *at,
                      uint64_t *size) noexcept nogil
# Requests in order, in one round trip.  deadline: 0 where it must be known what became of them.
cdef int remote_transfers(frontend *fe, work_request *works, int n, uint64_t deadline) noexcept nogil
# A call; its status is in fe.refusal.  answer may be NULL; got: bytes of the answer that were copied there, at most capacity.
cdef int remote_call(frontend *fe, uint8_t opcode, const void *question, uint32_t n, void *answer, uint32_t capacity,
                     uint32_t *got) noexcept nogil
# The same with a number as question and without an answer.
cdef int remote_ask(frontend *fe, uint8_t opcode, uint64_t number) noexcept nogil
# For waits: whether time is left; lets Python look for signals now and then.
cdef int remote_patience(frontend *fe, uint64_t *pause) noexcept nogil

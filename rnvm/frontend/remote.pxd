# How a front-end reaches its back-end: READs of the pool, WRITEs, calls.  All functions return OK,
# LOST, FENCED, LATE or STOPPED.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport local_region, remote_region, work_request
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena
from rnvm.format.layout cimport rnvm_geometry
from rnvm.frontend.state cimport frontend

# Ends the session for all calls: from now on they return `error` (LOST or FENCED).  Returns it.
cdef inline int session_fail(frontend *fe, int error) noexcept nogil:
    fe.link.error = error
    return error

# A new connection: nothing has failed yet.
cdef void link_open(frontend *fe, client_ring *ring, bint mapped,
                    bint polls_liveness) noexcept nogil
# The pool's chunks; NULL and NULL: none.
cdef void link_set_pool(frontend *fe, remote_arena *arena, remote_region *pool) noexcept nogil
cdef void link_set_geometry(frontend *fe, const rnvm_geometry *g) noexcept nogil
# Registered memory; READs that need it land in the last `landing_bytes` of it, from landing_at on.
cdef void link_set_buffer(frontend *fe, local_region *buffer, uint64_t landing_at,
                          uint64_t landing_bytes) noexcept nogil
# Sets whether loads replace READs; returns the previous setting.
cdef bint link_set_mapped(frontend *fe, bint mapped) noexcept nogil
cdef void link_set_owner(frontend *fe, void *owner) noexcept nogil
cdef inline void link_clear_error(frontend *fe) noexcept nogil:
    fe.link.error = 0
cdef inline void link_set_deadline(frontend *fe, uint64_t deadline_ns) noexcept nogil:
    fe.link.deadline_ns = deadline_ns
# A response has just shown that the back-end is alive.
cdef inline void link_set_alive(frontend *fe, uint64_t now) noexcept nogil:
    fe.link.alive_ns = now
# Polls whether the back-end is alive, if no READ would show it and the last poll is long ago.
cdef void link_poll_liveness(frontend *fe, uint64_t now) noexcept nogil

# READs n bytes at an offset of the pool.
cdef int remote_read(frontend *fe, uint64_t offset, void *to, uint64_t n) noexcept nogil
# READs n bytes at each of several offsets of the pool, in one round trip: at most so many pieces,
# of so many bytes together.  They land in `to`, one behind the other.
cdef enum:
    REMOTE_PIECES_MAX = 128
    REMOTE_PIECES_BYTES_MAX = 4096
cdef int remote_read_pieces(frontend *fe, const uint64_t *offsets, uint32_t count, void *to,
                            uint32_t n) noexcept nogil
# Finds the first part of a range of the pool: *size bytes at *at of *region.
cdef int remote_place(frontend *fe, uint64_t offset, uint64_t n, remote_region **region,
                      uint64_t *at, uint64_t *size) noexcept nogil
# Executes requests in order, in one round trip.  deadline: 0 if the outcome must be known, however
# late.
cdef int remote_transfers(frontend *fe, work_request *works, int n,
                          uint64_t deadline) noexcept nogil
# Calls the back-end; the response's status is in fe.link.status then.  answer may be NULL; *got is
# the number of bytes that were copied there, at most capacity.
cdef int remote_call(frontend *fe, uint8_t opcode, const void *question, uint32_t n, void *answer,
                     uint32_t capacity, uint32_t *got) noexcept nogil
# The same with a number as request and without a response payload.
cdef int remote_ask(frontend *fe, uint8_t opcode, uint64_t number) noexcept nogil
# Has the back-end apply all whole records of all logs.
cdef int remote_apply_logs(frontend *fe) noexcept nogil
# One step of a wait, with exponential back-off from *pause_ns = 0 on.  LATE after the deadline;
# runs Python's signal handlers now and then.
cdef int remote_wait(frontend *fe, uint64_t *pause_ns) noexcept nogil

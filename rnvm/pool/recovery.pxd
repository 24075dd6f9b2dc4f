# From what stands on the medium to a pool that can serve.  Every step may be cut off by a crash and begun anew.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

cdef struct recovery:          # what there was to do
    int64_t applied            # transactions
    uint32_t fenced            # sessions, because of a record that could not be applied
    uint32_t dropped           # structures whose dropping had begun
    uint64_t freed             # blocks that had been allocated for nothing
    uint64_t pending           # operations that are to be executed by whoever next writes to their structure

# Registers and naming entries into private memory, and what is whole in the rings; nothing is written.  A ring without all that
# was durable has faulty = FAULT_END.
cdef void pool_load(pool *p) noexcept nogil
# What was read may not be durable yet: makes it so.  0, or -1: the medium failed.
cdef int pool_settle(pool *p) noexcept nogil
# Applies the logs, finishes what was begun, and shows peers where things are.  0, or -1: the medium failed.
cdef int pool_recover(pool *p, recovery *done) noexcept nogil

# Recovery: from the content of the medium to a pool that can serve.  A crash may interrupt any
# step, which is then done again.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

cdef struct recovery:          # the work that a recovery found
    int64_t applied            # transactions
    uint32_t fenced            # sessions, because of a record that could not be applied
    uint32_t dropped           # structures whose drop had begun
    uint64_t freed             # blocks allocated for an operation that never completed
    uint64_t pending           # operations that the next writer of their structure must execute

# Reads dual-copy records and naming entries into private memory, and scans the rings for whole
# records; writes nothing.  A ring that lacks a durable record gets faulty = FAULT_END.
cdef void pool_load(pool *p) noexcept nogil
# Makes the bytes that were read durable: they may not be yet.  Returns 0, or -1: the medium
# failed.
cdef int pool_settle(pool *p) noexcept nogil
# Applies the logs, finishes interrupted changes, and publishes the words that peers READ.  Returns
# 0, or -1: the medium failed.
cdef int pool_recover(pool *p, recovery *done) noexcept nogil

# What a back-end does all day with the rings of its sessions: collect, replay, checkpoint.
#
# The order everywhere: log durable -> apply -> applied data durable -> cursors durable -> space reused.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

# Makes durable what the sessions have written since (one drain for all of them) and publishes how far that is.  Bytes; -1: the
# medium failed.
cdef int64_t pool_collect(pool *p) noexcept nogil
# Whether all that a session has written is durable already.
cdef bint pool_settled(pool *p, uint32_t session) noexcept nogil
# Applies durable transactions, each all or nothing, those of a structure in the order of their numbers.  At most so many records;
# how many.  A ring with a record that must not be applied becomes faulty and stands still.
cdef int64_t pool_replay(pool *p, int64_t most) noexcept nogil
# Makes durable what was applied, then how far that is, then gives the space of the logs back.  0; -1: the medium failed.
cdef int pool_checkpoint(pool *p) noexcept nogil
# Operations of an operation ring that no transaction covers yet: calls back with each part in LSN order, from `lsn` on, within
# what is durable.  The payload is private memory.  False from the callback ends it.
ctypedef bint (*pending_operation)(void *context, uint32_t session, uint64_t lsn, uint32_t structure, uint32_t code,
                                   uint64_t number, const char *bytes, uint32_t length) noexcept nogil
cdef void pool_pending(pool *p, uint32_t session, pending_operation found, void *context) noexcept nogil

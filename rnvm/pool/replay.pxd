# The regular work of a back-end on the rings of its sessions: collect, replay, checkpoint.
#
#   LSN    head          replayed         durable            tail
#   -------+-------------+----------------+------------------+-------------->
#   free   | applied     | durable,       | whole in the     | still to
#          |             | to be applied  | ring             | be written
#                                     collect -->
#                        replay -->
#          checkpoint -->
#
# The order everywhere: log durable -> apply -> applied data durable -> cursors durable -> space
# reused.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

# Makes the sessions' new records durable (one drain for all of them) and publishes the new
# position.  Returns bytes; -1: the medium failed.
cdef int64_t pool_collect(pool *p) noexcept nogil
# The same, but it stops after so many bytes, at the session where the next call goes on; 0: never.
cdef int64_t pool_collect_portion(pool *p, uint64_t portion) noexcept nogil
# The same for the sessions from *next on, once around: *next is the session where another call goes
# on, or the number of sessions.
cdef int64_t pool_collect_from(pool *p, uint32_t *next, uint64_t portion) noexcept nogil
# Returns whether everything that a session has written is durable already.
cdef bint pool_settled(pool *p, uint32_t session) noexcept nogil
# Applies durable transactions, each all or nothing, those of a structure in the order of their
# numbers.  Applies at most `most` records; returns how many.  A ring with a record that must not be
# applied becomes faulty and stops there.
cdef int64_t pool_replay(pool *p, int64_t most) noexcept nogil
# The same, but it stops after records of so many bytes.
cdef int64_t pool_replay_portion(pool *p, int64_t most, uint64_t portion) noexcept nogil
# Makes the applied transactions durable, then their position, then frees the space of the logs.
# Returns 0; -1: the medium failed.
cdef int pool_checkpoint(pool *p) noexcept nogil
# Calls back with each operation of an operation ring that no transaction covers yet, in LSN order,
# from `lsn` on, as far as the ring is durable.  The payload is in private memory.  The callback
# returns False to end the scan.
ctypedef bint (*pending_operation)(void *context, uint32_t session, uint64_t lsn,
                                   uint32_t structure, uint32_t code, uint64_t number,
                                   const char *bytes, uint32_t length) noexcept nogil
cdef void pool_pending(pool *p, uint32_t session, pending_operation found,
                       void *context) noexcept nogil

# An operation of a front-end, from the writer lock to the logs; and the transaction that it is in.
# Functions return OK or a status below 0; operation_execute() the result of the structure's apply.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, instance

# Batches and transactions: until it is ended, structures stay acquired, and
#   a batch         logs each operation by itself, and their changes as one redo record
#   a transaction   logs one redo record at its end
cdef inline void scope_set_batching(frontend *fe, bint on) noexcept nogil:
    fe.scope.batching = on
cdef inline void scope_set_transacting(frontend *fe, bint on) noexcept nogil:
    fe.scope.transacting = on
cdef inline void scope_set_sparing(frontend *fe, bint on) noexcept nogil:
    fe.scope.sparing = on
cdef inline void scope_set_patient(frontend *fe, bint on) noexcept nogil:
    fe.scope.patient = on

# Executes one operation; below 0 nothing of it is left, unless fe.in_doubt names records of it.
cdef int operation_execute(instance *s, uint32_t code, const char *bytes,
                           uint32_t length) noexcept nogil
# Writes the redo record of the batch or the transaction, and waits until it counts.
cdef int transaction_commit(frontend *fe) noexcept nogil

# Acquires the structure's writer lock, for a transaction (in the order of their naming entries) or
# for the calls that follow, and first re-executes the pending operations of dead writers.
cdef int structure_acquire(instance *s) noexcept nogil
# Frees the nodes of a multi-version structure that are listed as replaced and that no reader uses.
# Above 0: there were some.  Not within a transaction.
cdef int structure_collect(instance *s, uint64_t until) noexcept nogil
# Releases all structures that were acquired: their locks are kept, unless others wait for them.  A
# batch that could not be written ends the session: its operations are durable, and the next holder
# of the lock executes them.
cdef void structures_release(frontend *fe) noexcept nogil
# Writes the changes of a batch, then gives all locks back.  Not within a transaction.
cdef int locks_return(frontend *fe) noexcept nogil

# A new structure's first transaction, under its lock.
cdef int structure_begin(instance *s, uint64_t blocks) noexcept nogil
# The structure's object is gone: writes its changes and gives its lock back.  False: not yet, since
# a transaction includes it, or since the session was lost before that and the write set still
# refers to it.
cdef bint structure_close(instance *s) noexcept nogil

# A front-end's turns at its structures: the writer lock, and first what dead writers have left to do.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport frontend, instance

# The writer lock for a transaction (in the order of their entries) or for what follows; until turn_leave().
cdef int turn_enter(instance *s) noexcept nogil
# What was entered is left: the locks are kept, unless others wait for them.  What a batch could not write ends the session:
# its operations are durable, and whoever has the lock next executes them.
cdef void turn_leave(frontend *fe) noexcept nogil
# Writes what a batch did so far, then gives all locks back.  Not for a transaction.
cdef int turn_release(frontend *fe) noexcept nogil
# A new structure's first transaction, under its lock.
cdef int turn_begin(instance *s, uint64_t blocks) noexcept nogil
# The object of a structure goes: what it changed is written, its lock goes back.  False: not yet, since a transaction is over it,
# or since the session was lost before that and the changes still name it.
cdef bint turn_settle(instance *s) noexcept nogil

# A front-end's turns at its structures: the writer lock, and first what dead writers have left to do.

from libc.stdint cimport uint64_t
from rnvm.frontend._front cimport frontend, instance

# The writer lock for a transaction (in the order of their entries) or for what follows; until turn_leave().
cdef int turn_enter(instance *s) noexcept nogil
# What was entered is left: the locks are kept, unless others wait for them.
cdef void turn_leave(frontend *fe) noexcept nogil
# Gives all locks back.
cdef int turn_release(frontend *fe) noexcept nogil
# A new structure's first transaction, under its lock.
cdef int turn_begin(instance *s, uint64_t blocks) noexcept nogil
# The object of a structure goes: what it changed is written, its lock goes back.
cdef void turn_settle(instance *s) noexcept nogil

# How operations and queries of a front-end begin and end: locks, logs, restarts.  Answers as _structure.pxd says.

from libc.stdint cimport uint32_t, uint64_t
from rnvm._front cimport frontend, instance

cdef int turn_execute(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
cdef int turn_query(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil
# A query under the writer lock.
cdef int turn_alone(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil
# The writer lock for a transaction (in the order of their entries) or for what follows; until turn_leave().
cdef int turn_enter(instance *s) noexcept nogil
cdef void turn_leave(frontend *fe) noexcept nogil
# Writes what the batch or the transaction has changed, and waits until it holds.
cdef int turn_commit(frontend *fe) noexcept nogil
# A new structure's first transaction, under its lock.
cdef int turn_begin(instance *s, uint64_t blocks) noexcept nogil
# Gives all locks back.
cdef int turn_release(frontend *fe) noexcept nogil
# The object of a structure goes: what it changed is written, its lock goes back.
cdef void turn_settle(instance *s) noexcept nogil

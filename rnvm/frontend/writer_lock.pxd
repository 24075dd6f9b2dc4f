# A structure's writer lock, as a front-end has it.

from rnvm.frontend.state cimport frontend, instance

# Waits for the lock, until those before us had it and its holder is outside.  OK: s.holds, and we are inside.
cdef int lock_acquire(instance *s) noexcept nogil
# Inside again with the lock that was kept; s.holds says whether it still is ours.
cdef int lock_resume(instance *s) noexcept nogil
# We are outside: the lock is kept, unless others wait for it.
cdef int lock_pause(instance *s) noexcept nogil
# The lock goes back, if we have it.
cdef int lock_release(instance *s) noexcept nogil
# Inside for a while (a batch, a transaction): what is cached here may be believed only if the lock is still ours.  Here one load
# says so; over a network a READ, at most twice a lease unless others wait for the lock.
cdef int lock_keep(instance *s) noexcept nogil
# Whether all locks that were entered have been ours until now: a transaction that writes nothing has nothing else to say so.
cdef int locks_confirm(frontend *fe) noexcept nogil
# What came of reading under the lock (`found`).  Who was stopped for longer than a lease may have lost it meanwhile: then what
# was fetched is of different moments.
cdef int lock_confirm(instance *s, int found) noexcept nogil

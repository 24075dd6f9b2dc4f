# A structure's writer lock, as a front-end has it.

from rnvm.frontend._front cimport instance

# Waits for the lock, until those before us had it and its holder is outside.  OK: s.holds, and we are inside.
cdef int lock_acquire(instance *s) noexcept nogil
# Inside again with the lock that was kept; s.holds says whether it still is ours.
cdef int lock_resume(instance *s) noexcept nogil
# We are outside: the lock is kept, unless others wait for it.
cdef int lock_pause(instance *s) noexcept nogil
# The lock goes back, if we have it.
cdef int lock_release(instance *s) noexcept nogil
# What came of reading under the lock (`found`).  Who was stopped for longer than a lease may have lost it meanwhile: then what
# was fetched is of different moments.
cdef int lock_confirm(instance *s, int found) noexcept nogil

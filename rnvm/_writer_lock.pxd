# A structure's line of live words, which the back-end writes and everybody READs; and its writer lock, as a front-end has it.

from libc.stdint cimport uint64_t
from rnvm._front cimport instance

cdef struct line:              # as layout.h has it
    uint64_t sequence
    uint64_t revoke
    uint64_t holder
    uint64_t replayed
    uint64_t orphans
    uint64_t rest[3]

# The sequence is read last: it is not older than what the other words say.
cdef int line_look(instance *s, line *seen) noexcept nogil
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

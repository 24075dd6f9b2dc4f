# What the replayer has applied and not sent to its file yet.
#
# Nothing needs it there before the next checkpoint: the log has it.  So a page that many transactions change is written once, and
# a sync that waits for a log does not wait for such pages as well.

from libc.stdint cimport uint64_t
from rnvm._state cimport pool

# Puts bytes into the pool's memory; they are on their way to the medium now, or after unsent_send().
cdef void unsent_write(pool *p, uint64_t offset, const void *source, uint64_t n) noexcept nogil
# Sends all that was put there.
cdef void unsent_send(pool *p) noexcept nogil
# Allocates what is needed for that; 0, or -1.  Before anything is replayed.
cdef int unsent_begin(pool *p, bint in_lines) noexcept nogil
cdef void unsent_end(pool *p) noexcept nogil

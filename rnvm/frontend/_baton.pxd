# Threads that share one front-end: one at a time is inside, and they come in in the order in which they asked.  With the GIL.

from libc.stdint cimport uint64_t

cdef class Baton:
    cdef readonly uint64_t holder      # the thread that is inside, or 0
    cdef readonly uint64_t keeper      # the thread whose batch or transaction is under way: nobody else comes in; or 0
    cdef object waiting                # deque of Waiter

    # Whether this thread got it within so many seconds.  Raises what a signal handler raises meanwhile.
    cdef bint take(self, double seconds) except -1
    cdef void give(self) noexcept
    # This thread alone may take it until keep(False).
    cdef void keep(self, bint kept) noexcept

# Threads that share one front-end: one at a time is inside, and they come in in the order in which they asked.  With the GIL.

from libc.stdint cimport uint64_t

cdef class Baton:
    cdef readonly uint64_t holder      # the thread that is inside, or 0
    cdef readonly uint64_t keeper      # the thread whose batch or transaction is under way: nobody else comes in; or 0
    cdef bint orphaned                 # nobody will end what was under way: the keeper's thread has ended, or could not do it
    cdef object life                   # weak reference to something that ends with the keeper's thread, or None
    cdef object waiting                # deque of Waiter

    # Whether this thread got it within so many seconds.  Raises what a signal handler raises meanwhile.
    cdef bint take(self, double seconds) except -1
    cdef void give(self) noexcept
    cdef void call_next(self) noexcept
    # This thread alone may take it until keep(False), or until it ends.
    cdef int keep(self, bint kept) except -1
    # Nobody keeps it any more, and who comes in next ends what was under way.
    cdef void orphan(self) noexcept

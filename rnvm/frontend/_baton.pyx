# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Threads that share one front-end (the contract is in _baton.pxd).

Who leaves hands over to the first who waits.  Leaving it to whoever comes next would not do: a thread that calls again at once
still has the GIL, and those who wait would hardly ever find the front-end free.
"""

from collections import deque
from threading import Lock

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint64_t


cdef class Waiter:
    cdef uint64_t thread
    cdef object door           # locked until it is its turn
    cdef bint called


cdef class Baton:
    """One thread at a time, first come first served."""

    def __cinit__(self):
        self.waiting = deque()

    cdef bint take(self, double seconds) except -1:
        cdef uint64_t me = <uint64_t> PyThread_get_thread_ident()
        cdef Waiter waiter
        if not self.holder and (not self.keeper or self.keeper == me):
            self.holder = me
            return True
        waiter = Waiter.__new__(Waiter)
        waiter.thread = me
        waiter.door = Lock()
        waiter.door.acquire()
        self.waiting.append(waiter)
        try:
            waiter.door.acquire(timeout=seconds)
        except BaseException:
            if waiter.called:
                self.give()
            else:
                self.waiting.remove(waiter)
            raise
        # It may have been called after its time was over.
        if not waiter.called:
            self.waiting.remove(waiter)
        return waiter.called

    cdef void give(self) noexcept:
        cdef Waiter next
        self.holder = 0
        if self.waiting and not self.keeper:
            next = self.waiting.popleft()
            self.holder = next.thread
            next.called = True
            next.door.release()

    cdef void keep(self, bint kept) noexcept:
        self.keeper = self.holder if kept else 0

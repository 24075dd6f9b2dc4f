# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Threads that share one front-end (the contract is in _baton.pxd).

Who leaves hands over to the first who waits.  Leaving it to whoever comes next would not do: a thread that calls again at once
still has the GIL, and those who wait would hardly ever find the front-end free.
"""

import weakref
from collections import deque
from threading import Lock, local

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint64_t


class Life:
    """Ends with its thread.  The number of a thread does not say that: the next thread may get it."""


class Lives(local):
    def __init__(self):
        self.life = Life()


lives = Lives()


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
        self.holder = 0
        if self.waiting:
            self.call_next()

    cdef void call_next(self) noexcept:
        """Lets the first in who may come in."""
        cdef Waiter each
        cdef Py_ssize_t i
        # Nothing here may allocate what the garbage collector tracks: a finalizer, or another thread while that one runs, would
        # find the front-end free, and two would be inside.  An iterator over the deque is such an object.
        for i in range(<Py_ssize_t> len(self.waiting)):
            each = self.waiting[i]
            if not self.keeper or each.thread == self.keeper:
                del self.waiting[i]
                self.holder = each.thread
                each.called = True
                each.door.release()
                return

    cdef int keep(self, bint kept) except -1:
        cdef uint64_t me = <uint64_t> PyThread_get_thread_ident()
        self.life = weakref.ref(lives.life, self.keeper_ended) if kept else None
        self.keeper = me if kept else 0
        return 0

    def keeper_ended(self, life):
        """The keeper's thread has come to its end: in that thread, and at any moment for others."""
        if life is self.life:
            self.orphan()

    cdef void orphan(self) noexcept:
        self.life = None
        self.keeper = 0
        self.orphaned = True
        if not self.holder and self.waiting:
            self.call_next()

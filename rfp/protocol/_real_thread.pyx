# cython: language_level=3
"""Threads that stay in C for as long as they like."""

import threading

from rfp.errors import FabricError

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()


class RealThread(threading.Thread):
    """A daemon thread that runs run(*arguments) and may keep its processor without ever coming back to Python.

    Where something has put greenlets in the place of threads (gevent, eventlet) it is refused: a greenlet runs in the thread that
    starts it, which would never come out again.
    """

    def __init__(self, run, name, arguments=()):
        super().__init__(name=name, daemon=True)
        self._body = run
        self._arguments = arguments
        self._starter = None
        self._begun = threading.Event()
        self._greenlet = False

    def start(self):
        """Raises FabricError: the system gives no more threads, or this would be a greenlet."""
        self._starter = <unsigned long> pthread_self()
        try:
            super().start()
        except RuntimeError as error:
            raise FabricError(f"the thread {self.name!r} cannot be started: {error}",
                              hint="see `ulimit -u`, and the limit of processes (pids) of its container") from error
        self._begun.wait()
        if self._greenlet:
            raise FabricError(f"the thread {self.name!r} would be a greenlet, which this thread would never leave",
                              hint="run the server in a process of its own, or keep real threads: "
                                   "gevent.monkey.patch_all(thread=False)")

    def run(self):
        self._greenlet = <unsigned long> pthread_self() == self._starter
        self._begun.set()
        if not self._greenlet:
            self._body(*self._arguments)

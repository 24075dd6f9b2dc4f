# cython: boundscheck=True, wraparound=True, cdivision=False
"""Threads that may stay in C for any time."""

import _thread
import threading

from rfp.errors import FabricError

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()


class RealThread(threading.Thread):
    """A daemon thread that runs run(*arguments) and may keep its CPU without ever returning to
    Python.

    If gevent or eventlet has replaced threads by greenlets, start() refuses: a greenlet runs in the
    thread that starts it, and that thread would never return.

    begun: whether start() has returned; run() is not called before.
    """

    def __init__(self, run, name, arguments=()):
        super().__init__(name=name, daemon=True)
        self.begun = False
        self._body = run
        self._arguments = arguments
        self._starter = None
        self._answered = threading.Event()
        self._greenlet = False
        # not an Event: its set() is Python code, out of which a signal handler may raise
        self._permission = _thread.allocate_lock()
        self._permission.acquire()

    def start(self):
        """Start the thread.

        Raises:
            FabricError: the system cannot start another thread, or this thread would be a greenlet.

        A signal handler's exception also leaves this call.  After any exception, run() is never
        called.
        """
        self._starter = <unsigned long> pthread_self()
        try:
            super().start()
            self._answered.wait()
            self.begun = not self._greenlet
        except RuntimeError as error:
            raise FabricError(
                f"cannot start the thread {self.name!r}: {error}",
                hint="raise `ulimit -u`, or the container's limit of processes (pids)") from error
        finally:
            self._permission.release()
        if self._greenlet:
            raise FabricError(f"cannot start the thread {self.name!r}: it would "
                              "be a greenlet that blocks this thread",
                              hint="run the server in a process of its own, or keep real threads: "
                                   "gevent.monkey.patch_all(thread=False)")

    def run(self):
        self._greenlet = <unsigned long> pthread_self() == self._starter
        self._answered.set()
        if self._greenlet:
            return
        self._permission.acquire()
        if self.begun:
            self._body(*self._arguments)

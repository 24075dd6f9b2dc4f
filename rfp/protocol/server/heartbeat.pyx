"""The server's heartbeat: a word that the server advances as long as it runs.

Waiting clients READ the word if they have no pidfd of the server's process.  A thread of its own
advances it, not a worker: an RPC handler may keep a worker for any time.  The thread never needs
the GIL.

The word is the server's monotonic clock (ns): clients over a network bound the time by it.
"""

from libc.stdint cimport uint32_t

from rfp.core.core cimport (
    rfp_futex_wait, rfp_futex_wake, rfp_load32, rfp_now, rfp_store32, rfp_store64_release,
)
from rfp.fabric.fabric cimport Region

from rfp.protocol.server.real_thread import RealThread

cdef enum:
    PERIOD_NS = 50000000     # between two heartbeats


cdef void beat_until_stopped(char *word, uint32_t *stop) noexcept nogil:
    while not rfp_load32(stop):
        rfp_store64_release(word, rfp_now())
        rfp_futex_wait(stop, 0, PERIOD_NS)


cdef class Heartbeat:
    """Advances the first 8 bytes of a region, from start() to stop()."""
    cdef Region region
    cdef uint32_t stopped
    cdef object thread

    def __cinit__(self, Region region not None):
        self.region = region

    def start(self):
        """Start the thread.

        Raises:
            FabricError: the system cannot start a thread.
        """
        thread = RealThread(self._run, "rfp-heart")
        thread.start()
        self.thread = thread

    def _run(self):
        cdef char *word = self.region.c.base
        with nogil:
            beat_until_stopped(word, &self.stopped)

    def stop(self):
        """Stop the thread and wait for its end.  It is safe to call this again."""
        thread = self.thread
        rfp_store32(&self.stopped, 1)
        rfp_futex_wake(&self.stopped)
        if thread is not None:
            thread.join()
            # last: if a signal handler raises out of join(), stop() is called again
            self.thread = None

"""The beat: a word that a server advances as long as it runs, and that waiting clients READ where no pidfd tells them.

A thread of its own beats, not a worker: a worker may be inside an RPC handler for as long as that likes.  It never needs the GIL.
"""

from libc.stdint cimport uint32_t

from rfp.core.core cimport (
    rfp_futex_wait, rfp_futex_wake, rfp_load32, rfp_now, rfp_store32, rfp_store64_release,
)
from rfp.fabric.fabric cimport Region

from rfp.protocol.server.real_thread import RealThread

cdef enum:
    PERIOD_NS = 50000000     # ns between two beats


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
        """Raises FabricError (no thread can be started)."""
        thread = RealThread(self._run, "rfp-heart")
        thread.start()
        self.thread = thread

    def _run(self):
        cdef char *word = self.region.c.base
        with nogil:
            beat_until_stopped(word, &self.stopped)

    def stop(self):
        """Safe to call again."""
        thread = self.thread
        rfp_store32(&self.stopped, 1)
        rfp_futex_wake(&self.stopped)
        if thread is not None:
            thread.join()
            self.thread = None  # only now: a signal handler may raise out of join(), and then this is called again

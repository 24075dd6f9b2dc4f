# cython: nonecheck=True
"""A medium that kills its process with SIGKILL at a chosen persist point, for tests.

Another medium does all the work.  A persist point is each write, flush or drain; the process is
killed before it, or half way through the bytes of a write.
"""

from libc.stdint cimport uint64_t
from posix.signal cimport kill
from posix.unistd cimport getpid, pause

from rfp.core.core cimport rfp_add64
from rnvm.media.medium cimport (
    Medium, medium, medium_drain, medium_flush, medium_operations, medium_write, medium_write64,
)


cdef extern from "<signal.h>" nogil:
    int SIGKILL


cdef struct life:              # medium.state
    medium *inner
    uint64_t points            # passed until now, by all threads
    uint64_t last              # where the process is killed; 0: never


cdef inline bint ends(life *it) noexcept nogil:
    return rfp_add64(&it.points, 1) + 1 == it.last


cdef void end() noexcept nogil:
    kill(getpid(), SIGKILL)
    while True:
        pause()                # until the signal arrives


cdef void mortal_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    cdef life *it = <life *> m.state
    if ends(it):
        if n >= 16:
            medium_write(it.inner, offset, source, n // 16 * 8)
        end()
    medium_write(it.inner, offset, source, n)


cdef void mortal_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    cdef life *it = <life *> m.state
    if ends(it):
        end()
    medium_write64(it.inner, offset, value)


cdef void mortal_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    cdef life *it = <life *> m.state
    if ends(it):
        end()
    medium_flush(it.inner, offset, n)


cdef int mortal_drain(medium *m) noexcept nogil:
    cdef life *it = <life *> m.state
    cdef int result
    if ends(it):
        end()
    result = medium_drain(it.inner)
    m.error = it.inner.error
    return result


cdef medium_operations mortal_operations = medium_operations(mortal_write, mortal_write64,
                                                             mortal_flush, mortal_drain)


cdef class FailpointMedium(Medium):
    """Another medium, whose use kills the process.

    Args:
        inner: The medium that does the work.
        points: The persist point at which to kill the process; 0: never.
    """
    cdef life own
    cdef Medium inner

    def __cinit__(self, Medium inner not None, uint64_t points):
        self.inner = inner
        self.direct = inner.direct
        self.own.inner = &inner.c
        self.own.last = points
        self.c.base, self.c.length, self.c.state = inner.c.base, inner.c.length, &self.own
        self.c.ops = &mortal_operations

    cpdef int fileno(self):
        return self.inner.fileno()

    cpdef close(self):
        """Close the inner medium."""
        Medium.close(self)
        self.inner.close()

    @property
    def points(self):
        """Return how many persist points it has passed."""
        return self.own.points

    @property
    def flushing(self):
        """Return how the inner medium flushes."""
        return getattr(self.inner, "flushing", "none")

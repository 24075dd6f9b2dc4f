# Waiting until a structure changes, without holding the front-end.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport frontend, instance

cdef class Watch:
    """A moment of a structure, and a wait for its next change; of one waiting call."""
    cdef Session fe
    cdef object structure              # keeps the instance
    cdef instance *c
    cdef bint polling                  # no wake-ups come: the caller polls after each wait
    cdef const void *word              # the sequence, in the pool; only the kernel may read it
    cdef uint32_t value                # of the word when the moment began
    cdef uint32_t futile               # waits in a row that ended at once although nothing changed
    cdef uint32_t polls_left           # before it tries to sleep again, or 0
    cdef bint refused                  # the last wait ended at once
    cdef bint woken                    # the last wait did not end by its time
    cdef uint64_t began_ns
    cdef int check(self) except -1

cdef Watch watch_of(object structure, Session fe, instance *s)
# The front-end closes: wakes the threads that wait for changes of its structures.  With the call
# lock.
cdef void watches_wake(frontend *fe) noexcept nogil

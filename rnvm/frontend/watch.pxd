# Waiting until a structure changes, without holding the front-end.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport instance

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
    cdef double pause(self, double seconds)

cdef Watch watch_of(object structure, Session fe, instance *s)
# Wakes the threads that sleep until a structure changes, for a front-end that closes.  Any thread
# may call it.  A thread that is about to sleep may miss it: it sleeps for SLEEP_S_MAX at most.
cdef int watches_wake(Session fe) except -1

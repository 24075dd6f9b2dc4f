# The crash model: a medium that records each write with its time, and computes the bytes that a
# crash could leave.

from libc.stdint cimport uint8_t, uint64_t
from rfp.core.system cimport pthread_mutex_t
from rnvm.media.medium cimport Medium, medium

cdef enum:
    RULES_MAX = 16

cdef struct event:
    uint8_t kind
    bint flushed               # STORE: a flush has covered it
    uint64_t offset
    uint64_t length
    uint64_t data              # offset of its bytes in recorder.data; MARK: the number

cdef struct recorder:          # medium.state
    medium *m
    # protects the fields below: a back-end's thread stores while another one marks
    pthread_mutex_t lock
    bint sectors               # a file; else persistent memory
    bint torn_words            # planted: a store of 8 bytes may be cut in half
    uint64_t grain             # bytes that survive together: 8, 64 (a prefix of its stores) or 512
    char *view                 # the pool as the recorded stores made it
    char *begin                # the initial durable content
    event *events
    uint64_t count
    uint64_t room
    char *data
    uint64_t used
    uint64_t data_room
    unsigned delay             # of a drain, in us
    uint64_t drains            # before one fails; ~0: never
    uint64_t last              # offset of the last bytes sent on their way
    uint64_t[RULES_MAX][3] rules       # planted bugs: verb, begin, end
    int rule_count


cdef class Model(Medium):
    """A medium in memory whose crashes can be examined, one by one, from a seed."""
    cdef recorder r
    cdef int memory                    # memfd, if peers can map it; else -1
    cdef void release(self) noexcept


cdef class Crashes:
    """The crashes of a model, in the order of its events."""
    cdef Model model
    cdef char *durable
    cdef char *out
    cdef uint64_t at                   # events that have happened
    cdef uint64_t *pending             # indices of those that may or may not survive
    cdef uint64_t waiting
    cdef uint64_t room
    cdef void step(self) noexcept nogil
    cdef void survive(self, uint64_t seed) noexcept nogil
    cdef void apply(self, event *e, char *to) noexcept nogil

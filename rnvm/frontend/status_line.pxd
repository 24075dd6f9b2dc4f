# A structure's status line: the live words of its naming entry, which the back-end writes and all
# front-ends READ.

from libc.stdint cimport uint64_t
from rfp.fabric.fabric cimport work_request
from rnvm.format.messages cimport rnvm_locked
from rnvm.frontend.state cimport frontend, instance

cdef struct status_line:       # as layout.h and messages.h define it
    uint64_t sequence
    uint64_t revoke
    uint64_t holder
    uint64_t replayed
    uint64_t orphans
    uint64_t structure
    uint64_t watched
    uint64_t frame

# Reads the line.  The sequence is not older than the other words, and the line is the structure's
# own: GONE if the structure was dropped.  FENCED: our session has ended, and the line may be in
# transition.
cdef int status_read(instance *s, status_line *seen) noexcept nogil
# The same over a network, for a caller that posts a request before it in the same round trip: the
# requests, STATUS_READS at most (their number is in *n), then their results.
cdef enum:
    STATUS_READS = 3
cdef int status_post_reads(instance *s, work_request *works, int *n) noexcept nogil
cdef int status_landed(instance *s, status_line *seen) noexcept nogil
# One request, over a network, for a caller that READs the lines of several structures in one round
# trip, each to another offset in the landing.  The sequence may be older than the other words.
cdef int status_post_read(instance *s, work_request *work, uint64_t landing_offset) noexcept nogil
# Whether this session alone has opened the structure, and its pool is mapped.  Inside, under the
# lock, that remains so until this session leaves.  The line does not say which session it is: the
# result is valid only if RNVM_FIND was answered in this session, and RNVM_CLOSE was not called.
cdef bint status_alone(const instance *s) noexcept nogil
# Whether the session is still ours: one load, or one READ.  Everything that was read before was
# read while it was.  OK, FENCED, or the status of a READ.
cdef int session_validate(frontend *fe) noexcept nogil
# Adopts the lock that the back-end has granted, and the other writers' progress since.
cdef void lock_granted(instance *s, const rnvm_locked *locked) noexcept nogil
# Whether the line grants the lock with this word, and does not revoke it.
cdef bint status_grants(const status_line *seen, uint64_t word) noexcept nogil

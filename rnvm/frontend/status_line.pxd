# A structure's line of live words, which the back-end writes and everybody READs.

from libc.stdint cimport uint64_t
from rfp.fabric.fabric cimport work_request
from rnvm.format.messages cimport rnvm_locked
from rnvm.frontend.state cimport frontend, instance

cdef struct line:              # as layout.h has it
    uint64_t sequence
    uint64_t revoke
    uint64_t holder
    uint64_t replayed
    uint64_t orphans
    uint64_t structure
    uint64_t rest[2]

# The sequence is not older than what the other words say, and it is the structure's own; GONE: that is no more.  FENCED: our
# session is over, and what stands here may be on its way from one state to another.
cdef int line_look(instance *s, line *seen) noexcept nogil
# The same where something goes before it in one round trip, over a network: two requests, then what they brought.
cdef int line_ask(instance *s, work_request *works) noexcept nogil
cdef int line_answer(instance *s, line *seen) noexcept nogil
# Whether the session is still ours: one load, or one READ.  Whatever was read before this was read while it was.  OK, FENCED, ...
cdef int line_session(frontend *fe) noexcept nogil
# What a grant of the lock says: what others did meanwhile shows.
cdef void line_take_over(instance *s, const rnvm_locked *locked) noexcept nogil
# Whether a lock was granted with this word, and is not asked back.
cdef bint line_grants(const line *seen, uint64_t word) noexcept nogil

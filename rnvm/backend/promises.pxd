# Promise `replicated` at the back-end: responses that are put off until what they depend on is
# replicated.
#
# A call of a session of this promise is executed once.  If frames published by then are not
# acknowledged, its response is kept (the payload is in the slot already), and the worker repeats
# the request: a ring is served in order, so the repeated request is the same one.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport response
from rnvm.backend.connections cimport client
from rnvm.backend.state cimport backend
from rnvm.media.medium cimport medium, medium_operations, replicated

cdef struct stand_in:          # in place of a replicator: for tests alone
    replicated numbers         # first: medium.replication points here
    replicated *before
    const medium_operations *inner

# The pool accepts mirrors (mirrors_begin() was called).  False: no memory.
cdef bint promises_begin(backend *s) noexcept nogil
cdef void promises_end(backend *s) noexcept nogil
# Once a turn, after the acknowledgements were read.
cdef void promises_tick(backend *s) noexcept nogil
# Whether a response of this client is put off; if so: it is answered now, or retry_later is set.
cdef bint promises_repeated(backend *s, client *c, response *answer) noexcept nogil
# Puts the response of a call off that was just executed, unless all is replicated.
cdef void promises_put_off(backend *s, client *c, uint8_t opcode, response *answer) noexcept nogil
# Whether a change is refused because too few mirrors are in sync.
cdef bint promises_refuse(const backend *s, const client *c, response *answer) noexcept nogil
# Answers how long the back-end may still answer.
cdef void call_serving(backend *s, response *answer) noexcept nogil
# For tests alone: from now on each drain publishes a frame, and acked is what the test sets.
cdef void promises_hold(backend *s) noexcept nogil
cdef void promises_release(backend *s) noexcept nogil

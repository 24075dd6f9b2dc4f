# Handlers of calls that need neither the interpreter nor a new session (messages.h defines the
# calls).

from libc.stdint cimport int64_t, uint64_t
from rfp.protocol.server.service cimport request, response
from rnvm.backend.connections cimport client
from rnvm.backend.state cimport backend

# The index of a live structure with this ID, or -1.
cdef int64_t index_of(const backend *s, uint64_t structure) noexcept nogil

cdef void call_grant(backend *s, uint64_t count, response *answer, const client *c) noexcept nogil
cdef void call_acquire(backend *s, uint64_t wanted, response *answer,
                       const client *c) noexcept nogil
cdef void call_share(backend *s, const request *asked, response *answer,
                     const client *c) noexcept nogil
cdef void call_leave(backend *s, uint64_t structure, response *answer,
                     const client *c) noexcept nogil
cdef void call_watch(backend *s, uint64_t structure, response *answer) noexcept nogil
cdef void call_close(backend *s, uint64_t structure, const client *c) noexcept nogil
cdef void call_pending(backend *s, const request *asked, response *answer) noexcept nogil
cdef void call_outcome(backend *s, const request *asked, response *answer) noexcept nogil

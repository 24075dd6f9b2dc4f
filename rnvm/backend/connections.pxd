# Connections of front-ends to a back-end, and their sessions.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport request, response, service_session
from rnvm.backend.state cimport backend

cdef struct client:            # a front-end's connection
    const char *activity
    uint32_t peer              # number of its process, or 0
    bint used                  # it has asked for more than a session: only then it may have written into its rings
    int64_t session            # -1: not attached
    uint64_t epoch
    bint own                   # it is the session's present one

# A connection begins and ends, with a session or without; context: the backend.
cdef void client_began(void *context, service_session *connection) noexcept nogil
cdef void client_ended(void *context, service_session *connection) noexcept nogil
# Whether the client's session is still its own.
cdef bint client_present(backend *s, const client *c) noexcept nogil
# Calls.
cdef void client_attach(backend *s, const request *asked, response *answer, client *c) noexcept nogil
# Also for a session that was fenced: its front-end says that it is through.
cdef void client_detach(backend *s, response *answer, client *c) noexcept nogil
# Frees the sessions that have ended, as far as nothing of them is needed any more.
cdef void clients_sweep(backend *s) noexcept nogil

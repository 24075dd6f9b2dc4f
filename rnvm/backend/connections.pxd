# Connections of front-ends to a back-end, and the sessions they attach to.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport request, response, service_session
from rnvm.backend.state cimport backend

cdef struct kept_response:     # of a call that was executed, until its frame is replicated
    uint64_t frame             # 0: none is kept
    uint64_t since             # ns
    uint64_t most_ns           # then it is answered that the call is not replicated
    uint64_t result
    uint32_t length
    uint8_t status

cdef struct client:            # a front-end's connection
    const char *activity
    uint32_t peer              # number of its process, or 0
    bint used                  # it made a call other than ATTACH; it wrote no ring before that
    int64_t session            # -1: not attached
    uint64_t epoch
    bint own                   # session is its current one
    bint promised              # its session is of promise `replicated`
    kept_response put_off
    # FIND waits until the writer with this activity word has left a structure
    uint32_t leaving_index
    uint64_t leaving_word
    uint64_t leaving_until     # ns; 0: it does not wait
    uint64_t leaving_left      # ns for which such waits may still last, at this time (ns)
    uint64_t leaving_as_of

# A connection begins or ends, with or without a session; context: the backend.
cdef void client_began(void *context, service_session *connection) noexcept nogil
cdef void client_ended(void *context, service_session *connection) noexcept nogil
# Returns whether the session is still this client's.
cdef bint client_present(backend *s, const client *c) noexcept nogil
# Calls.
cdef void client_attach(backend *s, const request *asked, response *answer,
                        client *c) noexcept nogil
# Also valid for a session that was fenced: its front-end states that it writes no more.
cdef void client_detach(backend *s, response *answer, client *c) noexcept nogil
# Frees the sessions that have ended and of which nothing is needed any more.
cdef void clients_sweep(backend *s) noexcept nogil

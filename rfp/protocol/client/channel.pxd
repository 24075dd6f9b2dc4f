# A channel: one client thread's rings, one to each worker of a server, and their common state.

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.fabric.fabric cimport (
    EventChannel, Region, RemoteRegion, local_region, remote_region,
)
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena

cdef enum:
    USER_STATE_WORDS = 5

cdef struct channel:
    uint32_t count
    client_ring *rings[RFP_WORKERS_MAX]
    remote_arena *arenas[RFP_WORKERS_MAX]       # the memory that references point to, by worker
    remote_region *staging                  # for values too large for a slot
    # Own memory that no peer reaches, for READs beside the requests; NULL: the service has none.
    local_region *landing
    bint landing_pending                    # READs into it were left alone and may be under way
    uint64_t lease                          # ns for which a reference is valid, by the handshake
    # Of the hash that chooses a key's worker; a restarted server has another.
    uint64_t seed
    # The service's client keeps state of each worker here.
    uint64_t user_state[USER_STATE_WORDS * RFP_WORKERS_MAX]
    # The cache (core/tls_cache.h) of the thread that may use this channel, or NULL.
    void *owner
    uint64_t used                           # when the last call began, ns
    uint32_t busy                           # a call is in progress; changed with the GIL held
    uint32_t closing                        # non-zero: calls must return at once


cdef class Channel:
    """Owns a channel and keeps everything alive that it points to."""
    cdef channel c
    cdef readonly list rings
    cdef readonly list arenas
    cdef readonly Region reply
    cdef readonly Region scratch
    cdef readonly RemoteRegion requests
    cdef readonly RemoteRegion responses
    cdef readonly RemoteRegion staging
    cdef readonly Region landing
    cdef readonly EventChannel events
    cdef readonly object number             # the server's name for it
    cdef public object connection           # the connection it belongs to
    cdef bint closed

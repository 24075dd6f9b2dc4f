# A channel: one client thread's rings, one to each worker of a server, and what they share.

from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport EventChannel, Region, RemoteRegion, remote_region
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena

cdef enum:
    WORKERS_MAX = 64
    USER_STATE_WORDS = 5

cdef struct channel:
    uint32_t count
    client_ring *rings[WORKERS_MAX]
    remote_arena *arenas[WORKERS_MAX]       # where references point to, by worker
    remote_region *staging                  # for values too large for a slot
    uint64_t lease                          # ns that a reference holds, as the handshake said
    uint64_t seed                           # of the hash that tells a key's worker; a restarted server has another
    uint64_t user_state[USER_STATE_WORDS * WORKERS_MAX]  # what the service's client remembers of each worker
    void *owner                             # the cache (core/tls_cache.h) of the thread that may use it, or NULL
    uint64_t used                           # when the last call began, ns
    uint32_t busy                           # a call is under way; changed with the GIL held
    uint32_t closing                        # non-zero: calls are to return at once


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
    cdef readonly EventChannel events
    cdef readonly object number             # the server's name for it
    cdef public object connection           # the connection it belongs to
    cdef bint closed

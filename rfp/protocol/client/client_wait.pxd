# Waiting for the oldest response of a ring, and for a server that may be gone.

from libc.stdint cimport uint64_t
from rfp.protocol.client.client_ring cimport client_ring

cdef enum:
    SLEEP_NS_MAX = 50000000        # ns: the longest sleep, and the time between two looks whether the server still lives

# Until the oldest request that somebody waits for is DONE, or TIMED_OUT, DISCONNECTED, CLOSED, PROTOCOL_ERROR (client_ring.pxd).
cdef int client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil
cdef bint client_ring_check_alive(client_ring *ring, uint64_t now) noexcept nogil

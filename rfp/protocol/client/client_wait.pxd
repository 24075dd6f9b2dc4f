# Waiting for the oldest response of a ring, and for a server that may be gone.

from libc.stdint cimport uint64_t
from rfp.protocol.client.client_ring cimport client_ring

cdef enum:
    STEP = 50000000                # ns: the longest sleep, and the time between two looks whether the server still lives

# Until the oldest request that somebody waits for is DONE, or TIMED_OUT, GONE, CLOSED, MALFORMED (client_ring.pxd).
cdef int client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil
cdef bint client_ring_lives(client_ring *ring, uint64_t now) noexcept nogil

# Waiting for the oldest response of a ring, and for a server that may have failed.

from libc.stdint cimport uint64_t
from rfp.protocol.client.client_ring cimport client_ring, outcome

cdef enum:
    SLEEP_NS_MAX = 50000000        # longest sleep; also the time between two polls for liveness

# Blocks until the oldest request that a call waits for is DONE, or returns TIMED_OUT, DISCONNECTED,
# CLOSED or PROTOCOL_ERROR.  deadline: ns of the monotonic clock; 0: none.
cdef outcome client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil
# WRITEs WAIT into the oldest request.
cdef void request_wakeup(client_ring *ring) noexcept nogil
cdef bint client_ring_check_alive(client_ring *ring, uint64_t now) noexcept nogil

# The server's end of a ring: takes requests out of memory that a client writes, publishes responses
# in memory that the client reads.
#
# One worker owns a ring; it shares nothing here with another thread.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport (
    QueuePair, Region, RemoteRegion, local_region, queue_pair, remote_region,
)
from rfp.protocol.server.service cimport request, service_session

cdef enum:
    REAPED_MAX = 64            # taken at once from a queue pair

cdef struct server_ring:
    # memory
    const char *requests          # slots that the client writes
    local_region *response_region
    uint64_t response_offset      # offset of this ring's slots in that region
    char *responses               # address of the same slots
    uint32_t slot_size            # of requests and responses
    uint32_t slots
    bint checked                  # responses carry a checksum
    # path to the client
    queue_pair *pair
    remote_region *reply          # the client's reply region
    uint64_t reply_offset         # offset of this ring's reply slots in it
    uint64_t notify_offset        # offset of the line that a notification without a reply writes to
    # state
    service_session session
    uint32_t head                 # slot of the next request
    uint32_t sequence             # sequence of the next request
    uint32_t unfinished           # how many times in a row the next request was unfinished
    uint32_t skip                 # polls to leave out because of that
    uint64_t deferred_since  # ticks when the next request was first deferred (retry_later), or 0
    # replies and notifications posted, at most two WRITEs each, that have not completed
    uint32_t replies
    uint64_t posted               # id of the last WRITE posted
    bint broken  # a WRITE to the client failed: the control channel will end this ring
    # counters
    uint64_t served
    uint64_t replied
    uint64_t notified
    uint64_t malformed            # requests found damaged that did not become valid later

cdef int ring_take(server_ring *ring, uint32_t index, char *copy, request *taken) noexcept nogil
cdef void ring_publish(server_ring *ring, const char *copy, uint32_t length, uint64_t ns,
                       uint8_t status, uint8_t kind, uint64_t result) noexcept nogil
cdef void ring_notify(server_ring *ring, uint32_t count) noexcept nogil
cdef void ring_complete(server_ring *ring) noexcept nogil
# Returns how many requests may be served now, so that their replies fit into the send queue.
cdef uint32_t ring_room(server_ring *ring) noexcept nogil


cdef class ServerRing:
    """Owns a server_ring and holds references to all objects that it points to."""
    cdef server_ring c
    cdef readonly Region requests
    cdef readonly Region responses
    cdef readonly Region staging
    cdef readonly RemoteRegion reply
    cdef readonly QueuePair pair

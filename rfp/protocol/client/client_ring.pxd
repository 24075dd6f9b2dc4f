# The client's end of a ring: it WRITEs requests into the server's memory, and fetches the responses
# with one-sided READs.
#
# One thread at a time uses a ring.  The server answers requests in order, so a thread always waits
# for the oldest one.  Only client_ring_wait blocks; client_ring_payload may poll some thousand
# times if all slots are taken and the oldest request was abandoned.  Life of a request:
#
#     payload = client_ring_payload(ring)         where to build it; NULL: all slots are taken
#     client_ring_submit(ring, opcode, ...)       seals it; nothing is sent yet
#     client_ring_flush(ring)                     posts all submitted requests
#     client_ring_step(ring)                      polls once; client_ring_wait (client_wait.pxd)
#                                                 does so until the oldest request is DONE
#     client_ring_response(ring)                  its header, the payload behind it, in own memory
#     client_ring_pop(ring)                       its slot is free again
#
# Scratch memory of a ring: client memory that the server cannot reach, declared here and nowhere
# else.  Other modules use the functions client_ring_*_offset below and scratch_bytes().
#
#     slots * slot_size    requests under construction; a request is posted from its slot
#     slots * slot_size    response buffers, into which the READs of responses go
#     one cache line       the heartbeat that was read last

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_spin
from rfp.core.limits cimport RFP_SIZE_CLASSES, RFP_SLOTS_MAX
from rfp.fabric.fabric cimport (
    EventChannel, QueuePair, Region, RemoteRegion, event_channel, local_region, queue_pair,
    remote_region, work_request,
)
from rfp.protocol.wire cimport rfp_response_header

cdef enum outcome:                 # of a request, of a one-sided transfer, or of a whole call
    RAISED = -1                    # a Python exception is set (functions `except RAISED`)
    PENDING = 0                    # there is no response yet
    DONE = 1
    TIMED_OUT = 2                  # the deadline passed; an abandoned request keeps its slot
    DISCONNECTED = 3               # the connection is lost
    CLOSED = 4                     # another thread closes the handle
    PROTOCOL_ERROR = 5             # the server's response is invalid: the connection counts as lost
    NO_SLOT = 6                    # no slot became free before the deadline
    RETRY = 7                      # the result cannot be used, or a slot is free now: call again
    NOT_ATTACHED = 8               # a chunk of the server's arena must be attached first
    UNDECIDED = 9                  # one-sided READs prove nothing: send the server a request

cdef enum abandoned:
    NOT_IN_RING = 0
    NOT_POSTED = 1                 # it will not be executed
    POSTED = 2

cdef enum:                         # client_ring.paradigm
    AUTO = 0
    FETCH = 1
    REPLY = 2

cdef enum:                         # client_slot.stage
    IDLE = 0                       # no READ is in flight
    READING_HEAD = 1               # the READ of the first F bytes is in flight
    TAIL_DEFERRED = 2              # the head is here; the READ of the rest found no room
    READING_TAIL = 3               # the READ of the rest is in flight
    READY = 4                      # the whole response is in the response buffer

cdef extern from *:                # ids of work requests
    """
    #define RFP_ID_TAIL (1ull << 62)
    #define RFP_ID_HEARTBEAT (1ull << 61)
    #define RFP_ID_ONE_SIDED (1ull << 63)
    #define RFP_ID_LANDED (1ull << 60)
    """
    # A sequence number alone is the first READ of that request's response; with TAIL, the second.
    const uint64_t TAIL "RFP_ID_TAIL"
    const uint64_t HEARTBEAT "RFP_ID_HEARTBEAT"  # the READ of the server's heartbeat
    const uint64_t ONE_SIDED "RFP_ID_ONE_SIDED"  # a transfer of one_sided.pxd
    const uint64_t LANDED "RFP_ID_LANDED"  # a READ into channel.landing; each is signaled

cdef struct client_slot:
    uint64_t tag                   # the submitter's; calls use tag_of() (client_base.pxd)
    uint8_t mode
    bint abandoned                 # no call waits for it any more
    bint wakeup_requested          # WAIT was written
    uint8_t stage                  # of fetching
    uint32_t sequence
    uint32_t polls                 # READs that did not bring the response
    uint32_t fetched               # bytes of the first READ: F may change while it is in flight

cdef struct client_ring:
    queue_pair *pair
    event_channel *channel
    remote_region *requests
    uint64_t request_offset
    remote_region *responses
    uint64_t response_offset
    local_region *reply            # own memory that the server writes replies to
    uint64_t reply_offset
    local_region *scratch          # see the head of this file
    uint64_t scratch_offset
    uint32_t slot_size
    uint32_t slots
    uint32_t lookahead             # READs of different slots that are kept in flight
    bint direct                    # a posted request completes at once, as over shm
    bint checked                   # verify responses by their checksum
    rfp_spin spin                  # before a waiting thread sleeps
    const uint32_t *closing        # becomes non-zero when the handle is being closed
    # state
    uint32_t head                  # next slot to submit
    uint32_t tail                  # oldest request
    uint32_t count                 # requests from tail to head
    uint32_t unsent                # this many of the last ones are not posted yet
    uint32_t due                   # the first of the unsent: flushed, waiting for the send queue
    uint32_t writing               # signalled WRITEs that are not complete
    uint32_t sequence              # of the next request
    uint8_t lost                   # 0, or DISCONNECTED or PROTOCOL_ERROR: no response will come
    bint one_sided_done            # the last transfer's work requests are complete
    uint32_t landing               # READs into channel.landing that are not complete
    # A request of a call that gave up may still be executed, up to this one.
    bint unsettled
    uint32_t unsettled_until
    client_slot slot[RFP_SLOTS_MAX]
    uint64_t liveness_checked_ns   # when a waiting call last polled whether the server runs
    # the server's heartbeat, if only that shows that its machine has failed
    remote_region *heartbeat       # NULL: the operating system reports it
    bint reading_heartbeat         # a READ of it is in flight
    uint64_t last_heartbeat        # the value that the last READ brought
    uint64_t silence_ns_max
    uint64_t silence_ns            # time in which this thread polled and found no new heartbeat
    # pins to release with the next requests
    uint64_t release[RFP_SLOTS_MAX]
    uint32_t releases
    # choice of the way back for results
    uint8_t paradigm
    uint8_t mode                   # of the next request
    uint32_t fetch                 # F: bytes of the first READ
    bint fixed_fetch               # F was given: do not adjust it
    uint32_t retries               # R: failed fetches that are acceptable
    uint32_t polls_per_round_trip  # failed fetches = polls / this
    uint32_t slow                  # completions in a row with more than R failed fetches
    uint32_t fast                  # completions in a row in reply mode that are quick to fetch
    uint16_t slow_time             # processing time reported when the ring changed to reply mode
    float rate[RFP_SIZE_CLASSES]              # I(F) by lines, relative
    uint32_t sizes[RFP_SIZE_CLASSES]          # responses received, by lines
    uint32_t sized
    # counters
    uint64_t submitted
    uint64_t reads                 # READs of responses
    uint64_t writes                # WRITEs of requests and WAITs
    uint64_t tail_reads            # second READs
    uint64_t torn
    uint64_t switches              # of mode
    uint64_t slept
    uint64_t missed_wakeups        # full-length sleeps that a response should have ended

# Offsets into ring.scratch.
cdef inline uint64_t client_ring_request_offset(
        const client_ring *ring, uint32_t slot) noexcept nogil:
    return ring.scratch_offset + <uint64_t> slot * ring.slot_size

cdef inline uint64_t client_ring_response_offset(
        const client_ring *ring, uint32_t slot) noexcept nogil:
    return ring.scratch_offset + <uint64_t> (ring.slots + slot) * ring.slot_size

cdef inline uint64_t client_ring_heartbeat_offset(const client_ring *ring) noexcept nogil:
    return ring.scratch_offset + <uint64_t> 2 * ring.slots * ring.slot_size

# Where to build the next request's payload (slot size - 32 bytes); NULL: all slots are taken, or
# the connection is lost.
cdef char *client_ring_payload(client_ring *ring) noexcept nogil
cdef uint32_t client_ring_room(client_ring *ring) noexcept nogil
cdef uint32_t client_ring_submit(client_ring *ring, uint8_t opcode, uint16_t count, uint32_t flags,
                                 uint32_t length, uint64_t tag) noexcept nogil
cdef void client_ring_flush(client_ring *ring) noexcept nogil
# PENDING, DONE, DISCONNECTED or PROTOCOL_ERROR.
cdef outcome client_ring_step(client_ring *ring) noexcept nogil
cdef const rfp_response_header *client_ring_response(client_ring *ring) noexcept nogil
cdef uint64_t client_ring_tag(client_ring *ring) noexcept nogil
cdef void client_ring_pop(client_ring *ring) noexcept nogil
# The same for an abandoned request: also releases the pin that its response may hold.
cdef void client_ring_discard(client_ring *ring) noexcept nogil
cdef void client_ring_abandon(client_ring *ring) noexcept nogil
# The same for one request.  changes: whether it may change a value.
cdef abandoned client_ring_abandon_one(client_ring *ring, uint32_t sequence,
                                       bint changes) noexcept nogil
cdef void client_ring_release(client_ring *ring, uint64_t pin) noexcept nogil
# Takes completions, for a caller that waits for something else than a response.
cdef void client_ring_poll_completions(client_ring *ring) noexcept nogil


cdef class ClientRing:
    """Owns a client_ring and keeps everything alive that it points to."""
    cdef client_ring c
    cdef readonly QueuePair pair
    cdef readonly EventChannel channel
    cdef readonly RemoteRegion requests
    cdef readonly RemoteRegion responses
    cdef readonly Region reply
    cdef readonly Region scratch
    cdef readonly RemoteRegion heartbeat

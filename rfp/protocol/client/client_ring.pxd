# The client's end of a ring: WRITEs requests into the server's memory, fetches the responses with one-sided READs.
#
# One thread uses a ring at a time.  Requests are answered in order, so all waiting is for the oldest one.  Life of a request:
#
#     payload = client_ring_payload(ring)                    where to build it; NULL: all slots are taken
#     client_ring_submit(ring, opcode, ...)                  sealed, not sent yet
#     client_ring_flush(ring)                                sent, with all that were submitted
#     client_ring_step(ring), or wait (client_wait.pxd)     until the oldest is DONE
#     client_ring_response(ring)                             its header, payload behind it, in private memory
#     client_ring_pop(ring)                                  its slot is free again

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_spin
from rfp.fabric.fabric cimport (
    EventChannel, QueuePair, Region, RemoteRegion, event_channel, local_region, queue_pair,
    remote_region, work_request,
)
from rfp.protocol.wire cimport rfp_reference, rfp_response_header

cdef enum:                         # what step and wait found out about the oldest request
    PENDING = 0
    DONE = 1
    TIMED_OUT = 2                  # wait only: the deadline passed; the request is abandoned, its slot is kept
    DISCONNECTED = 3               # the connection is lost
    CLOSED = 4                     # wait only: another thread closes the handle
    PROTOCOL_ERROR = 5             # the server answered what cannot be: treat the connection as lost

cdef enum:                         # client_ring.paradigm
    AUTO = 0
    FETCH = 1
    REPLY = 2

cdef enum:                         # client_slot.stage
    IDLE = 0                       # no READ under way
    READING_HEAD = 1               # the READ of the first F bytes is
    TAIL_DEFERRED = 2              # they have come, and the READ of the rest found no room yet
    READING_TAIL = 3               # the READ of the rest is under way
    READY = 4                      # the whole response is in the landing slot

cdef extern from *:                # ids of work requests: a sequence is the first READ of that request's response
    """
    #define RFP_ID_TAIL (1ull << 62)
    #define RFP_ID_HEARTBEAT (1ull << 61)
    #define RFP_ID_ONE_SIDED (1ull << 63)
    """
    const uint64_t TAIL "RFP_ID_TAIL"          # with a sequence: the second READ
    const uint64_t HEARTBEAT "RFP_ID_HEARTBEAT"  # the READ of the server's beat
    const uint64_t ONE_SIDED "RFP_ID_ONE_SIDED"  # what is beside the ring's own (one_sided.pxd)

cdef enum:
    SLOTS_MAX = 256
    SIZES = 65                     # classes of response sizes, in lines: 64 and more fall into the last

cdef struct client_slot:
    uint64_t tag                   # the submitter's
    uint8_t mode
    bint abandoned                 # nobody waits for it any more
    bint wakeup_requested          # WAIT was written
    uint8_t stage                  # of fetching
    uint32_t sequence
    uint32_t polls                 # READs that brought nothing
    uint32_t fetched               # bytes of the first READ: F may change while it is under way

cdef struct client_ring:
    queue_pair *pair
    event_channel *channel
    remote_region *requests
    uint64_t request_offset
    remote_region *responses
    uint64_t response_offset
    local_region *reply            # own memory that the server writes replies to
    uint64_t reply_offset
    local_region *scratch          # slots requests being built, slots responses that were fetched, a line for the beat
    uint64_t scratch_offset
    uint32_t slot_size
    uint32_t slots
    uint32_t lookahead             # READs of different slots that are kept under way
    bint direct                    # what is posted is done at once, as over shm
    bint checked                   # prove responses by their checksum
    rfp_spin spin                  # before a waiting thread sleeps
    const uint32_t *closing        # becomes non-zero when the handle is being closed
    # state
    uint32_t head                  # next slot to submit
    uint32_t tail                  # oldest request
    uint32_t count                 # requests from tail to head
    uint32_t unsent                # the last so many of them are not posted yet
    uint32_t due                   # the first so many of the unsent ones are flushed, and wait for room in the send queue
    uint32_t writing               # signalled WRITEs that are not complete
    uint32_t sequence              # of the next request
    uint8_t lost                   # DISCONNECTED or PROTOCOL_ERROR: nothing more will come
    bint one_sided_done            # the last transfer's work requests are complete
    client_slot slot[SLOTS_MAX]
    uint64_t liveness_checked_ns   # when a waiting call last asked whether the server lives, ns
    # the server's beat, where only its machine's silence would tell of its end
    remote_region *heartbeat       # NULL: the operating system tells
    bint reading_heartbeat         # a READ of it is under way
    uint64_t last_heartbeat        # what the last one brought
    uint64_t silence_ns_max        # ns
    uint64_t silence_ns            # ns for which this thread has listened and nothing new came
    # pins to release with the next requests
    uint64_t release[SLOTS_MAX]
    uint32_t releases
    # which way results come back
    uint8_t paradigm
    uint8_t mode                   # of the next request
    uint32_t fetch                 # F: bytes of the first READ
    bint fixed_fetch               # F was given, do not adjust it
    uint32_t retries               # R: failed fetches that are fine
    uint32_t polls_per_round_trip  # looks that fit into one round trip: failed fetches = looks / this
    uint32_t slow                  # completions in a row with more than R
    uint32_t fast                  # completions in a row in reply mode that would have been quick to fetch
    uint16_t slow_time             # what the server reported when the ring went to reply
    float rate[SIZES]              # I(F) by lines, relative
    uint32_t sizes[SIZES]          # responses seen, by lines
    uint32_t sized
    # counters
    uint64_t submitted
    uint64_t reads                 # READs of responses
    uint64_t writes                # WRITEs of requests and WAITs
    uint64_t tail_reads            # second READs
    uint64_t torn
    uint64_t switches              # of mode
    uint64_t slept
    uint64_t missed_wakeups        # sleeps that lasted to their end although the response was there: a wake-up was lost

cdef char *client_ring_payload(client_ring *ring) noexcept nogil
cdef uint32_t client_ring_room(client_ring *ring) noexcept nogil
cdef uint32_t client_ring_submit(client_ring *ring, uint8_t opcode, uint16_t count, uint32_t flags, uint32_t length,
                                 uint64_t tag) noexcept nogil
cdef void client_ring_flush(client_ring *ring) noexcept nogil
cdef int client_ring_step(client_ring *ring) noexcept nogil
cdef const rfp_response_header *client_ring_response(client_ring *ring) noexcept nogil
cdef uint64_t client_ring_tag(client_ring *ring) noexcept nogil
cdef void client_ring_pop(client_ring *ring) noexcept nogil
# The same for one that nobody waits for: gives back the pin that its response may hold.
cdef void client_ring_discard(client_ring *ring) noexcept nogil
cdef void client_ring_abandon(client_ring *ring) noexcept nogil
cdef void client_ring_release(client_ring *ring, uint64_t pin) noexcept nogil
# Takes completions: for whoever waits for something else than a response.
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

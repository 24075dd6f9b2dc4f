"""The server's end of a ring: takes and checks requests, publishes responses, replies to and
notifies the client."""

from libc.string cimport memset

from rfp.core.core cimport RFP_ASSERT, rfp_fence_full, rfp_load32
from rfp.core.limits cimport RFP_LINE
from rfp.fabric.fabric cimport SIGNALED, WRITE, WRITE_NOTIFY, completion, work_request
from rfp.protocol.wire cimport (
    RFP_MODE_REPLY, RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER, RFP_TAKE_NONE, RFP_TAKE_VALID,
    rfp_next_sequence, rfp_request_header, rfp_request_take, rfp_response_publish,
)

from rfp.errors import InvalidArgument


cdef enum:
    # unfinished polls of one request before the worker polls the ring less often
    UNFINISHED_POLLS_MAX = 64
    SKIPPED_TURNS_MAX = 1024  # polls of the ring


cdef int ring_take(server_ring *ring, uint32_t index, char *copy, request *taken) noexcept nogil:
    """Copies the request `index` places behind the next one into `copy`; returns RFP_TAKE_*.

    The ring's head stays: ring_publish advances it.
    """
    cdef uint32_t slot = ring.head + index
    cdef uint32_t sequence = ring.sequence
    cdef uint32_t i
    cdef int found
    RFP_ASSERT(index < ring.slots)
    RFP_ASSERT(ring.head < ring.slots)
    if ring.skip:
        ring.skip -= 1
        return RFP_TAKE_NONE
    if slot >= ring.slots:
        slot -= ring.slots
    for i in range(index):
        sequence = rfp_next_sequence(sequence)
    found = rfp_request_take(ring.requests + <uint64_t> slot * ring.slot_size, ring.slot_size,
                             sequence, copy)
    if found != RFP_TAKE_VALID:
        if found != RFP_TAKE_NONE and index == 0:
            # Most likely still arriving.  But a client that leaves a damaged request in the slot
            # must not cost the other clients a checksum at every poll.
            if ring.unfinished < UNFINISHED_POLLS_MAX + SKIPPED_TURNS_MAX:
                ring.unfinished += 1
            if ring.unfinished == UNFINISHED_POLLS_MAX:
                ring.malformed += 1
            if ring.unfinished >= UNFINISHED_POLLS_MAX:
                ring.skip = ring.unfinished - UNFINISHED_POLLS_MAX + 1
        return found
    cdef rfp_request_header *header = <rfp_request_header *> copy
    if index == 0:
        # Not damaged, only late (its sender was descheduled while it wrote): take the count back.
        ring.malformed -= ring.unfinished >= UNFINISHED_POLLS_MAX
        ring.unfinished = 0
    taken.session = &ring.session
    taken.opcode = header.opcode
    taken.count = header.count
    taken.flags = header.flags
    taken.length = header.length
    taken.payload = copy + RFP_REQUEST_HEADER
    taken.release = header.release
    return RFP_TAKE_VALID


cdef void ring_publish(server_ring *ring, const char *copy, uint32_t length, uint64_t ns,
                       uint8_t status, uint8_t kind, uint64_t result) noexcept nogil:
    """Publishes the response to the next request (`copy` is that request) and advances the head by
    one.

    The response slot contains the payload already.  In reply mode the function also sends the
    response.
    """
    cdef uint64_t offset = <uint64_t> ring.head * ring.slot_size
    RFP_ASSERT(ring.head < ring.slots)
    RFP_ASSERT(length <= ring.slot_size - RFP_RESPONSE_HEADER)
    rfp_response_publish(ring.responses + offset, ring.sequence, length, ns, status, kind, result,
                         ring.checked)
    ring.served += 1
    if (<const rfp_request_header *> copy).mode == RFP_MODE_REPLY:
        reply(ring, offset, length)
    ring.sequence = rfp_next_sequence(ring.sequence)
    ring.head += 1
    if ring.head == ring.slots:
        ring.head = 0


cdef void reply(server_ring *ring, uint64_t offset, uint32_t length) noexcept nogil:
    """Sends the response at this offset: first everything but its first eight bytes, then those,
    which make it valid."""
    cdef work_request work[2]
    memset(work, 0, sizeof(work))
    work[0].opcode = WRITE
    work[0].length = RFP_RESPONSE_HEADER - 8 + length
    work[0].local_offset = ring.response_offset + offset + 8
    work[0].remote_offset = ring.reply_offset + offset + 8
    work[1].opcode = WRITE_NOTIFY
    work[1].length = 8
    work[1].local_offset = ring.response_offset + offset
    work[1].remote_offset = ring.reply_offset + offset
    RFP_ASSERT(offset < <uint64_t> ring.slots * ring.slot_size)
    ring.replied += 1
    send(ring, work, 2)


cdef void ring_notify(server_ring *ring, uint32_t count) noexcept nogil:
    """Wakes the client if it waits for one of the last `count` responses.

    The client writes `wait` and then reads the response; the server publishes the response and then
    reads `wait`.  Each side has a fence in between, so at least one of them sees the other's store,
    and no wake-up is lost.
    """
    cdef uint32_t slot, i
    cdef uint32_t sequence
    cdef const rfp_request_header *header
    cdef work_request work[1]
    if ring.reply == NULL:
        return
    RFP_ASSERT(count <= ring.slots)
    rfp_fence_full()
    for i in range(count):
        slot = ring.head + ring.slots - 1 - i
        if slot >= ring.slots:
            slot -= ring.slots
        header = <const rfp_request_header *> (ring.requests + <uint64_t> slot * ring.slot_size)
        sequence = rfp_load32(&header.wait)
        # Any value but 0 is accepted: a client that writes a wrong value wakes only itself.
        if sequence != 0:
            memset(work, 0, sizeof(work))
            work[0].opcode = WRITE_NOTIFY
            work[0].length = 8
            work[0].local_offset = ring.response_offset + <uint64_t> slot * ring.slot_size
            work[0].remote_offset = ring.notify_offset
            ring.notified += 1
            send(ring, work, 1)
            return


cdef void send(server_ring *ring, work_request *work, int n) noexcept nogil:
    """Posts WRITEs to the client.  Only the last one is signalled, so each call costs one
    completion."""
    cdef int i
    RFP_ASSERT(n > 0)
    if ring.broken:
        return
    for i in range(n):
        ring.posted += 1
        work[i].id = ring.posted
        work[i].local = ring.response_region
        work[i].remote = ring.reply
    work[n - 1].flags = SIGNALED
    # ring_room has made sure that there is room.  WRITEs that the queue pair refuses now will never
    # be accepted.
    if ring.pair.ops.post(ring.pair, work, n) < n:
        ring.broken = True
        return
    ring.replies += 1
    ring_complete(ring)


cdef uint32_t ring_room(server_ring *ring) noexcept nogil:
    """Returns how many requests may be served now: each needs room for the two WRITEs of a reply
    and one notification.

    A client that takes its replies too slowly delays only itself: its requests stay in the ring,
    and the worker continues.
    """
    cdef uint32_t posts = max(<uint32_t> 1, ring.pair.depth // 3)
    ring_complete(ring)
    if ring.broken:
        return posts                # there will be no replies
    return posts - min(posts, ring.replies)


cdef void ring_complete(server_ring *ring) noexcept nogil:
    """Takes the completions of replies.  On an emulated network, this call also makes the replies
    progress."""
    cdef completion done[REAPED_MAX]
    cdef int n, i
    n = ring.pair.ops.poll(ring.pair, done, REAPED_MAX)
    RFP_ASSERT(n <= REAPED_MAX)
    for i in range(n):
        if done[i].status != 0:
            ring.broken = True
        if ring.replies:
            ring.replies -= 1


cdef class ServerRing:
    """The server's end of one client thread's ring to one worker.

    Args:
        requests, request_offset: the server's region with this ring's request slots, and their
            offset in it (bytes).
        responses, response_offset: the same for the response slots.
        staging: the server's region for large values, or None.
        pair: queue pair to the client.
        reply, reply_offset, notify_offset: the client's region, with the offsets (bytes) of this
            ring's reply slots and of its notification line.
        slots, slot_size: number of slots; bytes of each, a multiple of 64.
        checked: whether responses carry a checksum.
        peer: number of the client.
        process: PID of the client's process as the kernel reports it, or 0.

    Raises:
        ValueError: invalid ring geometry, or the slots do not fit into a region.
    """

    def __cinit__(self, Region requests not None, uint64_t request_offset,
                  Region responses not None, uint64_t response_offset, Region staging,
                  QueuePair pair not None, RemoteRegion reply not None, uint64_t reply_offset,
                  uint64_t notify_offset, uint32_t slots, uint32_t slot_size, bint checked,
                  uint64_t peer=0, uint32_t process=0):
        cdef uint64_t length = <uint64_t> slots * slot_size
        if slots < 1 or slot_size < 2 * RFP_REQUEST_HEADER or slot_size % RFP_LINE:
            raise InvalidArgument(f"invalid ring geometry: {slots} slots of {slot_size} bytes",
                                  hint=f"use at least 1 slot of a multiple of {RFP_LINE} bytes")
        for name, size, offset in (("request", requests.c.length, request_offset),
                                   ("response", responses.c.length, response_offset),
                                   ("reply", reply.c.length, reply_offset)):
            if offset % RFP_LINE or offset > size or length > size - offset:
                raise InvalidArgument(f"the ring's {name} slots ({length} bytes at "
                                      f"{offset}) do not fit into {size} bytes")
        if notify_offset % 8 or notify_offset > reply.c.length \
                or reply.c.length - notify_offset < 8:
            raise InvalidArgument(f"the notification line at {notify_offset} does "
                                  f"not fit into {reply.c.length} bytes")
        self.requests = requests
        self.responses = responses
        self.staging = staging
        self.reply = reply
        self.pair = pair
        memset(&self.c, 0, sizeof(self.c))
        self.c.requests = requests.c.base + request_offset
        self.c.response_region = &responses.c
        self.c.response_offset = response_offset
        self.c.responses = responses.c.base + response_offset
        self.c.slot_size = slot_size
        self.c.slots = slots
        self.c.checked = checked
        self.c.pair = &pair.c
        self.c.reply = &reply.c
        self.c.reply_offset = reply_offset
        self.c.notify_offset = notify_offset
        self.c.sequence = 1
        self.c.session.peer = peer
        self.c.session.process = process
        if staging is not None:
            self.c.session.staging = staging.c.base
            self.c.session.staging_length = staging.c.length

    @property
    def counters(self):
        """Counters of this ring, by name.  The worker continues meanwhile, so they are not one
        exact point in time."""
        return {"served": self.c.served, "replied": self.c.replied, "notified": self.c.notified,
                "malformed": self.c.malformed}

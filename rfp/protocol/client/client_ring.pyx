"""The client's end of a ring: builds and posts requests, fetches responses, frees slots.

The hybrid switch and the choice of F (RFP, section 3.2) are choose_mode() and choose_fetch().
"""

import os

from libc.string cimport memcpy, memset

from rfp.core.core cimport RFP_ASSERT, rfp_copy_in, rfp_load64_acquire, rfp_pause
from rfp.core.limits cimport RFP_LINE, RFP_SIZE_CLASSES, RFP_SLOTS_MAX
from rfp.fabric.fabric cimport READ, SIGNALED, WRITE, WRITE_NOTIFY, completion, work_request
from rfp.protocol.wire cimport (
    RFP_KIND_REFERENCE, RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_OPCODE_PING, RFP_REFERENCE,
    RFP_REQUEST_HEADER,
    RFP_RESPONSE_HEADER, RFP_RESPONSE_LENGTH, RFP_RESPONSE_MORE, RFP_RESPONSE_NONE,
    RFP_RESPONSE_TORN, RFP_RESPONSE_WHOLE, rfp_next_sequence, rfp_reference, rfp_request_header,
    rfp_request_seal, rfp_response_check, rfp_response_header,
)

from rfp.errors import InvalidArgument


cdef enum:
    COMPLETIONS_MAX = 32
    BURST_MAX = 16               # WRITEs of requests that are posted at once
    REAP_STEPS_MAX = 10000       # steps of a call that tries to free a slot
    RETUNE_RESPONSES = 1024      # responses between two choices of F
    REPLY_STAY_RESPONSES = 1024  # completions in reply mode before fetching is tried again


cdef inline char *request_buffer(client_ring *ring, uint32_t slot) noexcept nogil:
    return ring.scratch.base + client_ring_request_offset(ring, slot)


cdef inline char *response_buffer(client_ring *ring, uint32_t slot) noexcept nogil:
    return ring.scratch.base + client_ring_response_offset(ring, slot)


# Requests


cdef char *client_ring_payload(client_ring *ring) noexcept nogil:
    if ring.count == ring.slots and ring.slot[ring.tail].abandoned:
        reap(ring)
    if ring.count == ring.slots or ring.lost:
        return NULL
    return request_buffer(ring, ring.head) + RFP_REQUEST_HEADER


cdef void reap(client_ring *ring) noexcept nogil:
    """Free the oldest slot if the response to its abandoned request has come."""
    cdef uint32_t polls_required = ring.slot[ring.tail].polls + 2
    cdef int i
    for i in range(REAP_STEPS_MAX):
        client_ring_step(ring)
        if ring.count < ring.slots or ring.slot[ring.tail].polls >= polls_required or ring.lost:
            return
        rfp_pause()


cdef uint32_t client_ring_room(client_ring *ring) noexcept nogil:
    return ring.slots - ring.count


cdef uint32_t client_ring_submit(client_ring *ring, uint8_t opcode, uint16_t count, uint32_t flags,
                                 uint32_t length, uint64_t tag) noexcept nogil:
    """Seal the request whose payload was just built; return its sequence number."""
    cdef char *request = request_buffer(ring, ring.head)
    cdef rfp_request_header *header = <rfp_request_header *> request
    cdef client_slot *slot = &ring.slot[ring.head]
    RFP_ASSERT(ring.count < ring.slots)
    RFP_ASSERT(length <= ring.slot_size - RFP_REQUEST_HEADER)
    header.sequence = ring.sequence
    header.length = length
    header.opcode = opcode
    header.mode = ring.mode
    header.count = count
    header.flags = flags
    header.release = 0
    if ring.releases:
        ring.releases -= 1
        header.release = ring.release[ring.releases]
    rfp_request_seal(request)
    slot.tag = tag
    slot.mode = ring.mode
    slot.abandoned = False
    slot.wakeup_requested = False
    slot.stage = IDLE
    slot.sequence = ring.sequence
    slot.polls = 0
    ring.sequence = rfp_next_sequence(ring.sequence)
    ring.head += 1
    if ring.head == ring.slots:
        ring.head = 0
    ring.count += 1
    ring.unsent += 1
    ring.submitted += 1
    return slot.sequence


cdef void client_ring_flush(client_ring *ring) noexcept nogil:
    """Post all submitted requests, with one notification for all of them.

    Later steps post the requests that find no room in the send queue.
    """
    RFP_ASSERT(ring.unsent <= ring.count)
    ring.due = ring.unsent
    post_requests(ring)


cdef void post_requests(client_ring *ring) noexcept nogil:
    """Post the flushed requests, as far as the send queue has room."""
    cdef work_request work[BURST_MAX]
    cdef uint32_t slot
    cdef uint32_t n, posted
    cdef const rfp_request_header *header
    RFP_ASSERT(ring.due <= ring.unsent)
    while ring.due and not ring.lost:
        n = 0
        while n < BURST_MAX and n < ring.due:
            slot = ring.head + ring.slots - ring.unsent + n
            if slot >= ring.slots:
                slot -= ring.slots
            work[n].id = ring.slot[slot].sequence
            work[n].opcode = WRITE
            work[n].flags = 0
            work[n].local = ring.scratch
            work[n].local_offset = client_ring_request_offset(ring, slot)
            work[n].remote = ring.requests
            work[n].remote_offset = ring.request_offset + <uint64_t> slot * ring.slot_size
            header = <const rfp_request_header *> request_buffer(ring, slot)
            work[n].length = RFP_REQUEST_HEADER + header.length
            n += 1
        if n == ring.due:
            work[n - 1].opcode = WRITE_NOTIFY
        if not ring.direct:
            # Signal the last WRITE: a thread must not sleep before it completes, because a
            # provider makes progress only in poll().
            work[n - 1].flags = SIGNALED
        posted = <uint32_t> ring.pair.ops.post(ring.pair, work, n)
        RFP_ASSERT(posted <= n)
        ring.unsent -= posted
        ring.due -= posted
        ring.writes += posted
        if posted < n:
            client_ring_poll_completions(ring)
            return
        if not ring.direct:
            ring.writing += 1


# Responses


cdef void post_first_read(client_ring *ring, uint32_t index) noexcept nogil:
    """Post the READ that checks the status and fetches the result in one.

    If the send queue has no room, a later step posts it.
    """
    cdef work_request work
    cdef client_slot *slot = &ring.slot[index]
    RFP_ASSERT(slot.stage == IDLE)
    RFP_ASSERT(ring.fetch <= ring.slot_size)
    work.id = slot.sequence
    work.opcode = READ
    work.flags = SIGNALED
    work.length = ring.fetch
    work.local = ring.scratch
    work.local_offset = client_ring_response_offset(ring, index)
    work.remote = ring.responses
    work.remote_offset = ring.response_offset + <uint64_t> index * ring.slot_size
    if ring.pair.ops.post(ring.pair, &work, 1):
        slot.stage = READING_HEAD
        slot.fetched = ring.fetch
        ring.reads += 1


cdef void post_tail_read(client_ring *ring, uint32_t index) noexcept nogil:
    """Post the second READ, for the bytes that the first did not bring."""
    cdef work_request work
    cdef client_slot *slot = &ring.slot[index]
    cdef const rfp_response_header *header = <rfp_response_header *> response_buffer(ring, index)
    cdef uint32_t whole = RFP_RESPONSE_HEADER + header.length
    RFP_ASSERT(slot.fetched < whole)
    RFP_ASSERT(whole <= ring.slot_size)
    work.id = TAIL | slot.sequence
    work.opcode = READ
    work.flags = SIGNALED
    work.length = whole - slot.fetched
    work.local = ring.scratch
    work.local_offset = client_ring_response_offset(ring, index) + slot.fetched
    work.remote = ring.responses
    work.remote_offset = ring.response_offset + <uint64_t> index * ring.slot_size + slot.fetched
    slot.stage = TAIL_DEFERRED
    if ring.pair.ops.post(ring.pair, &work, 1):
        slot.stage = READING_TAIL
        ring.reads += 1
        ring.tail_reads += 1


cdef void on_read_done(client_ring *ring, uint32_t index, bint tail) noexcept nogil:
    """Check the response after a READ of its slot has completed."""
    cdef client_slot *slot = &ring.slot[index]
    cdef char *copy = response_buffer(ring, index)
    cdef uint32_t available = ring.slot_size if tail else slot.fetched
    cdef int check = rfp_response_check(copy, available, ring.slot_size, slot.sequence,
                                        ring.checked)
    RFP_ASSERT(index < ring.slots)
    RFP_ASSERT(available <= ring.slot_size)
    if check == RFP_RESPONSE_WHOLE:
        slot.stage = READY
    elif check == RFP_RESPONSE_NONE:
        slot.polls += 1
        slot.stage = IDLE
    elif check == RFP_RESPONSE_MORE:
        post_tail_read(ring, index)
    elif check == RFP_RESPONSE_TORN:
        ring.torn += 1
        slot.polls += 1
        slot.stage = IDLE
    else:
        ring.lost = PROTOCOL_ERROR


cdef void client_ring_poll_completions(client_ring *ring) noexcept nogil:
    """Take completions and act on each."""
    cdef completion done[COMPLETIONS_MAX]
    cdef int n, i
    cdef uint32_t index, distance
    n = ring.pair.ops.poll(ring.pair, done, COMPLETIONS_MAX)
    RFP_ASSERT(n <= COMPLETIONS_MAX)
    for i in range(n):
        if done[i].id & ONE_SIDED:
            ring.one_sided_done = True
        if done[i].id & ONE_SIDED == 0 and done[i].id & LANDED:
            RFP_ASSERT(ring.landing > 0)
            ring.landing -= 1
        if done[i].status != 0:
            ring.lost = DISCONNECTED
            continue
        if done[i].id & (ONE_SIDED | LANDED):
            continue
        if done[i].id & HEARTBEAT:
            on_heartbeat(ring)
            continue
        if done[i].opcode != READ:
            RFP_ASSERT(ring.writing > 0)
            ring.writing -= 1
            continue
        # Sequence numbers of one ring are consecutive: the distance from the oldest one is also
        # the distance of the slots.
        distance = <uint32_t> done[i].id - ring.slot[ring.tail].sequence
        if <uint32_t> done[i].id < ring.slot[ring.tail].sequence:
            distance -= 1                                         # 0 is no sequence number
        if distance >= ring.count:
            continue
        index = ring.tail + distance
        if index >= ring.slots:
            index -= ring.slots
        on_read_done(ring, index, (done[i].id & TAIL) != 0)


cdef void check_reply(client_ring *ring, uint32_t index) noexcept nogil:
    """Poll for the response in reply mode, in which it arrives in the client's own memory."""
    cdef client_slot *slot = &ring.slot[index]
    cdef const char *reply = ring.reply.base + ring.reply_offset + <uint64_t> index * ring.slot_size
    cdef char *copy = response_buffer(ring, index)
    cdef uint64_t first = rfp_load64_acquire(reply)
    cdef uint32_t length
    cdef int check
    if <uint32_t> (first >> 32) != slot.sequence:
        slot.polls += 1
        return
    memcpy(copy, &first, 8)
    rfp_copy_in(copy + 8, reply + 8, RFP_RESPONSE_HEADER - 8)
    length = (<rfp_response_header *> copy).length
    if length <= ring.slot_size - RFP_RESPONSE_HEADER:
        rfp_copy_in(copy + RFP_RESPONSE_HEADER, reply + RFP_RESPONSE_HEADER, length)
    check = rfp_response_check(copy, ring.slot_size, ring.slot_size, slot.sequence, ring.checked)
    if check == RFP_RESPONSE_WHOLE:
        slot.stage = READY
    elif check == RFP_RESPONSE_TORN:
        ring.torn += 1
        slot.polls += 1
    elif check == RFP_RESPONSE_LENGTH:
        ring.lost = PROTOCOL_ERROR


cdef outcome client_ring_step(client_ring *ring) noexcept nogil:
    """Poll once for the response to the oldest request that a call waits for."""
    cdef client_slot *slot
    cdef uint32_t index, i
    while True:
        if ring.due:
            post_requests(ring)
        if ring.count == ring.unsent:
            return <outcome> ring.lost
        RFP_ASSERT(ring.unsent < ring.count)
        slot = &ring.slot[ring.tail]
        if slot.stage != READY:
            if slot.mode == RFP_MODE_REPLY:
                check_reply(ring, ring.tail)
            elif not ring.lost:
                index = ring.tail
                for i in range(min(ring.lookahead, ring.count - ring.unsent)):
                    if ring.slot[index].stage == IDLE and ring.slot[index].mode == RFP_MODE_FETCH:
                        post_first_read(ring, index)
                    elif ring.slot[index].stage == TAIL_DEFERRED:
                        post_tail_read(ring, index)
                    index += 1
                    if index == ring.slots:
                        index = 0
            client_ring_poll_completions(ring)
            if slot.stage == READING_TAIL:
                client_ring_poll_completions(ring)
            if slot.stage != READY:
                return <outcome> ring.lost
        elif not ring.direct:
            client_ring_poll_completions(ring)      # a provider makes progress only in poll()
        if not slot.abandoned:
            return DONE
        client_ring_discard(ring)


cdef void client_ring_discard(client_ring *ring) noexcept nogil:
    """Free the oldest request's slot and release the pin that its response holds at the server."""
    cdef const rfp_response_header *header = client_ring_response(ring)
    cdef rfp_reference reference
    if header.kind == RFP_KIND_REFERENCE and header.length >= RFP_REFERENCE:
        memcpy(&reference, <const char *> header + RFP_RESPONSE_HEADER, sizeof(reference))
        client_ring_release(ring, reference.pin)
    client_ring_pop(ring)


cdef void on_heartbeat(client_ring *ring) noexcept nogil:
    cdef uint64_t heartbeat = rfp_load64_acquire(
        ring.scratch.base + client_ring_heartbeat_offset(ring))
    ring.reading_heartbeat = False
    if heartbeat != ring.last_heartbeat:
        ring.last_heartbeat = heartbeat
        ring.silence_ns = 0


cdef const rfp_response_header *client_ring_response(client_ring *ring) noexcept nogil:
    """Return the oldest request's response after DONE: a private copy, whole and checked.

    The payload is behind the header.
    """
    return <const rfp_response_header *> response_buffer(ring, ring.tail)


cdef uint64_t client_ring_tag(client_ring *ring) noexcept nogil:
    return ring.slot[ring.tail].tag


# The way back for results: F, and the hybrid switch


cdef void choose_fetch(client_ring *ring) noexcept nogil:
    """Choose F for the sizes received lately (RFP, section 3.2).

    It has the best sum of I(F) for each result that fits, and I(F) / 2 for each that does not.
    """
    cdef uint32_t lines, i
    cdef uint32_t fitting = 0
    cdef uint32_t most = ring.slot_size // RFP_LINE
    cdef float value
    cdef float best = 0
    cdef uint32_t choice = 1
    cdef uint32_t total = 0
    for i in range(RFP_SIZE_CLASSES):
        total += ring.sizes[i]
    for lines in range(1, min(<uint32_t> RFP_SIZE_CLASSES, most + 1)):
        if lines < RFP_SIZE_CLASSES - 1 or most < RFP_SIZE_CLASSES:
            fitting += ring.sizes[lines]        # not the last class: it has longer ones too
        value = ring.rate[lines] * (fitting + (total - fitting) * <float> 0.5)
        if value > best:
            best = value
            choice = lines
    RFP_ASSERT(choice * RFP_LINE <= ring.slot_size)
    ring.fetch = choice * RFP_LINE
    # Halve older counts, so that F follows a change of the load within some thousand responses.
    for i in range(RFP_SIZE_CLASSES):
        ring.sizes[i] >>= 1
    ring.sized = 0


cdef void choose_mode(client_ring *ring, client_slot *slot,
                      const rfp_response_header *header) noexcept nogil:
    """Switch between fetch and reply mode (RFP, section 3.2).

    Two completions in a row with more than R failed fetches switch to reply mode; a shorter
    processing time switches back.  A failed fetch counts once a round trip, however often a fast
    fabric lets the client poll.
    """
    if slot.mode == RFP_MODE_FETCH:
        if slot.polls <= ring.retries * ring.polls_per_round_trip:
            ring.slow = 0
            return
        ring.slow += 1
        if ring.slow >= 2 and ring.mode == RFP_MODE_FETCH:
            ring.mode = RFP_MODE_REPLY
            ring.switches += 1
            ring.slow_time = header.time
            ring.fast = 0
    elif ring.mode == RFP_MODE_REPLY:
        if header.time > ring.slow_time:
            ring.slow_time = header.time        # the server became slower still: the new limit
            ring.fast = 0
        elif header.time < ring.slow_time // 2 + 1 and ring.slow_time > 1:
            ring.fast += REPLY_STAY_RESPONSES // 2  # the server became quicker: two such suffice
        else:
            ring.fast += 1                      # the server was not slow: fetch again after a while
        if ring.fast >= REPLY_STAY_RESPONSES and (
                header.time < ring.slow_time or ring.slow_time <= 1):
            ring.mode = RFP_MODE_FETCH
            ring.switches += 1
            ring.slow = 0


# Slots


cdef void client_ring_pop(client_ring *ring) noexcept nogil:
    """Free the oldest request's slot; the memory of client_ring_response is invalid afterwards."""
    cdef const rfp_response_header *header = client_ring_response(ring)
    cdef client_slot *slot = &ring.slot[ring.tail]
    cdef uint32_t lines = (RFP_RESPONSE_HEADER + header.length + RFP_LINE - 1) // RFP_LINE
    if ring.paradigm == AUTO:
        choose_mode(ring, slot, header)
        if not ring.fixed_fetch:
            ring.sizes[min(lines, <uint32_t> RFP_SIZE_CLASSES - 1)] += 1
            ring.sized += 1
            if ring.sized >= RETUNE_RESPONSES:
                choose_fetch(ring)
    RFP_ASSERT(ring.count > ring.unsent)
    RFP_ASSERT(slot.stage == READY)
    if slot.sequence == ring.unsettled_until:
        ring.unsettled = False
    ring.tail += 1
    if ring.tail == ring.slots:
        ring.tail = 0
    ring.count -= 1
    if ring.count == 0:
        ring.unsettled = False


cdef void client_ring_abandon(client_ring *ring) noexcept nogil:
    """Give up waiting for all requests of this ring; their slots are freed when responses come."""
    cdef uint32_t index = ring.tail
    cdef uint32_t i
    ring.unsettled = ring.count > 0
    for i in range(ring.count):
        ring.slot[index].abandoned = True
        ring.unsettled_until = ring.slot[index].sequence
        index += 1
        if index == ring.slots:
            index = 0


cdef abandoned client_ring_abandon_one(client_ring *ring, uint32_t sequence,
                                       bint changes) noexcept nogil:
    """Give up waiting for one request; its slot is freed when the response has come.

    A request that is not posted yet is replaced by a ping, because the slots of later requests
    depend on it.  changes: the request changes a value, so direct reads are not exact before its
    response has come.
    """
    cdef uint32_t index = ring.tail
    cdef uint32_t i
    cdef rfp_request_header *header
    for i in range(ring.count):
        if ring.slot[index].sequence == sequence:
            ring.slot[index].abandoned = True
            if i >= ring.count - ring.unsent:
                header = <rfp_request_header *> request_buffer(ring, index)
                client_ring_release(ring, header.release)    # a worker releases none for a ping
                header.release = 0
                header.opcode = RFP_OPCODE_PING
                header.count = 0
                header.flags = 0
                header.length = 0
                rfp_request_seal(<char *> header)
                return NOT_POSTED
            if changes:
                ring.unsettled = True
                ring.unsettled_until = newer(ring, ring.unsettled_until, sequence)
            return POSTED
        index += 1
        if index == ring.slots:
            index = 0
    return NOT_IN_RING


cdef uint32_t newer(client_ring *ring, uint32_t a, uint32_t b) noexcept nogil:
    """Return the later of two requests; one that is not in the ring any more is the earlier."""
    cdef uint32_t index = ring.tail
    cdef uint32_t latest = b
    cdef uint32_t i
    for i in range(ring.count):
        if ring.slot[index].sequence == a or ring.slot[index].sequence == b:
            latest = ring.slot[index].sequence
        index += 1
        if index == ring.slots:
            index = 0
    return latest


cdef void client_ring_release(client_ring *ring, uint64_t pin) noexcept nogil:
    """Release a pin with one of the next requests; a pin that finds no room ends with its lease."""
    if pin and ring.releases < RFP_SLOTS_MAX:
        ring.release[ring.releases] = pin
        ring.releases += 1


# The object


cdef class ClientRing:
    """The client's end of one thread's ring to one worker.

    Args:
        requests, responses: the server's regions, with the offsets of this ring's slots in each.
        reply: own region that the server may write, with the offset of this ring's reply slots.
        scratch: own region, with the offset of scratch_bytes(slots, slot_size) bytes.
        checked: whether the server adds checksums to responses.
        heartbeat: the server's region whose first word is its heartbeat; None if none is needed.
        silence_ns_max: ns without a new heartbeat after which the connection counts as lost.

    Raises:
        InvalidArgument: the geometry is invalid, or the slots do not fit into a region.
    """

    def __cinit__(self, QueuePair pair not None, EventChannel channel not None,
                  RemoteRegion requests not None, uint64_t request_offset,
                  RemoteRegion responses not None, uint64_t response_offset,
                  Region reply not None, uint64_t reply_offset,
                  Region scratch not None, uint64_t scratch_offset,
                  uint32_t slots, uint32_t slot_size, bint checked,
                  RemoteRegion heartbeat=None, uint64_t silence_ns_max=900_000_000):
        cdef uint64_t length = <uint64_t> slots * slot_size
        cdef uint32_t i
        if not 1 <= slots <= RFP_SLOTS_MAX or \
                slot_size < 2 * RFP_REQUEST_HEADER or slot_size % RFP_LINE:
            raise InvalidArgument(f"invalid ring geometry: {slots} slots of {slot_size} bytes",
                                  hint=f"use 1 to {RFP_SLOTS_MAX} slots of a "
                                       f"multiple of {RFP_LINE} bytes")
        for name, size, offset, needed in (
                ("request", requests.c.length, request_offset, length),
                ("response", responses.c.length, response_offset, length),
                ("reply", reply.c.length, reply_offset, length),
                ("scratch", scratch.c.length, scratch_offset, scratch_bytes(slots, slot_size))):
            if offset % RFP_LINE or offset > size or needed > size - offset:
                raise InvalidArgument(f"the ring's {name} slots ({needed} bytes at "
                                      f"{offset}) do not fit into {size} bytes")
        self.pair = pair
        self.channel = channel
        self.requests = requests
        self.responses = responses
        self.reply = reply
        self.scratch = scratch
        self.heartbeat = heartbeat
        memset(&self.c, 0, sizeof(self.c))
        self.c.pair = &pair.c
        self.c.channel = &channel.c
        self.c.requests = &requests.c
        self.c.request_offset = request_offset
        self.c.responses = &responses.c
        self.c.response_offset = response_offset
        self.c.reply = &reply.c
        self.c.reply_offset = reply_offset
        self.c.scratch = &scratch.c
        self.c.scratch_offset = scratch_offset
        self.c.heartbeat = NULL if heartbeat is None else &heartbeat.c
        self.c.silence_ns_max = silence_ns_max
        self.c.slots = slots
        self.c.slot_size = slot_size
        self.c.checked = checked or not pair.c.reads_ordered
        # If a READ completes at once, polling beyond the oldest request only costs time.
        self.c.direct = pair.c.max_inline == ~<uint32_t> 0
        self.c.lookahead = 1 if self.c.direct else max(1, min(pair.c.max_outstanding_reads, slots))
        self.c.spin.ns = 20_000 if os.cpu_count() > 1 else 0
        self.c.closing = &not_closing
        self.c.sequence = 1
        self.c.mode = RFP_MODE_FETCH
        self.c.fetch = min(<uint32_t> 256, slot_size)
        self.c.retries = 5
        self.c.polls_per_round_trip = 16
        for i in range(RFP_SIZE_CLASSES):
            self.c.rate[i] = 1.0 / (1.0 + 0.05 * i)

    @property
    def counters(self):
        """Return the counters of this ring, by name."""
        return {"submitted": self.c.submitted, "reads": self.c.reads, "writes": self.c.writes,
                "tail_reads": self.c.tail_reads, "torn": self.c.torn, "switches": self.c.switches,
                "slept": self.c.slept, "missed_wakeups": self.c.missed_wakeups,
                "fetch": self.c.fetch, "slot_size": self.c.slot_size,
                "mode": "reply" if self.c.mode == RFP_MODE_REPLY else "fetch"}


cdef uint32_t not_closing = 0


def scratch_bytes(uint64_t slots, uint64_t slot_size):
    """Return the bytes of scratch memory that a ring needs (see the head of client_ring.pxd)."""
    return 2 * slots * slot_size + RFP_LINE

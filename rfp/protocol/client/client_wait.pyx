"""Waiting for a response: spinning, sleeping, asking whether the server lives (the contract is in client_wait.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport (
    rfp_fence_full, rfp_load32, rfp_now, rfp_pause, rfp_spin_lost, rfp_spin_ns, rfp_spin_won,
)
from rfp.fabric.fabric cimport READ, SIGNALED, WRITE, work_request
from rfp.protocol.client.client_ring cimport (
    CLOSED, DISCONNECTED, DONE, HEARTBEAT, IDLE, PENDING, TIMED_OUT, client_ring_step, client_slot,
)
from rfp.protocol.wire cimport RFP_MODE_FETCH, RFP_MODE_REPLY, rfp_request_header

cdef enum:
    WAIT = 4                    # offset of the word in a request's header


cdef void request_wakeup(client_ring *ring) noexcept nogil:
    """Writes WAIT into the oldest request's slot: the server then notifies when it has published."""
    cdef work_request work
    cdef uint64_t at = <uint64_t> ring.tail * ring.slot_size + WAIT
    # From its own place in our copy of the request: that stays as it is until the response has come, however late a device
    # reads it; and a request that carries it already says the same.
    (<rfp_request_header *> (ring.scratch.base + ring.scratch_offset + at - WAIT)).wait = ring.slot[ring.tail].sequence
    work.id = ring.slot[ring.tail].sequence
    work.opcode = WRITE
    work.flags = 0
    work.length = 4
    work.local = ring.scratch
    work.local_offset = ring.scratch_offset + at
    work.remote = ring.requests
    work.remote_offset = ring.request_offset + at
    if ring.pair.ops.post(ring.pair, &work, 1):
        ring.slot[ring.tail].wakeup_requested = True
        ring.writes += 1


cdef void post_heartbeat_read(client_ring *ring) noexcept nogil:
    """Starts a READ of the server's beat, if there is room for it."""
    cdef work_request work
    work.id = HEARTBEAT
    work.opcode = READ
    work.flags = SIGNALED
    work.length = 8
    work.local = ring.scratch
    work.local_offset = ring.scratch_offset + <uint64_t> 2 * ring.slots * ring.slot_size
    work.remote = ring.heartbeat
    work.remote_offset = 0
    ring.reading_heartbeat = ring.pair.ops.post(ring.pair, &work, 1) == 1


cdef bint client_ring_check_alive(client_ring *ring, uint64_t now) noexcept nogil:
    """Whether the server still lives, for all that can be known; to be asked about once in STEP.

    What tells of its process is asked first.  Where nothing tells of its machine, its beat must go on: a READ of it that does
    not come back counts as much as one that brings nothing new.  Only time in which this thread looked counts.
    """
    cdef uint64_t since = now - ring.liveness_checked_ns
    ring.liveness_checked_ns = now
    if not ring.pair.ops.alive(ring.pair):
        return False
    if ring.heartbeat == NULL:
        return True
    ring.silence_ns += min(since, <uint64_t> 2 * SLEEP_NS_MAX)
    if not ring.reading_heartbeat:
        post_heartbeat_read(ring)
    return ring.silence_ns < ring.silence_ns_max


cdef int client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil:
    """Waits for the oldest request that somebody waits for; deadline: ns of the monotonic clock, 0 for none.

    Spins for a while, then sleeps in bounded steps; as often as that it asks the operating system whether the server still
    lives.  The clock is not read before the first 16 looks: most responses are there by then.

    Before it sleeps it arms the event channel, writes WAIT, and then takes one more look that began after both: without it a
    response published in between would be slept through.  WAIT before the look, here as at the server publishing before
    looking for WAIT: one of the two sees the other.
    """
    cdef client_slot *slot
    cdef uint32_t polls = 0
    cdef uint64_t now
    cdef uint64_t sleep_from = 0
    cdef uint64_t step
    cdef bint arming = False
    cdef uint32_t armed = 0
    cdef uint32_t sequence = 0            # of the oldest request when the channel was armed
    cdef uint32_t enough = 0              # its looks when one has begun after that
    cdef uint64_t torn = 0
    cdef bint slept_in_vain = False       # a whole step was slept
    cdef uint64_t spin = rfp_spin_ns(&ring.spin)
    cdef bint slept = False
    cdef int found
    while True:
        found = client_ring_step(ring)
        if found != PENDING:
            break
        slept_in_vain = False
        polls += 1
        rfp_pause()
        if polls & 15 and spin and not arming:
            continue
        now = rfp_now()
        if deadline and now >= deadline:
            found = TIMED_OUT
            break
        if rfp_load32(ring.closing):
            found = CLOSED
            break
        if sleep_from == 0:
            sleep_from = now + spin
        if now - ring.liveness_checked_ns >= SLEEP_NS_MAX and not client_ring_check_alive(ring, now):
            # It may have answered before it died.
            found = client_ring_step(ring)
            if found == PENDING:
                ring.lost = found = DISCONNECTED
            break
        # What is posted must have landed before anybody sleeps.
        if now < sleep_from or ring.due or ring.writing:
            continue
        slot = &ring.slot[ring.tail]
        if arming and (slot.sequence != sequence or ring.torn != torn):
            # Another is the oldest now, and was not told; or the response is there but was caught in the making.
            ring.channel.ops.cancel_wait(ring.channel)
            arming = False
        if not slept:
            slept = True
            rfp_spin_lost(&ring.spin)
        if not arming:
            armed = ring.channel.ops.prepare_wait(ring.channel)
            arming = True
            sequence = slot.sequence
            torn = ring.torn
            enough = slot.polls + (1 if slot.stage == IDLE else 2)
            if slot.mode == RFP_MODE_REPLY:
                enough = slot.polls + 1
            elif not slot.wakeup_requested:
                request_wakeup(ring)
            rfp_fence_full()
            continue
        if slot.mode == RFP_MODE_FETCH and not slot.wakeup_requested:
            # There was no room for it.
            request_wakeup(ring)
            enough = slot.polls + 2
            rfp_fence_full()
            continue
        if slot.polls < enough:
            continue
        step = SLEEP_NS_MAX
        if deadline and deadline - now < step:
            step = deadline - now
        ring.slept += 1
        # Awake it would have looked in vain more often than is fine: choose_mode is to know.
        slot.polls += ring.retries * ring.polls_per_round_trip + 1
        slept_in_vain = not ring.channel.ops.wait(ring.channel, armed, step) and step == SLEEP_NS_MAX
        arming = False
    if arming:
        ring.channel.ops.cancel_wait(ring.channel)
    if spin and not slept and found == DONE:
        rfp_spin_won(&ring.spin)
    ring.missed_wakeups += slept_in_vain and found == DONE
    return found

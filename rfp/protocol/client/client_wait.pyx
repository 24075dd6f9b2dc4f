# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Waiting for a response: spinning, sleeping, asking whether the server lives (the contract is in client_wait.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport (
    rfp_fence_full, rfp_load32, rfp_now, rfp_pause, rfp_spin_lost, rfp_spin_ns, rfp_spin_won,
)
from rfp.fabric.fabric cimport READ, SIGNALED, WRITE, work_request
from rfp.protocol.client.client_ring cimport (
    BEAT, CLOSED, DONE, GONE, LOOK, NOT_YET, TIMED_OUT, client_ring_step, client_slot,
)
from rfp.protocol.wire cimport RFP_MODE_FETCH, RFP_MODE_REPLY, rfp_request_header

cdef enum:
    WAIT = 4                    # offset of the word in a request's header


cdef void tell(client_ring *ring) noexcept nogil:
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
        ring.slot[ring.tail].told = True
        ring.writes += 1


cdef void listen(client_ring *ring) noexcept nogil:
    """Starts a READ of the server's beat, if there is room for it."""
    cdef work_request work
    work.id = BEAT
    work.opcode = READ
    work.flags = SIGNALED
    work.length = 8
    work.local = ring.scratch
    work.local_offset = ring.scratch_offset + <uint64_t> 2 * ring.slots * ring.slot_size
    work.remote = ring.beat
    work.remote_offset = 0
    ring.listening = ring.pair.ops.post(ring.pair, &work, 1) == 1


cdef bint client_ring_lives(client_ring *ring, uint64_t now) noexcept nogil:
    """Whether the server still lives, for all that can be known; to be asked about once in STEP.

    What tells of its process is asked first.  Where nothing tells of its machine, its beat must go on: a READ of it that does
    not come back counts as much as one that brings nothing new.  Only time in which this thread looked counts.
    """
    cdef uint64_t since = now - ring.asked
    ring.asked = now
    if not ring.pair.ops.alive(ring.pair):
        return False
    if ring.beat == NULL:
        return True
    ring.silence += min(since, <uint64_t> 2 * STEP)
    if not ring.listening:
        listen(ring)
    return ring.silence < ring.longest_silence


cdef int client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil:
    """Waits for the oldest request that somebody waits for; deadline: ns of the monotonic clock, 0 for none.

    Spins for a while, then sleeps in bounded steps; as often as that it asks the operating system whether the server still
    lives.  The clock is not read before the first 16 looks: most responses are there by then.

    Before it sleeps it arms the event channel, writes WAIT, and then takes one more look that began after both: without it a
    response published in between would be slept through.  WAIT before the look, here as at the server publishing before
    looking for WAIT: one of the two sees the other.
    """
    cdef client_slot *slot
    cdef uint32_t looks = 0
    cdef uint64_t now
    cdef uint64_t sleep_from = 0
    cdef uint64_t step
    cdef bint arming = False
    cdef uint32_t armed = 0
    cdef uint32_t sequence = 0            # of the oldest request when the channel was armed
    cdef uint32_t enough = 0              # its looks when one has begun after that
    cdef uint64_t torn = 0
    cdef bint late = False                # a whole step was slept
    cdef uint64_t spin = rfp_spin_ns(&ring.spin)
    cdef bint slept = False
    cdef int found
    while True:
        found = client_ring_step(ring)
        if found != NOT_YET:
            break
        late = False
        looks += 1
        rfp_pause()
        if looks & 15 and spin and not arming:
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
        if now - ring.asked >= STEP and not client_ring_lives(ring, now):
            # It may have answered before it died.
            found = client_ring_step(ring)
            if found == NOT_YET:
                ring.lost = found = GONE
            break
        # What is posted must have landed before anybody sleeps.
        if now < sleep_from or ring.due or ring.writing:
            continue
        slot = &ring.slot[ring.tail]
        if arming and (slot.sequence != sequence or ring.torn != torn):
            # Another is the oldest now, and was not told; or the response is there but was caught in the making.
            ring.channel.ops.disarm(ring.channel)
            arming = False
        if not slept:
            slept = True
            rfp_spin_lost(&ring.spin)
        if not arming:
            armed = ring.channel.ops.arm(ring.channel)
            arming = True
            sequence = slot.sequence
            torn = ring.torn
            enough = slot.looks + (1 if slot.stage == LOOK else 2)
            if slot.mode == RFP_MODE_REPLY:
                enough = slot.looks + 1
            elif not slot.told:
                tell(ring)
            rfp_fence_full()
            continue
        if slot.mode == RFP_MODE_FETCH and not slot.told:
            # There was no room for it.
            tell(ring)
            enough = slot.looks + 2
            rfp_fence_full()
            continue
        if slot.looks < enough:
            continue
        step = STEP
        if deadline and deadline - now < step:
            step = deadline - now
        ring.slept += 1
        # Awake it would have looked in vain more often than is fine: choose_mode is to know.
        slot.looks += ring.retries * ring.looks_per_trip + 1
        late = not ring.channel.ops.sleep(ring.channel, armed, step) and step == STEP
        arming = False
    if arming:
        ring.channel.ops.disarm(ring.channel)
    if spin and not slept and found == DONE:
        rfp_spin_won(&ring.spin)
    ring.overslept += late and found == DONE
    return found

"""Waiting for a response: spin, then sleep, and poll whether the server still runs.

No wake-up is lost
    Before it sleeps, the client (1) calls prepare_wait on its eventcount, (2) WRITEs WAIT into its
    request, and (3) polls once more, with a READ that begins after both.  Without (3) it would
    sleep through a response that the server publishes in between.  Here (2) comes before (3), and
    at the server publishing comes before reading WAIT: one side observes the other.

The clock
    is not read before the first 16 polls, since most responses have come by then.
"""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport (
    rfp_fence_full, rfp_load32, rfp_now, rfp_pause, rfp_spin_lost, rfp_spin_ns, rfp_spin_won,
)
from rfp.fabric.fabric cimport READ, SIGNALED, WRITE, work_request
from rfp.protocol.client.client_ring cimport (
    CLOSED, DISCONNECTED, DONE, HEARTBEAT, IDLE, PENDING, TIMED_OUT, client_ring_heartbeat_offset,
    client_ring_request_offset, client_ring_step, client_slot,
)
from rfp.protocol.wire cimport RFP_MODE_FETCH, RFP_MODE_REPLY, rfp_request_header

cdef struct prepared_wait:         # a wait on the eventcount that was announced
    bint prepared                  # prepare_wait was called, and neither wait nor cancel_wait
    uint32_t key                   # the result of prepare_wait
    uint32_t sequence              # of the oldest request at that time
    uint64_t torn                  # ring.torn at that time
    uint32_t polls_required        # slot.polls at which a READ has begun after WAIT


cdef void request_wakeup(client_ring *ring) noexcept nogil:
    """WRITE WAIT into the oldest request: the server then notifies after it has published."""
    cdef work_request work
    cdef uint64_t request_offset = client_ring_request_offset(ring, ring.tail)
    cdef rfp_request_header *header = <rfp_request_header *> (ring.scratch.base + request_offset)
    cdef uint64_t field = <uint64_t> (<char *> &header.wait - <char *> header)
    # The source is the field in the own copy of the request: it keeps its value until the response
    # has come, however late a device reads it; a request that already carries it means the same.
    header.wait = ring.slot[ring.tail].sequence
    work.id = ring.slot[ring.tail].sequence
    work.opcode = WRITE
    work.flags = 0
    work.length = sizeof(header.wait)
    work.local = ring.scratch
    work.local_offset = request_offset + field
    work.remote = ring.requests
    work.remote_offset = ring.request_offset + <uint64_t> ring.tail * ring.slot_size + field
    if ring.pair.ops.post(ring.pair, &work, 1):
        ring.slot[ring.tail].wakeup_requested = True
        ring.writes += 1


cdef void post_heartbeat_read(client_ring *ring) noexcept nogil:
    """Post a READ of the server's heartbeat, if the send queue has room."""
    cdef work_request work
    work.id = HEARTBEAT
    work.opcode = READ
    work.flags = SIGNALED
    work.length = 8
    work.local = ring.scratch
    work.local_offset = client_ring_heartbeat_offset(ring)
    work.remote = ring.heartbeat
    work.remote_offset = 0
    ring.reading_heartbeat = ring.pair.ops.post(ring.pair, &work, 1) == 1


cdef bint client_ring_check_alive(client_ring *ring, uint64_t now) noexcept nogil:
    """Return whether the server still runs, as far as known; call it about once in SLEEP_NS_MAX.

    The process is checked first.  If nothing reports a failure of its machine, the heartbeat must
    advance: a READ that does not complete counts as much as one that brings no new value.  Only
    time in which this thread polled counts.
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


cdef bint prepare_sleep(client_ring *ring, prepared_wait *p) noexcept nogil:
    """Take the next step towards a sleep; return whether the thread may sleep now.

    It may not before a poll that began after prepare_wait and WAIT has brought nothing.
    """
    cdef client_slot *slot = &ring.slot[ring.tail]
    if p.prepared and (slot.sequence != p.sequence or ring.torn != p.torn):
        # Another request is the oldest now and carries no WAIT, or the response was read while the
        # server wrote it.
        ring.channel.ops.cancel_wait(ring.channel)
        p.prepared = False
    if not p.prepared:
        p.key = ring.channel.ops.prepare_wait(ring.channel)
        p.prepared = True
        p.sequence = slot.sequence
        p.torn = ring.torn
        p.polls_required = slot.polls + (1 if slot.stage == IDLE else 2)
        if slot.mode == RFP_MODE_REPLY:
            p.polls_required = slot.polls + 1
        elif not slot.wakeup_requested:
            request_wakeup(ring)
        rfp_fence_full()
        return False
    if slot.mode == RFP_MODE_FETCH and not slot.wakeup_requested:
        # The send queue had no room for it before.
        request_wakeup(ring)
        p.polls_required = slot.polls + 2
        rfp_fence_full()
        return False
    return slot.polls >= p.polls_required


cdef bint sleep(client_ring *ring, prepared_wait *p, uint64_t now,
                uint64_t deadline) noexcept nogil:
    """Sleep until a notification, at most SLEEP_NS_MAX; return whether that whole time passed."""
    cdef client_slot *slot = &ring.slot[ring.tail]
    cdef uint64_t sleep_ns = SLEEP_NS_MAX
    if deadline and deadline - now < sleep_ns:
        sleep_ns = deadline - now
    ring.slept += 1
    # Awake, the thread would have polled more often than is acceptable: choose_mode must count it.
    slot.polls += ring.retries * ring.polls_per_round_trip + 1
    p.prepared = False
    return not ring.channel.ops.wait(ring.channel, p.key, sleep_ns) and sleep_ns == SLEEP_NS_MAX


cdef outcome client_ring_wait(client_ring *ring, uint64_t deadline) noexcept nogil:
    """Wait for the oldest request that a call waits for.

    Spins for a while, then sleeps in bounded steps; once a step it polls the server's liveness.
    """
    cdef prepared_wait p
    cdef outcome result
    cdef uint32_t polls = 0
    cdef uint64_t now
    cdef uint64_t spin_ns = rfp_spin_ns(&ring.spin)
    cdef uint64_t spin_until = 0          # ns; 0: the clock was not read yet
    cdef bint slept = False
    cdef bint overslept = False           # the last sleep lasted SLEEP_NS_MAX
    p.prepared = False
    while True:
        result = client_ring_step(ring)
        if result != PENDING:
            break
        overslept = False
        polls += 1
        rfp_pause()
        if polls & 15 and spin_ns and not p.prepared:
            continue
        now = rfp_now()
        if deadline and now >= deadline:
            result = TIMED_OUT
            break
        if rfp_load32(ring.closing):
            result = CLOSED
            break
        if spin_until == 0:
            spin_until = now + spin_ns
        if now - ring.liveness_checked_ns >= SLEEP_NS_MAX and \
                not client_ring_check_alive(ring, now):
            # The server may have responded before it exited.
            result = client_ring_step(ring)
            if result == PENDING:
                ring.lost = DISCONNECTED
                result = DISCONNECTED
            break
        # Posted WRITEs must complete before the thread sleeps: polling moves them on.
        if now < spin_until or ring.due or ring.writing:
            continue
        if not slept:
            slept = True
            rfp_spin_lost(&ring.spin)
        if prepare_sleep(ring, &p):
            overslept = sleep(ring, &p, now, deadline)
    if p.prepared:
        ring.channel.ops.cancel_wait(ring.channel)
    if spin_ns and not slept and result == DONE:
        rfp_spin_won(&ring.spin)
    # A response was there although the sleep lasted to its end: its wake-up was lost.
    ring.missed_wakeups += overslept and result == DONE
    return result

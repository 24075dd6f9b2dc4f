"""READs, WRITEs and atomics beside a ring's requests."""

from rfp.core.core cimport rfp_now, rfp_pause
from rfp.fabric.fabric cimport READ, SIGNALED
from rfp.protocol.client.client_ring cimport (
    DISCONNECTED, DONE, ONE_SIDED, TIMED_OUT, client_ring_poll_completions,
)
from rfp.protocol.client.client_wait cimport SLEEP_NS_MAX, client_ring_check_alive


cdef outcome post_one_sided(client_ring *ring, work_request *works, int n, bint begun,
                            uint64_t deadline) noexcept nogil:
    """Post all work requests.

    TIMED_OUT only if none was posted, neither here nor, if `begun`, before.
    """
    cdef uint32_t polls = 0
    cdef uint64_t now
    cdef int posted = 0
    while True:
        posted += ring.pair.ops.post(ring.pair, works + posted, n - posted)
        if posted == n:
            return DONE
        client_ring_poll_completions(ring)      # makes room
        polls += 1
        rfp_pause()
        if polls % 64 == 0:
            now = rfp_now()
            if now - ring.liveness_checked_ns >= SLEEP_NS_MAX and \
                    not client_ring_check_alive(ring, now):
                ring.lost = DISCONNECTED
            if deadline and now > deadline and not ring.lost and posted == 0 and not begun:
                return TIMED_OUT
        if ring.lost:
            return DISCONNECTED


cdef outcome client_ring_transfers(client_ring *ring, work_request *works, int n,
                                   uint64_t deadline) noexcept nogil:
    """Do work requests beside the ring's own; the last one's completion completes all.

    Returns when no work request can touch the local memory any more.  A server that has failed may
    leave some incomplete for ever: after DISCONNECTED the caller must first close the queue pair,
    unless ring.one_sided_done.
    """
    return client_ring_staggered(ring, works, n, 0, deadline)


cdef outcome client_ring_staggered(client_ring *ring, work_request *works, int n,
                                   uint64_t pause_ns, uint64_t deadline) noexcept nogil:
    """Do the same, with pause_ns between the last, a READ of the server's result, and the others.

    The READ observes the result one round trip after the pause, although the client does not wait
    for the WRITEs to complete.
    """
    cdef uint32_t polls = 0
    cdef uint64_t now
    cdef int first = n - 1 if pause_ns else n
    cdef int i
    cdef outcome result
    for i in range(n):
        works[i].id = ONE_SIDED
        works[i].flags = SIGNALED if i == n - 1 else 0
        if works[i].opcode == READ:
            ring.reads += 1
        else:
            ring.writes += 1
    ring.one_sided_done = False
    result = post_one_sided(ring, works, first, False, deadline)
    if result == DONE and pause_ns:
        now = rfp_now() + pause_ns
        while rfp_now() < now:
            client_ring_poll_completions(ring)
            rfp_pause()
        result = post_one_sided(ring, works + first, 1, True, deadline)
    if result != DONE:
        return result
    client_ring_poll_completions(ring)
    while not ring.one_sided_done and not ring.lost:
        rfp_pause()
        client_ring_poll_completions(ring)
        polls += 1
        if polls % 1024 == 0:
            now = rfp_now()
            if now - ring.liveness_checked_ns >= SLEEP_NS_MAX and \
                    not client_ring_check_alive(ring, now):
                ring.lost = DISCONNECTED
    if ring.lost:
        return DISCONNECTED
    if polls and deadline and rfp_now() > deadline:
        return TIMED_OUT
    return DONE


cdef outcome client_ring_transfer(client_ring *ring, uint32_t opcode,
                                  local_region *local, uint64_t local_offset,
                                  remote_region *remote, uint64_t remote_offset,
                                  uint64_t length, uint64_t deadline) noexcept nogil:
    """Do one READ or WRITE beside the ring's own."""
    cdef work_request work
    work.opcode = opcode
    work.length = length
    work.local = local
    work.local_offset = local_offset
    work.remote = remote
    work.remote_offset = remote_offset
    return client_ring_transfers(ring, &work, 1, deadline)

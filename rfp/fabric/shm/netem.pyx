"""An emulated network, so that one host shows the timing of a network.

docs/fabric.md states which effects it models and which it does not.

A request takes a turn of the poster's out-bound engine, travels half a round trip, takes a turn of
the target's in-bound engine, is executed there, and completes half a round trip later.  It moves on
only when its pair is posted to or polled: a request that is not polled is not executed.  All
requests keep the order of posting, as on one reliable connection.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from rfp.core.core cimport rfp_copy_in, rfp_now, rfp_pause
from rfp.fabric.fabric cimport (
    QUEUE_DEPTH, SIGNALED, SUCCESS, WRITE, WRITE_NOTIFY, completion, local_region, queue_pair,
    work_request,
)
from rfp.fabric.shm.datapath cimport (
    alive, cancel_wait, check, complete, notify, perform, prepare_wait, replenish, take_completions,
    wait,
)

cdef enum:
    # ns before the next event from which poll() waits for it, for the sake of accuracy
    SPIN = 200

cdef struct travelling:        # a request under way
    work_request request
    uint64_t due               # time of arrival, then of execution, then of completion
    uint32_t status
    local_region taken         # replaces the local region of a WRITE whose bytes were copied
    char bytes[SHM_INLINE_BYTES]

# The state behind pair_state.more.  Of its requests, all indices modulo QUEUE_DEPTH, [done, landed)
# are on the way back, [landed, reached) wait for their turn at the target, [reached, posted) are on
# the way there.
cdef struct emulation:
    rfp_network network
    uint64_t *in_bound
    uint64_t *out_bound
    uint32_t done
    uint32_t landed
    uint32_t reached
    uint32_t posted
    travelling requests[QUEUE_DEPTH]


cdef bint emulate(pair_state *state, const rfp_network *network, uint64_t *in_bound,
                  uint64_t *out_bound) noexcept nogil:
    cdef emulation *e = <emulation *>calloc(1, sizeof(emulation))
    if e == NULL:
        return False
    e.network = network[0]
    e.in_bound = in_bound
    e.out_bound = out_bound
    state.more = e
    return True


cdef void progress(pair_state *state, emulation *e, uint64_t now) noexcept nogil:
    cdef travelling *t
    while e.reached != e.posted:
        t = &e.requests[e.reached % QUEUE_DEPTH]
        if t.due > now:
            break
        # The turn is taken on arrival, not when the request is posted: a turn that lies ahead would
        # keep others from an engine that is free until then.
        if t.status == SUCCESS:
            t.due = rfp_engine_turn(e.in_bound, t.due, e.network.in_gap)
        e.reached += 1
    while e.landed != e.reached:
        t = &e.requests[e.landed % QUEUE_DEPTH]
        if t.due > now:
            break
        if t.status == SUCCESS:
            t.status = check(&t.request)       # again: the regions may have been closed since
        if t.status == SUCCESS:
            perform(state, &t.request)
            t.due += e.network.rtt - e.network.rtt // 2
        e.landed += 1
    while e.done != e.landed:
        t = &e.requests[e.done % QUEUE_DEPTH]
        if t.due > now:
            break
        if t.status != SUCCESS or t.request.flags & SIGNALED:
            complete(state, &t.request, t.status)
        e.done += 1


cdef uint64_t next_event(emulation *e) noexcept nogil:
    # Return the earliest event at the heads of the three queues; at least one request is under way.
    cdef uint64_t next = ~<uint64_t>0
    if e.done != e.landed:
        next = e.requests[e.done % QUEUE_DEPTH].due
    if e.landed != e.reached and e.requests[e.landed % QUEUE_DEPTH].due < next:
        next = e.requests[e.landed % QUEUE_DEPTH].due
    if e.reached != e.posted and e.requests[e.reached % QUEUE_DEPTH].due < next:
        next = e.requests[e.reached % QUEUE_DEPTH].due
    return next


cdef int emulated_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef emulation *e = <emulation *>state.more
    cdef uint64_t now = rfp_now()
    cdef travelling *t
    cdef int i
    progress(state, e, now)
    for i in range(n):
        # Needs one entry among the requests and, on completion, one among the completions.
        if e.posted - e.done + state.tail - state.head >= QUEUE_DEPTH:
            return i
        t = &e.requests[e.posted % QUEUE_DEPTH]
        t.request = requests[i]
        t.status = check(&t.request)
        t.due = now
        if t.status == SUCCESS:
            if (t.request.opcode == WRITE or t.request.opcode == WRITE_NOTIFY) \
                    and t.request.length <= SHM_INLINE_BYTES:
                rfp_copy_in(t.bytes, t.request.local.base + t.request.local_offset,
                            t.request.length)
                t.taken = local_region(base=&t.bytes[0], length=SHM_INLINE_BYTES, key=0, rights=0)
                t.request.local = &t.taken
                t.request.local_offset = 0
            t.due = rfp_engine_turn(e.out_bound, now, e.network.out_gap) + e.network.rtt // 2
        e.posted += 1
    return n


cdef int emulated_poll(queue_pair *pair, completion *completions, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef emulation *e = <emulation *>state.more
    cdef uint64_t now
    if e.done != e.posted:
        now = rfp_now()
        progress(state, e, now)
        while state.head == state.tail and e.done != e.posted and next_event(e) <= now + SPIN:
            rfp_pause()
            now = rfp_now()
            progress(state, e, now)
    return take_completions(pair, completions, n)


cdef void abandon(pair_state *state, int status) noexcept nogil:
    cdef emulation *e = <emulation *>state.more
    if e != NULL:
        while e.done != e.posted:
            complete(state, &e.requests[e.done % QUEUE_DEPTH].request, status)
            e.done += 1
        e.landed = e.reached = e.posted


cdef provider emulated = provider(
    post=emulated_post, poll=emulated_poll, alive=alive, prepare_wait=prepare_wait, wait=wait,
    cancel_wait=cancel_wait, notify=notify, replenish=replenish)


cdef provider *emulated_operations() noexcept nogil:
    return &emulated

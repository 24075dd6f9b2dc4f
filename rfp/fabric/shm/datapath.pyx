"""One-sided operations on memory that both sides have mapped.

docs/fabric.md states the orders that they keep.
"""

from rfp.core.core cimport (
    RFP_EVENTCOUNT_POLLED, RFP_EVENTCOUNT_WAITING, rfp_add64, rfp_compare_swap64, rfp_copy_out,
    rfp_eventcount_cancel_wait, rfp_eventcount_notify, rfp_eventcount_prepare_wait,
    rfp_eventcount_wait, rfp_eventcount_wait_polled, rfp_fence_full, rfp_fence_release, rfp_fetch,
)
from rfp.fabric.fabric cimport (
    BOUNDS, COMPARE_SWAP, CONSTANT, FETCH_ADD, FLUSHED, QUEUE_DEPTH, READ, REMOTE_ATOMIC,
    REMOTE_READ, REMOTE_WRITE, RIGHTS, SIGNALED, SUCCESS, WRITE, WRITE_NOTIFY,
    disconnected_operations, peer_exists,
)

# The right that each opcode needs; an unknown opcode needs a right that no region grants.
cdef uint32_t[8] needs
needs[:] = [~0u, REMOTE_READ, REMOTE_WRITE, REMOTE_WRITE, REMOTE_ATOMIC, REMOTE_ATOMIC, ~0u, ~0u]


cdef uint32_t check(const work_request *request) noexcept nogil:
    cdef uint32_t need = needs[request.opcode] if request.opcode < 8 else ~0u
    if (request.remote.rights & need) != need:
        return RIGHTS
    if request.local.rights & CONSTANT and need != REMOTE_WRITE:
        return RIGHTS
    # Written as subtractions so that nothing can overflow, for any offsets.
    if request.remote_offset > request.remote.length \
            or request.length > request.remote.length - request.remote_offset:
        return BOUNDS
    if request.local_offset > request.local.length \
            or request.length > request.local.length - request.local_offset:
        return BOUNDS
    if need == REMOTE_ATOMIC and (request.length != 8 or request.remote_offset & 7):
        return BOUNDS
    return SUCCESS


cdef void perform(pair_state *state, const work_request *request) noexcept nogil:
    cdef char *local = request.local.base + request.local_offset
    cdef char *remote = request.remote.base + request.remote_offset
    cdef uint64_t old
    if request.opcode == READ:
        rfp_fetch(local, remote, request.length)
    elif request.opcode == WRITE or request.opcode == WRITE_NOTIFY:
        rfp_copy_out(remote, local, request.length)
        rfp_fence_release()    # WRITEs become visible in the order of posting
        if request.opcode == WRITE_NOTIFY:
            rfp_eventcount_notify(state.eventcount, &state.waker)
    elif request.opcode == COMPARE_SWAP:
        old = request.compare
        rfp_compare_swap64(remote, &old, request.operand)
        rfp_fence_full()       # no later READ overtakes an atomic
        rfp_copy_out(local, &old, 8)
    elif request.opcode == FETCH_ADD:
        old = rfp_add64(remote, request.operand)
        rfp_fence_full()
        rfp_copy_out(local, &old, 8)


cdef void complete(pair_state *state, const work_request *request, uint32_t status) noexcept nogil:
    cdef completion *c = &state.completions[state.tail % QUEUE_DEPTH]
    c.id = request.id
    c.opcode = request.opcode
    c.status = status
    state.tail += 1


cdef int direct_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef uint32_t status
    cdef int i
    for i in range(n):
        if state.tail - state.head == QUEUE_DEPTH:
            return i
        status = check(&requests[i])
        if status == SUCCESS:
            perform(state, &requests[i])
        if status != SUCCESS or requests[i].flags & SIGNALED:
            complete(state, &requests[i], status)
    return n


cdef int flush_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef int i
    for i in range(n):
        if state.tail - state.head == QUEUE_DEPTH:
            return i
        complete(state, &requests[i], FLUSHED)
    return n


cdef int take_completions(queue_pair *pair, completion *completions, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef int i
    for i in range(n):
        if state.head == state.tail:
            return i
        completions[i] = state.completions[state.head % QUEUE_DEPTH]
        state.head += 1
    return n


cdef bint alive(queue_pair *pair) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    return peer_exists(state.pidfd, state.control)


cdef uint32_t prepare_wait(event_channel *channel) noexcept nogil:
    return rfp_eventcount_prepare_wait(
        channel.word, RFP_EVENTCOUNT_WAITING if channel.fd < 0 else RFP_EVENTCOUNT_POLLED)


cdef bint wait(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil:
    if channel.fd >= 0:
        return rfp_eventcount_wait_polled(channel.word, channel.fd, ns, &channel.ended)
    return rfp_eventcount_wait(channel.word, armed, ns)


cdef void cancel_wait(event_channel *channel) noexcept nogil:
    rfp_eventcount_cancel_wait(channel.word)


cdef void notify(event_channel *channel) noexcept nogil:
    # A thread that polls the descriptor wakes itself: the other end is the peer's.
    rfp_eventcount_notify(channel.word, NULL)


cdef void replenish(event_channel *channel) noexcept nogil:
    pass                       # notifies need no resources: their number is not limited


cdef provider direct = provider(
    post=direct_post, poll=take_completions, alive=alive, prepare_wait=prepare_wait, wait=wait,
    cancel_wait=cancel_wait, notify=notify, replenish=replenish)
cdef provider unconnected = disconnected_operations(flush_post, take_completions, alive)
cdef provider closed = disconnected_operations(flush_post, take_completions, NULL)


cdef provider *direct_operations() noexcept nogil:
    return &direct


cdef provider *unconnected_operations() noexcept nogil:
    return &unconnected


cdef provider *closed_operations() noexcept nogil:
    return &closed

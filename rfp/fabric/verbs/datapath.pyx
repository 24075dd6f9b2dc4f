"""One-sided operations on RC queue pairs.  docs/verbs.md explains how they keep the contract.

Every request takes an entry of a ring, in the order of posting.  The device reports a completion
for requests that want one and for every n-th other one, and one report decides all entries before
it. A request that fails its checks is replaced by a WRITE of no bytes, so that its completion keeps
the order of posting.
"""

from libc.errno cimport ENOMEM
from libc.string cimport memset
from posix.time cimport timespec
from posix.unistd cimport read as read_fd, write as write_fd

from rfp.core.core cimport rfp_fence_acquire, rfp_now
from rfp.core.system cimport (
    POLLIN, pollfd, ppoll, pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock,
)
from rfp.core.verbs cimport (
    IBV_SEND_INLINE, IBV_SEND_SIGNALED, IBV_SEND_SOLICITED, IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_PROT_ERR,
    IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_SUCCESS, IBV_WC_WR_FLUSH_ERR,
    IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE,
    IBV_WR_RDMA_WRITE_WITH_IMM, ibv_poll_cq, ibv_post_recv, ibv_post_send, ibv_recv_wr,
    ibv_req_notify_cq, ibv_wc,
)
from rfp.fabric.fabric cimport (
    BOUNDS, COMPARE_SWAP, FLUSHED, PEER_GONE, QUEUE_DEPTH, READ, RIGHTS, SIGNALED, SUCCESS, WRITE,
    WRITE_NOTIFY, completion, disconnected_operations, event_channel, peer_exists, queue_pair,
    work_request,
)
from rfp.fabric.shm.datapath cimport check

cdef enum:
    COMPLETIONS = 32           # taken from the device's queue in one call
    PATIENCE_CHECKS = 8        # unsuccessful checks, at least, before a peer counts as dead
    TENDING = 16               # polls of a pair between two polls of its channel

cdef uint64_t PROBE = <uint64_t>1 << 63        # in a work request's id; other ids are ring entries


cdef void pair_prepare(pair_state *p) noexcept nogil:
    cdef uint32_t i
    for i in range(QUEUE_DEPTH):
        p.work[i].next = &p.work[i + 1] if i + 1 < QUEUE_DEPTH else NULL
        p.work[i].sg_list = &p.ranges[i]


# ----------------------------------------------------------------------------------------- posting


cdef inline void fill(pair_state *p, ibv_send_wr *work, const work_request *request,
                      uint32_t inlined) noexcept nogil:
    # The request has passed its checks.
    cdef uint64_t remote = <uint64_t>request.remote.base + request.remote_offset
    work.num_sge = request.length != 0
    work.sg_list.addr = <uint64_t>request.local.base + request.local_offset
    work.sg_list.length = <uint32_t>request.length
    work.sg_list.lkey = request.local.key
    if request.opcode == READ:
        work.opcode = IBV_WR_RDMA_READ
    elif request.opcode == WRITE:
        work.opcode = IBV_WR_RDMA_WRITE
    elif request.opcode == WRITE_NOTIFY:
        work.opcode = IBV_WR_RDMA_WRITE_WITH_IMM
        work.send_flags |= IBV_SEND_SOLICITED
        work.imm_data = 0
    else:
        work.wr.atomic.remote_addr = remote
        work.wr.atomic.rkey = request.remote.key
        if request.opcode == COMPARE_SWAP:
            work.opcode = IBV_WR_ATOMIC_CMP_AND_SWP
            work.wr.atomic.compare_add = request.compare
            work.wr.atomic.swap = request.operand
        else:
            work.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD
            work.wr.atomic.compare_add = request.operand
        return
    work.wr.rdma.remote_addr = remote
    work.wr.rdma.rkey = request.remote.key
    if request.opcode != READ and request.length <= inlined and request.length:
        work.send_flags |= IBV_SEND_INLINE


cdef void nothing(ibv_send_wr *work) noexcept nogil:
    # A WRITE of no bytes: the device ignores its key and address.
    work.opcode = IBV_WR_RDMA_WRITE
    work.num_sge = 0
    work.wr.rdma.remote_addr = 0
    work.wr.rdma.rkey = 0


cdef int verbs_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *p = <pair_state *>pair.state
    cdef ibv_send_wr *work
    cdef ibv_send_wr *bad = NULL
    cdef posted *place
    cdef uint32_t room = pair.depth - (p.tail - p.head)
    cdef uint32_t start = p.tail
    cdef int i, taken, error
    if room < <uint32_t>n:
        harvest(p)
        forget_unwanted(p)
        room = pair.depth - (p.tail - p.head)
        if room < <uint32_t>n:
            n = <int>room
    if n <= 0:
        return 0
    if p.broken:
        return flush(p, requests, n)
    for i in range(n):
        work = &p.work[i]
        place = &p.requests[(start + i) % QUEUE_DEPTH]
        place.id = requests[i].id
        place.opcode = requests[i].opcode
        place.wanted = requests[i].flags & SIGNALED
        place.status = check(&requests[i])
        if place.status == SUCCESS:
            if requests[i].local.key == 0:
                place.status = RIGHTS          # the device accepts registered memory only
            elif requests[i].length > p.longest:
                place.status = BOUNDS
        work.wr_id = start + i
        work.send_flags = 0
        if place.status == SUCCESS:
            fill(p, work, &requests[i], pair.max_inline)
        else:
            nothing(work)
        p.quiet += 1
        # Request a completion now and then: otherwise no entry would be known to be free again.
        if place.wanted or place.status != SUCCESS or p.quiet >= pair.depth // 4:
            work.send_flags |= IBV_SEND_SIGNALED
            p.quiet = 0
    p.tail = start + n
    p.work[n - 1].next = NULL
    error = ibv_post_send(p.qp, p.work, &bad)
    if n < QUEUE_DEPTH:
        p.work[n - 1].next = &p.work[n]
    if error == 0:
        return n
    taken = <int>(bad - p.work) if bad != NULL else 0
    p.tail = start + taken
    # The next request gives a completion, in place of those that were not accepted here.
    p.quiet = pair.depth
    if error == ENOMEM:
        return taken
    p.refused = error
    fail(p)
    return taken + flush(p, requests + taken, n - taken)


cdef int flush(pair_state *p, work_request *requests, int n) noexcept nogil:
    # The caller has checked that the ring has room.
    cdef posted *place
    cdef int i
    for i in range(n):
        place = &p.requests[p.tail % QUEUE_DEPTH]
        place.id = requests[i].id
        place.opcode = requests[i].opcode
        place.status = FLUSHED
        place.wanted = True
        p.tail += 1
    settle(p)
    return n


cdef int flush_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *p = <pair_state *>pair.state
    cdef uint32_t room = pair.depth - (p.tail - p.head)
    n = flush(p, requests, n if <uint32_t>n < room else <int>room)
    p.done = p.tail
    return n


# -------------------------------------------------------------------------------------- completing


cdef void fail(pair_state *p) noexcept nogil:
    if not p.broken:
        p.broken = True
        p.cut = p.tail


cdef void settle(pair_state *p) noexcept nogil:
    # A request that never reached the device is decided as soon as all requests before it are.
    if p.broken and <int>(p.done - p.cut) >= 0:
        p.done = p.tail


cdef uint32_t status_of(pair_state *p, int status) noexcept nogil:
    if status == IBV_WC_LOC_LEN_ERR or status == IBV_WC_LOC_PROT_ERR:
        return BOUNDS
    if status == IBV_WC_REM_ACCESS_ERR or status == IBV_WC_REM_INV_REQ_ERR:
        return RIGHTS
    # Flushed behind a rejected request: the target executes nothing more.  Behind a lost connection
    # it may have been executed there, and only the response was lost.
    if status == IBV_WC_WR_FLUSH_ERR and p.failure and status_of_first(p) != PEER_GONE:
        return FLUSHED
    return PEER_GONE


cdef uint32_t status_of_first(pair_state *p) noexcept nogil:
    if p.failure == IBV_WC_WR_FLUSH_ERR:
        return PEER_GONE
    return status_of(p, p.failure)


cdef void harvest(pair_state *p) noexcept nogil:
    """Take the device's reports.  A report decides its entry and all entries before it."""
    cdef ibv_wc[COMPLETIONS] reports
    cdef posted *place
    cdef int n = COMPLETIONS
    cdef int i
    cdef uint32_t at
    while n == COMPLETIONS:
        n = ibv_poll_cq(p.queue, COMPLETIONS, reports)
        for i in range(n):
            at = <uint32_t>reports[i].wr_id
            if reports[i].status == IBV_WC_SUCCESS:
                if reports[i].wr_id & PROBE:
                    p.probing = False
                    p.done = at
                else:
                    p.done = at + 1
                continue
            fail(p)
            if p.failure == 0:
                p.failure = reports[i].status
                p.failure_detail = reports[i].vendor_err
                p.failed_opcode = p.requests[at % QUEUE_DEPTH].opcode
                if reports[i].wr_id & PROBE:
                    p.failed_opcode = 0
            if reports[i].wr_id & PROBE:
                p.probing = False
                continue
            place = &p.requests[at % QUEUE_DEPTH]
            if place.status == SUCCESS:
                place.status = status_of(p, reports[i].status)
            p.done = at + 1
        # Load the data of a READ after its report.
        rfp_fence_acquire()
    if n < 0:
        fail(p)
        p.done = p.tail
    settle(p)


cdef void forget_unwanted(pair_state *p) noexcept nogil:
    cdef posted *place
    while p.head != p.done:
        place = &p.requests[p.head % QUEUE_DEPTH]
        if place.wanted or place.status != SUCCESS:
            return
        p.head += 1


cdef int deliver(pair_state *p, completion *completions, int n) noexcept nogil:
    cdef posted *place
    cdef int i = 0
    while i < n:
        forget_unwanted(p)
        if p.head == p.done:
            break
        place = &p.requests[p.head % QUEUE_DEPTH]
        completions[i].id = place.id
        completions[i].opcode = place.opcode
        completions[i].status = place.status
        p.head += 1
        i += 1
    return i


cdef int verbs_poll(queue_pair *pair, completion *completions, int n) noexcept nogil:
    cdef pair_state *p = <pair_state *>pair.state
    p.polls += 1
    if p.polls % TENDING == 0:
        replenish_state(p.channel)
    if p.done != p.tail or p.probing:
        harvest(p)
    return deliver(p, completions, n)


cdef int take_completions(queue_pair *pair, completion *completions, int n) noexcept nogil:
    return deliver(<pair_state *>pair.state, completions, n)


cdef void pair_flush(pair_state *p) noexcept nogil:
    cdef posted *place
    while p.done != p.tail:
        place = &p.requests[p.done % QUEUE_DEPTH]
        if place.status == SUCCESS:
            place.status = FLUSHED
        p.done += 1
    p.broken = True
    p.cut = p.tail
    p.probing = False


# ---------------------------------------------------------------------------------------- liveness


cdef bint verbs_alive(queue_pair *pair) noexcept nogil:
    """Return whether the peer still runs.

    Checks with the operating system, and whether the peer's device has responded lately; if no
    probe is under way, sends a WRITE of no bytes.  A device responds as long as the process that
    owns the queue pair exists.
    """
    cdef pair_state *p = <pair_state *>pair.state
    cdef ibv_send_wr probe
    cdef ibv_send_wr *bad
    cdef uint64_t now
    if not peer_exists(p.pidfd, p.control):
        return False
    if p.done != p.tail or p.probing:
        harvest(p)
    if p.broken:
        return False
    now = rfp_now()
    if not p.waiting or p.done != p.seen or not (p.done != p.tail or p.probing):
        p.silent = 0
        p.seen = p.done
    else:
        # Bound each step: the stopped machine may have been this one, and not the peer.
        p.silent += min(now - p.asked, p.patience // PATIENCE_CHECKS)
    p.asked = now
    if not p.probing:
        memset(&probe, 0, sizeof(probe))
        probe.wr_id = PROBE | p.tail
        probe.send_flags = IBV_SEND_SIGNALED
        nothing(&probe)
        p.probing = ibv_post_send(p.qp, &probe, &bad) == 0
    p.waiting = True
    return (p.probing or p.done != p.tail) and p.silent < p.patience


cdef bint unconnected_alive(queue_pair *pair) noexcept nogil:
    cdef pair_state *p = <pair_state *>pair.state
    return peer_exists(p.pidfd, p.control)


# ---------------------------------------------------------------------------------------- sleeping


cdef int receive(receiver *place, uint32_t index, uint32_t n) noexcept nogil:
    cdef ibv_recv_wr[COMPLETIONS] work
    cdef ibv_recv_wr *bad
    cdef uint32_t i, some
    cdef int error = 0
    while n and not error:
        some = n if n < COMPLETIONS else COMPLETIONS
        for i in range(some):
            work[i].wr_id = <uint64_t>place.generation << 32 | index
            work[i].next = &work[i + 1] if i + 1 < some else NULL
            work[i].sg_list = NULL
            work[i].num_sge = 0
        error = ibv_post_recv(place.qp, work, &bad)
        n -= some
    return error


cdef void drain(channel_state *c) noexcept nogil:
    cdef ibv_wc[COMPLETIONS] arrived
    cdef receiver *place
    cdef uint32_t i, index, same
    cdef int n, at
    for i in range(c.used):
        n = COMPLETIONS
        while n == COMPLETIONS:
            n = ibv_poll_cq(c.queues[i], COMPLETIONS, arrived)
            at = 0
            while at < n:
                same = 1
                while at + <int>same < n and arrived[at + same].wr_id == arrived[at].wr_id and \
                        arrived[at + same].status == arrived[at].status:
                    same += 1
                index = <uint32_t>arrived[at].wr_id
                place = &c.receivers[index]
                if arrived[at].status == IBV_WC_SUCCESS and index < c.places and place.qp != NULL \
                        and place.generation == <uint32_t>(arrived[at].wr_id >> 32):
                    receive(place, index, same)
                at += same


cdef void replenish_state(channel_state *c) noexcept nogil:
    # The holder of the lock is draining the channel, or is about to change the set of its queues.
    if pthread_mutex_trylock(&c.lock) == 0:
        drain(c)
        pthread_mutex_unlock(&c.lock)


cdef void replenish(event_channel *channel) noexcept nogil:
    replenish_state(<channel_state *>channel.state)


cdef void take_events(channel_state *c) noexcept nogil:
    # Neither call blocks: both descriptors are non-blocking.
    cdef ibv_cq *queue
    cdef void *context
    cdef uint64_t count
    while c.verbs.get_cq_event(c.events, &queue, &context) == 0:
        c.verbs.ack_cq_events(queue, 1)
    read_fd(c.wake, &count, sizeof(count))


cdef uint32_t prepare_wait(event_channel *channel) noexcept nogil:
    # The check that follows finds all that has arrived so far; a later arrival raises an event.
    cdef channel_state *c = <channel_state *>channel.state
    cdef uint32_t i
    take_events(c)
    pthread_mutex_lock(&c.lock)
    drain(c)
    for i in range(c.used):
        ibv_req_notify_cq(c.queues[i], 1)
    pthread_mutex_unlock(&c.lock)
    return 1


cdef bint wait(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil:
    cdef channel_state *c = <channel_state *>channel.state
    cdef pollfd[2] fds
    cdef timespec limit
    cdef bint woken
    limit.tv_sec = <long>(ns // 1000000000)
    limit.tv_nsec = <long>(ns % 1000000000)
    fds[0] = pollfd(fd=c.events.fd, events=POLLIN, revents=0)
    fds[1] = pollfd(fd=c.wake, events=POLLIN, revents=0)
    woken = ppoll(fds, 2, &limit, NULL) > 0
    if woken:
        take_events(c)
        replenish_state(c)
    return woken


cdef void cancel_wait(event_channel *channel) noexcept nogil:
    pass                       # the next prepare_wait takes an event that comes all the same


cdef void notify(event_channel *channel) noexcept nogil:
    cdef uint64_t one = 1
    write_fd((<channel_state *>channel.state).wake, &one, sizeof(one))


cdef provider connected = provider(
    post=verbs_post, poll=verbs_poll, alive=verbs_alive, prepare_wait=prepare_wait, wait=wait,
    cancel_wait=cancel_wait, notify=notify, replenish=replenish)
cdef provider unconnected = disconnected_operations(flush_post, take_completions, unconnected_alive)
cdef provider closed = disconnected_operations(flush_post, take_completions, NULL)


cdef provider *verbs_operations() noexcept nogil:
    return &connected


cdef provider *unconnected_operations() noexcept nogil:
    return &unconnected


cdef provider *closed_operations() noexcept nogil:
    return &closed

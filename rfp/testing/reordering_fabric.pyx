"""A provider for tests: shared memory with the weakest order that the fabric's contract allows.

It is repeatable from a seed.  The cache lines of a READ come from different moments and in any
order, those of a WRITE likewise; completions are late; a WRITE may overtake an earlier READ or
atomic; a long WRITE reads its bytes as late as it can.  The remaining order: nothing overtakes a
WRITE, READs and atomics keep their order among themselves, a notify comes after its WRITE has been
executed, and completions come in the order of posting.  Requests progress only in poll(), one step
per call.
"""

import weakref

from libc.signal cimport SIGKILL
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.signal cimport kill
from posix.unistd cimport getpid

from rfp.core.core cimport (
    rfp_copy_in, rfp_copy_out, rfp_eventcount_notify, rfp_fence_acquire, rfp_fence_release,
    rfp_load32, rfp_random_below, rfp_random_mix, rfp_store32,
)
from rfp.core.limits cimport RFP_LINE
from rfp.fabric.fabric cimport (
    FLUSHED, PEER_GONE, QUEUE_DEPTH, READ, SIGNALED, SUCCESS, WRITE, WRITE_NOTIFY, EventChannel,
    QueuePair, completion, local_region, provider, queue_pair, work_request,
)
from rfp.fabric.shm.datapath cimport (
    alive, cancel_wait, check, complete, flush_post, notify, pair_state, perform, prepare_wait,
    replenish, take_completions, wait,
)
from rfp.fabric.shm.region cimport ShmFabric, ShmQueuePair

cdef enum:
    REORDER_INLINE_BYTES = RFP_LINE  # bytes of a WRITE that are copied when it is posted
    OUTSTANDING_READS = 16     # as for a usual adapter
    # Limit of the poll steps that a request waits before it starts, and again before it completes.
    DELAY = 4
    STEPS_MAX = 16             # of a long request; a short one moves a line at a time

cdef uint32_t ALIVE = ~<uint32_t>0

cdef uint32_t FOREVER = ~<uint32_t>0

cdef enum:
    MOVING = 0
    MOVED = 1

cdef enum:                     # the effect of a request that strikes
    LOSES = 0                  # the connection
    KILLS = 1                  # the process
    STOPS = 2                  # all progress, until it is resumed

cdef struct scattered:         # a request under way
    work_request request
    uint32_t stage
    uint32_t status
    uint32_t delay             # poll steps
    uint32_t lines             # of remote memory
    uint32_t moved             # order[0:moved] have been copied
    uint32_t last              # it strikes when so many lines have moved; ALIVE: it does not
    uint32_t *order
    local_region taken         # replaces the local region of a WRITE whose bytes were copied
    char bytes[REORDER_INLINE_BYTES]

cdef struct reordering:        # the state behind pair_state.more; indices modulo QUEUE_DEPTH
    uint64_t random
    # poll steps in which nothing moves; another thread may set this and `dropped`
    uint32_t held
    uint32_t dropped
    uint32_t fatal             # requests to be posted until one strikes; 0: none does
    uint32_t how               # its effect: LOSES ...
    uint32_t done
    uint32_t posted
    scattered requests[QUEUE_DEPTH]


cdef uint32_t below(reordering *r, uint32_t n) noexcept nogil:
    return <uint32_t>rfp_random_below(&r.random, n)


cdef bint is_write(const work_request *request) noexcept nogil:
    return request.opcode == WRITE or request.opcode == WRITE_NOTIFY


cdef bint start(reordering *r, scattered *s, const work_request *request) noexcept nogil:
    # Return False if there is no memory for the order of its lines.
    cdef uint32_t i, j
    s.request = request[0]
    s.stage, s.moved, s.lines, s.last, s.order = MOVING, 0, 0, ALIVE, NULL
    s.delay = below(r, DELAY)
    s.status = check(request)
    if s.status != SUCCESS:
        return True
    if is_write(request) and request.length <= REORDER_INLINE_BYTES:
        rfp_copy_in(s.bytes, request.local.base + request.local_offset, request.length)
        s.taken = local_region(base=&s.bytes[0], length=REORDER_INLINE_BYTES, key=0, rights=0)
        s.request.local = &s.taken
        s.request.local_offset = 0
    if request.length and (is_write(request) or request.opcode == READ):
        s.lines = <uint32_t>(
            (request.remote_offset % RFP_LINE + request.length + RFP_LINE - 1) // RFP_LINE)
        s.order = <uint32_t *>malloc(s.lines * sizeof(uint32_t))
        if s.order == NULL:
            return False
        for i in range(s.lines):
            j = below(r, i + 1)
            s.order[i] = s.order[j]
            s.order[j] = i
    if r.fatal:
        r.fatal -= 1
        if not r.fatal:
            s.last = below(r, s.lines + 1)
    return True


cdef void move_line(scattered *s, uint32_t line) noexcept nogil:
    # Positions relative to the request's first byte; its first and last line may be partial.
    cdef uint64_t skew = s.request.remote_offset % RFP_LINE
    cdef uint64_t begin = line * <uint64_t>RFP_LINE - skew if line else 0
    cdef uint64_t end = (line + 1) * <uint64_t>RFP_LINE - skew
    cdef char *local = s.request.local.base + s.request.local_offset + begin
    cdef char *remote = s.request.remote.base + s.request.remote_offset + begin
    if end > s.request.length:
        end = s.request.length
    if s.request.opcode == READ:
        rfp_copy_in(local, remote, end - begin)
        rfp_fence_acquire()
    else:
        rfp_copy_out(remote, local, end - begin)
        rfp_fence_release()


cdef void strike(reordering *r, scattered *s) noexcept nogil:
    s.last = ALIVE
    if r.how == KILLS:
        kill(getpid(), SIGKILL)
    if r.how == STOPS:
        rfp_store32(&r.held, FOREVER)
    else:
        rfp_store32(&r.dropped, 1)


cdef void move(pair_state *state, reordering *r, scattered *s) noexcept nogil:
    cdef uint32_t n
    if s.delay:
        s.delay -= 1
        return
    if s.stage == MOVED:
        return
    if s.status == SUCCESS:
        s.status = check(&s.request)           # again: the regions may have been closed since
    if s.status == SUCCESS and s.last == s.moved:
        strike(r, s)
        return
    if s.status == SUCCESS and s.order == NULL:
        perform(state, &s.request)
    elif s.status == SUCCESS:
        n = 1 + s.lines // STEPS_MAX
        while n and s.moved != s.lines:
            move_line(s, s.order[s.moved])
            s.moved += 1
            n -= 1
            if s.last == s.moved:
                strike(r, s)
                return
        if s.moved != s.lines:
            return
        if s.request.opcode == WRITE_NOTIFY:
            rfp_eventcount_notify(state.eventcount, &state.waker)
    s.stage = MOVED
    s.delay = below(r, DELAY)


cdef void finish(pair_state *state, reordering *r, uint32_t status, bint always) noexcept nogil:
    cdef scattered *s = &r.requests[r.done % QUEUE_DEPTH]
    free(s.order)
    s.order = NULL
    if always or status != SUCCESS or s.request.flags & SIGNALED:
        complete(state, &s.request, status)
    r.done += 1


cdef void progress(pair_state *state, reordering *r) noexcept nogil:
    cdef bint reads_before = False, writes_before = False
    cdef scattered *s
    cdef uint32_t i = r.done
    while i != r.posted:
        s = &r.requests[i % QUEUE_DEPTH]
        # Nothing overtakes a WRITE; READs and atomics keep their order among themselves.
        if not writes_before and (is_write(&s.request) or not reads_before) and below(r, 4):
            move(state, r, s)
        if s.stage == MOVING:
            if is_write(&s.request):
                writes_before = True
            else:
                reads_before = True
        i += 1
    while r.done != r.posted:
        s = &r.requests[r.done % QUEUE_DEPTH]
        if s.stage == MOVING or s.delay:
            break
        finish(state, r, s.status, False)


cdef void drop(pair_state *state, reordering *r, uint32_t status) noexcept nogil:
    while r.done != r.posted:
        finish(state, r, status, True)


cdef int reorder_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef reordering *r = <reordering *>state.more
    cdef int i
    if rfp_load32(&r.dropped):
        drop(state, r, PEER_GONE)
        return flush_post(pair, requests, n)
    for i in range(n):
        if r.posted - r.done + state.tail - state.head >= QUEUE_DEPTH \
                or not start(r, &r.requests[r.posted % QUEUE_DEPTH], &requests[i]):
            return i
        r.posted += 1
    return n


cdef int reorder_poll(queue_pair *pair, completion *completions, int n) noexcept nogil:
    cdef pair_state *state = <pair_state *>pair.state
    cdef reordering *r = <reordering *>state.more
    cdef uint32_t held = rfp_load32(&r.held)
    if rfp_load32(&r.dropped):
        drop(state, r, PEER_GONE)
    elif held:
        if held != FOREVER:
            rfp_store32(&r.held, held - 1)
    else:
        progress(state, r)
    return take_completions(pair, completions, n)


cdef bint reorder_alive(queue_pair *pair) noexcept nogil:
    return not rfp_load32(&(<reordering *>(<pair_state *>pair.state).more).dropped) and alive(pair)


cdef provider reorder = provider(
    post=reorder_post, poll=reorder_poll, alive=reorder_alive, prepare_wait=prepare_wait, wait=wait,
    cancel_wait=cancel_wait, notify=notify, replenish=replenish)


cdef class ReorderQueuePair(ShmQueuePair):
    """One end of a connection that gives no guarantee beyond the contract."""

    def __cinit__(self):
        cdef reordering *r = <reordering *>calloc(1, sizeof(reordering))
        if r == NULL:
            raise MemoryError
        self.state.more = r
        self.c.reads_ordered = False
        self.c.max_outstanding_reads = OUTSTANDING_READS
        self.c.max_inline = REORDER_INLINE_BYTES

    def __dealloc__(self):
        self.end()

    cdef begin(self, uint64_t *in_bound):
        self.c.ops = &reorder

    cdef void end(self) noexcept:
        if self.state != NULL and self.state.more != NULL:
            drop(self.state, <reordering *>self.state.more, FLUSHED)

    def drop_peer(self):
        """Lose the connection, from any thread.

        alive() returns False, and requests under way complete with PEER_GONE, partly executed.
        """
        rfp_store32(&(<reordering *>self.state.more).dropped, 1)

    def hold(self, uint32_t n):
        """Stop all progress for the next n poll steps, from any thread; 0 ends a hold."""
        rfp_store32(&(<reordering *>self.state.more).held, n)


cdef class ReorderFabric(ShmFabric):
    """Shared memory with the weakest order that the contract allows.

    Args:
        seed: of all random choices; the same seed, calls and polls give the same run, in one
            thread.

    >>> from rfp.fabric.fabric import READ, REMOTE_WRITE
    >>> import os
    >>> fabric = ReorderFabric(seed=1)
    >>> with fabric.register(4096, 3) as mine, fabric.register(4096, 3) as yours:
    ...     theirs = fabric.attach(yours.descriptor(), os.dup(yours.fileno()))
    ...     near = fabric.queue_pair(fabric.event_channel(mine, 0), -1, -1)
    ...     far = fabric.queue_pair(fabric.event_channel(yours, 0), -1, -1)
    ...     near.connect(far.descriptor(), theirs)
    ...     posted = near.post(READ, mine, 64, theirs, 64, 256)
    ...     steps = 0
    ...     while not near.poll():
    ...         yours.write(64, bytes([steps]) * 256)
    ...         steps += 1
    ...     len(set(mine.read(64, 256))) > 1          # four cache lines, of different moments
    True
    """

    def __cinit__(self, *, seed=1):
        self.seed = seed
        self.pairs = weakref.WeakSet()

    def __init__(self, *, seed=1):
        ShmFabric.__init__(self)

    @property
    def reads_ordered(self):
        """False."""
        return False

    cpdef QueuePair queue_pair(self, EventChannel channel,  # no-cython-lint
                               int pidfd, int control):
        """Return one end of a connection; like ShmFabric's."""
        cdef ReorderQueuePair pair = ReorderQueuePair.__new__(ReorderQueuePair)
        # Each pair has a sequence of its own.
        (<reordering *>pair.state.more).random = rfp_random_mix(
            self.seed ^ rfp_random_mix(self.made)) | 1
        self.made += 1
        self.new_pair(pair, channel, pidfd, control)
        self.pairs.add(pair)
        return pair

    def die(self, uint32_t n):
        """Kill this process, as kill -9 does, at the n-th request that is posted from now on.

        It dies before the request, after it, or when some of its cache lines have moved.
        """
        self.doom(n, KILLS)

    def lose(self, uint32_t n):
        """Lose a connection, as drop_peer() does, at its n-th request from now on.

        It is lost at one of the moments of die().
        """
        self.doom(n, LOSES)

    def stop(self, uint32_t n):
        """Stop all progress at the n-th request that is posted from now on, until hold(0).

        It stops at one of the moments of die().
        """
        self.doom(n, STOPS)

    @property
    def stopped(self):
        """Whether stop() has taken effect."""
        return any(
            rfp_load32(&(<reordering *>(<ReorderQueuePair>pair).state.more).held) == FOREVER
            for pair in list(self.pairs))

    cdef void doom(self, uint32_t n, uint32_t how) except *:
        cdef reordering *r
        for pair in list(self.pairs):
            r = <reordering *>(<ReorderQueuePair>pair).state.more
            r.how = how
            r.fatal = n

    def drop_peers(self):
        """Lose all connections, from any thread: see ReorderQueuePair.drop_peer()."""
        for pair in list(self.pairs):
            pair.drop_peer()

    def hold(self, uint32_t n):
        """Stop progress on all connections for the next n poll steps of each; 0 ends a hold.

        May be called from any thread.
        """
        for pair in list(self.pairs):
            pair.hold(n)

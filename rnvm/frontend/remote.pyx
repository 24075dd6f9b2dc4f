"""READs of the pool and calls of the back-end."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport nanosleep, timespec

from rfp.core.core cimport (
    RFP_ASSERT, rfp_copy_in, rfp_fence_acquire, rfp_load32, rfp_now, rfp_pause)
from rfp.fabric.fabric cimport READ, local_region, remote_region, work_request
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, TIMED_OUT, client_ring, client_ring_abandon, client_ring_discard,
    client_ring_flush, client_ring_payload, client_ring_pop, client_ring_response,
    client_ring_submit)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.client.one_sided cimport client_ring_transfers
from rfp.protocol.wire cimport RFP_RESPONSE_HEADER, rfp_response_header
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, ARENA_MISSING, remote_arena, remote_arena_find)
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.messages cimport RNVM_APPLY, RNVM_GOOD, RNVM_NOT_ATTACHED
from rnvm.format.replication cimport RNVM_REPLICATION_LINE, rnvm_replication_line
from rnvm.frontend.state cimport LIVENESS_INTERVAL_NS, frontend
from rnvm.frontend.status cimport FENCED, LATE, LOST, OK, STOPPED

from rfp.errors import DeadlineExceeded, RfpError

cdef enum:
    SIGNAL_INTERVAL_NS = 100000000     # between two polls for signals in a wait
    # without a new time until which a group's primary may answer: it removes a silent mirror before
    SILENCE_NS_MAX = 2000000000
    PAUSE_NS_MIN = 1000
    PAUSE_NS_MAX = 1000000
    PAUSE_SPINS_MIN = 64       # of the first pause


# The link


cdef void link_open(frontend *fe, client_ring *ring, bint mapped,
                    bint polls_liveness) noexcept nogil:
    fe.link.ring = ring
    fe.link.mapped = mapped
    fe.link.polls_liveness = polls_liveness
    fe.link.until = 0xffffffffffffffff          # not read yet
    fe.link.until_since_ns = fe.link.until_read_ns = 0
    fe.link.error = 0


cdef void link_set_pool(frontend *fe, remote_arena *arena, remote_region *pool) noexcept nogil:
    fe.link.arena = arena
    fe.link.pool = pool


cdef void link_set_geometry(frontend *fe, const rnvm_geometry *g) noexcept nogil:
    fe.g = g[0]


cdef void link_set_buffer(frontend *fe, local_region *buffer, uint64_t landing_at,
                          uint64_t landing_bytes) noexcept nogil:
    fe.link.buffer = buffer
    fe.link.landing_at = landing_at
    fe.link.landing_bytes = landing_bytes


cdef bint link_set_mapped(frontend *fe, bint mapped) noexcept nogil:
    cdef bint before = fe.link.mapped
    fe.link.mapped = mapped
    return before


cdef void link_set_owner(frontend *fe, void *owner) noexcept nogil:
    fe.link.owner = owner


cdef void link_poll_liveness(frontend *fe, uint64_t now) noexcept nogil:
    if fe.link.polls_liveness and now > fe.link.alive_ns + LIVENESS_INTERVAL_NS \
            and not fe.link.error:
        fe.link.alive_ns = now
        if not fe.link.ring.pair.ops.alive(fe.link.ring.pair):
            session_fail(fe, LOST)


cdef int status_of(frontend *fe, int outcome) noexcept nogil:
    """The status code for an outcome of the client ring; the connection is lost if it is none."""
    if outcome == DONE:
        return OK
    if outcome == TIMED_OUT:
        return LATE
    if outcome == CLOSED:
        return STOPPED
    return session_fail(fe, LOST)


# READs


cdef int remote_transfers(frontend *fe, work_request *works, int n,
                          uint64_t deadline) noexcept nogil:
    return status_of(fe, client_ring_transfers(fe.link.ring, works, n, deadline))


cdef int attach(frontend *fe, uint64_t offset, uint64_t n) noexcept with gil:
    """Attaches chunks of the pool that were not read before: the back-end registers them."""
    try:
        (<object> fe.link.owner).reach(offset, n)
        return OK
    except DeadlineExceeded:
        return LATE
    except RfpError:
        return session_fail(fe, LOST)
    except BaseException as error:
        (<object> fe.link.owner).interrupt(error)
        return STOPPED


cdef int remote_place(frontend *fe, uint64_t offset, uint64_t n, remote_region **region,
                      uint64_t *at, uint64_t *size) noexcept nogil:
    cdef int outcome = remote_arena_find(fe.link.arena, offset, n, region, at, size)
    cdef int status
    if outcome == ARENA_MISSING:
        status = attach(fe, offset, n)
        if status != OK:
            return status
        outcome = remote_arena_find(fe.link.arena, offset, n, region, at, size)
    if outcome != ARENA_HERE:
        return session_fail(fe, LOST)
    return OK


cdef int remote_read(frontend *fe, uint64_t offset, void *to, uint64_t n) noexcept nogil:
    cdef local_region here
    cdef work_request work
    cdef uint64_t part = 0
    cdef int status
    if fe.link.error:
        return fe.link.error
    fe.stats.reads += 1
    if fe.link.mapped:
        if offset > fe.link.pool.length or n > fe.link.pool.length - offset:
            return session_fail(fe, LOST)
        rfp_copy_in(to, fe.link.pool.base + offset, n)
        rfp_fence_acquire()
        return OK
    work.opcode = READ
    if not fe.link.ring.pair.needs_registration:
        here = local_region(base=<char *> to, length=n, key=0, rights=0)
        work.local = &here
        work.local_offset = 0
        work.remote = fe.link.pool
        work.remote_offset = offset
        work.length = n
        return remote_transfers(fe, &work, 1, fe.link.deadline_ns)
    while n:
        status = remote_place(fe, offset, min(n, fe.link.landing_bytes), &work.remote,
                              &work.remote_offset, &part)
        if status != OK:
            return status
        work.local = fe.link.buffer
        work.local_offset = fe.link.landing_at
        work.length = part
        status = remote_transfers(fe, &work, 1, fe.link.deadline_ns)
        if status != OK:
            return status
        memcpy(to, fe.link.buffer.base + fe.link.landing_at, part)
        to = <char *> to + part
        offset += part
        n -= part
    return OK


cdef int remote_read_pieces(frontend *fe, const uint64_t *offsets, uint32_t count, void *to,
                            uint32_t n) noexcept nogil:
    cdef work_request[REMOTE_PIECES_MAX] works
    cdef uint64_t part = 0
    cdef uint32_t i, got, posted = 0
    cdef int status = fe.link.error
    RFP_ASSERT(count <= REMOTE_PIECES_MAX and count * n <= REMOTE_PIECES_BYTES_MAX)
    for i in range(count):
        got = 0
        while status == OK and got < n:         # a piece may be in two chunks of the pool
            if fe.link.mapped:
                status = remote_read(fe, offsets[i], <char *> to + <uint64_t> i * n, n)
                break
            if posted == REMOTE_PIECES_MAX:
                status = remote_transfers(fe, works, <int> posted, fe.link.deadline_ns)
                posted = 0
            if status == OK:
                status = remote_place(fe, offsets[i] + got, n - got, &works[posted].remote,
                                      &works[posted].remote_offset, &part)
            works[posted].opcode = READ
            works[posted].local = fe.link.buffer
            works[posted].local_offset = fe.link.landing_at + <uint64_t> i * n + got
            works[posted].length = part
            got += <uint32_t> part
            posted += 1
            fe.stats.reads += 1
    if status != OK or fe.link.mapped or not count:
        return status
    status = remote_transfers(fe, works, <int> posted, fe.link.deadline_ns)
    memcpy(to, fe.link.buffer.base + fe.link.landing_at, <uint64_t> count * n)
    return status


# Calls


cdef int free_slot(frontend *fe, char **payload) noexcept nogil:
    """Finds where the next request's payload goes."""
    cdef int status
    payload[0] = client_ring_payload(fe.link.ring)
    while payload[0] == NULL:
        # All slots wait for the responses of calls that timed out.
        if fe.link.ring.lost:
            return status_of(fe, fe.link.ring.lost)
        fe.link.ring.slot[fe.link.ring.tail].abandoned = False
        status = await_response(fe)
        if status != OK:
            return status
        client_ring_discard(fe.link.ring)
        payload[0] = client_ring_payload(fe.link.ring)
    return OK


cdef int await_response(frontend *fe) noexcept nogil:
    """Waits for the response of the oldest request, and abandons it if the wait fails."""
    cdef uint64_t now
    cdef int outcome
    while True:
        now = rfp_now()
        outcome = client_ring_wait(fe.link.ring,
                                   min(fe.link.deadline_ns, now + SIGNAL_INTERVAL_NS))
        if outcome != TIMED_OUT:
            return status_of(fe, outcome)
        if silent(fe, now):
            client_ring_abandon(fe.link.ring)
            return session_fail(fe, LOST)
        if rfp_now() >= fe.link.deadline_ns or interrupted(fe):
            client_ring_abandon(fe.link.ring)
            return LATE if rfp_now() >= fe.link.deadline_ns else STOPPED


cdef int remote_call(frontend *fe, uint8_t opcode, const void *question, uint32_t n, void *answer,
                     uint32_t capacity, uint32_t *got) noexcept nogil:
    cdef char *payload = NULL
    cdef const rfp_response_header *header
    cdef int status
    if fe.link.error:
        return fe.link.error
    fe.stats.calls += 1
    status = free_slot(fe, &payload)
    if status != OK:
        return status
    if n:                                       # else `question` may be NULL
        memcpy(payload, question, n)
    client_ring_submit(fe.link.ring, opcode, 0, 0, n, 0)
    client_ring_flush(fe.link.ring)
    status = await_response(fe)
    if status != OK:
        return status
    header = client_ring_response(fe.link.ring)
    fe.link.status = header.status
    if got != NULL:
        got[0] = min(header.length, capacity)
        if got[0]:
            memcpy(answer, <const char *> header + RFP_RESPONSE_HEADER, got[0])
    client_ring_pop(fe.link.ring)
    if fe.link.status == RNVM_NOT_ATTACHED:
        # Fenced: the call did nothing, and the cached nodes may be out of date.
        return session_fail(fe, FENCED)
    return OK


cdef int remote_ask(frontend *fe, uint8_t opcode, uint64_t number) noexcept nogil:
    return remote_call(fe, opcode, &number, sizeof(number), NULL, 0, NULL)


cdef int remote_apply_logs(frontend *fe) noexcept nogil:
    cdef int status = remote_ask(fe, RNVM_APPLY, 0)
    if status == OK and fe.link.status != RNVM_GOOD:
        session_fail(fe, LOST)
    return fe.link.error if fe.link.error else status


# Waits


cdef bint silent(frontend *fe, uint64_t now) noexcept nogil:
    """In a group: whether the primary was stopped, or cut off, long enough to be replaced.

    Its process is alive then, and its memory can be read.
    """
    cdef rnvm_replication_line line
    if not fe.session.grouped or now < fe.link.until_read_ns + SIGNAL_INTERVAL_NS:
        return False
    fe.link.until_read_ns = now
    if remote_read(fe, RNVM_REPLICATION_LINE, &line, sizeof(line)) != OK:
        return False                            # the wait itself fails
    if line.until != fe.link.until:
        fe.link.until = line.until
        fe.link.until_since_ns = now
    return now - fe.link.until_since_ns > SILENCE_NS_MAX


cdef bint interrupted(frontend *fe) noexcept with gil:
    """Whether a signal handler raised; the exception is kept for the caller."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<object> fe.link.owner).interrupt(error)
        return True
    return False


cdef int remote_wait(frontend *fe, uint64_t *pause_ns) noexcept nogil:
    cdef timespec wanted
    cdef uint64_t now
    cdef int i
    if pause_ns[0] == 0:
        for i in range(PAUSE_SPINS_MIN):
            rfp_pause()
    else:
        wanted.tv_sec = 0
        wanted.tv_nsec = <long> pause_ns[0]
        nanosleep(&wanted, NULL)
    now = rfp_now()
    pause_ns[0] = PAUSE_NS_MIN if pause_ns[0] == 0 \
        else min(2 * pause_ns[0], <uint64_t> PAUSE_NS_MAX)
    if now >= fe.link.deadline_ns:
        return LATE
    if rfp_load32(fe.link.ring.closing):
        return STOPPED
    if pause_ns[0] == PAUSE_NS_MAX:
        if interrupted(fe):
            return STOPPED
        if not fe.link.ring.pair.ops.alive(fe.link.ring.pair) or silent(fe, now):
            return session_fail(fe, LOST)
    return OK

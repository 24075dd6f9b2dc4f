"""The logs of a session, as their writer sees them.

Each is a ring of records in the pool; positions are LSNs, which never wrap (offset = LSN % size):

    operation log    the opcode and the bytes of each operation.  An operation whose record is
                     durable counts as done: after a crash it is executed again, unless a redo
                     record covers it
    redo log         the bytes that each transaction writes, and where.  The back-end applies them

              head           durable                tail
     ring       |               |                    |
      +---------+-------+-------+-------+------+-----+--------------+
      |  free   | rec.  | rec.  | rec.  | rec. | pad | free         |
      +---------+-------+-------+-------+------+-----+--------------+
                 \\_____________/ \\__________________/
                 durable, kept    written, not durable:
                 until applied    in doubt if the session fails now

    head and durable are the back-end's, and published in the session's live words.  No record
    crosses the ring's end: a pad fills the rest.

An operation outside a batch writes both logs in one round trip:

    link.buffer   [pad | operation record ........] [pad | redo record ...........] [landing]
                        |                                 |
                        | WRITE                           | WRITE              READ live words
                        v                                 v                         ^
    pool          operation log                     redo log                session's live words

The operation's record goes first: if only that one arrives, the operation counts, and is executed
again.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rfp.core.core cimport (
    RFP_ASSERT, rfp_copy_out, rfp_fence_full, rfp_fence_release, rfp_load64, rfp_load64_acquire,
    rfp_pause)
from rfp.fabric.fabric cimport READ, WRITE, WRITE_NOTIFY, remote_region, work_request
from rfp.protocol.client.client_ring cimport DONE, TIMED_OUT
from rfp.protocol.client.one_sided cimport client_ring_staggered, client_ring_transfers
from rnvm.media.flush cimport flush_drain, store_lines
from rnvm.format.layout cimport (
    RNVM_LINE, RNVM_NAME_LIVE, RNVM_OPERATION, RNVM_SESSION_LIVE, RNVM_TRANSACTION,
    rnvm_longest_record, rnvm_memory_ring_at, rnvm_name_at, rnvm_operation_ring_at,
    rnvm_pad_before, rnvm_pad_seal, rnvm_record, rnvm_record_length, rnvm_record_seal,
    rnvm_ring_seed, rnvm_session_at, rnvm_up)
from rnvm.format.messages cimport (
    RNVM_GOOD, RNVM_LIVE_FLAGS, RNVM_ROOM, RNVM_STATUS_SPARE, RNVM_SYNC, RNVM_WATCHED)
from rnvm.frontend.promise cimport promise_note_own, promise_wrote
from rnvm.frontend.remote cimport remote_ask, remote_read, remote_wait, session_fail
from rnvm.frontend.state cimport OPERATION_LOG, REDO_LOG, frontend, instance, log_ring
from rnvm.frontend.status cimport FENCED, LATE, LOST, OK, TOO_LONG

cdef enum:
    PAD_BYTES = 64             # in the buffer: from a pad's header to the record
    DURABLE_POLLS = 200        # of the durable LSN, before the back-end is asked for durability
    READ_DELAY_NS_FIRST = 1000         # from a record's WRITE to the READ that finds it durable
    READ_DELAY_NS_MIN = 200
    READ_DELAY_NS_MAX = 10000
    FRAME_AT = 48              # live.frame


# The rings


cdef void logs_init(frontend *fe) noexcept nogil:
    fe.log_io.durable_read_delay_ns = READ_DELAY_NS_FIRST
    fe.log_io.durable_polls = 1


cdef uint64_t log_open(frontend *fe, log_ring *log, uint64_t at, uint64_t offset, uint64_t size,
                       uint64_t tail, uint64_t staging) noexcept nogil:
    log.at = at
    log.offset = offset
    log.size = size
    log.seed = rnvm_ring_seed(fe.g.seed, at)
    log.head = log.durable = log.tail = tail
    log.staging = staging
    RFP_ASSERT(size % RNVM_LINE == 0)
    RFP_ASSERT(staging % RNVM_LINE == 0)
    return staging + rnvm_up(rnvm_longest_record(size) + PAD_BYTES, RNVM_LINE)


cdef uint64_t logs_open(frontend *fe, remote_region *region, uint64_t operations_tail,
                        uint64_t redo_tail) noexcept nogil:
    cdef uint32_t session = fe.session.number
    cdef uint64_t end
    fe.log_io.region = region
    end = log_open(fe, &fe.log[OPERATION_LOG], rnvm_operation_ring_at(&fe.g, session), 0,
                   fe.g.operation_ring, operations_tail, 0)
    return log_open(fe, &fe.log[REDO_LOG], rnvm_memory_ring_at(&fe.g, session),
                    fe.g.operation_ring, fe.g.memory_ring, redo_tail, end)


cdef inline char *pad_of(frontend *fe, const log_ring *log) noexcept nogil:
    return fe.link.buffer.base + log.staging


cdef inline rnvm_record *record_of(frontend *fe, const log_ring *log) noexcept nogil:
    return <rnvm_record *> (fe.link.buffer.base + log.staging + PAD_BYTES)


cdef char *log_payload(frontend *fe, int which) noexcept nogil:
    return <char *> (record_of(fe, &fe.log[which]) + 1)


# Positions that the back-end publishes


cdef inline uint64_t live_at(const frontend *fe) noexcept nogil:
    return rnvm_session_at(&fe.g, fe.session.number) + RNVM_SESSION_LIVE


cdef int adopt_positions(frontend *fe, const live *shown) noexcept nogil:
    """FENCED if the back-end has ended the session."""
    cdef log_ring *operations = &fe.log[OPERATION_LOG]
    cdef log_ring *redo = &fe.log[REDO_LOG]
    if shown.epoch != fe.session.epoch:
        return session_fail(fe, FENCED)
    # Ignore a head out of range: it would let us overwrite records that are still needed.
    if operations.head <= shown.operations_head <= operations.tail:
        operations.head = shown.operations_head
    if redo.head <= shown.memory_head <= redo.tail:
        redo.head = shown.memory_head
    operations.durable = shown.operations_durable
    redo.durable = shown.memory_durable
    if fe.session.replicated and all_durable(fe):
        # Near: after those words, as the back-end stores it before them.  Over a network the
        # replication line, which is READ later, has a frame that suffices.
        promise_note_own(fe, rfp_load64_acquire(fe.link.pool.base + live_at(fe) + FRAME_AT)
                         if fe.link.mapped else 0)
    RFP_ASSERT(operations.head <= operations.tail)
    RFP_ASSERT(redo.head <= redo.tail)
    return OK


cdef int read_positions(frontend *fe) noexcept nogil:
    cdef live shown
    cdef int status = remote_read(fe, live_at(fe), &shown, sizeof(shown))
    return adopt_positions(fe, &shown) if status == OK else status


cdef inline bint all_durable(const frontend *fe) noexcept nogil:
    return fe.log[OPERATION_LOG].durable >= fe.log[OPERATION_LOG].tail \
        and fe.log[REDO_LOG].durable >= fe.log[REDO_LOG].tail


# Space


cdef bint fits(const log_ring *log, uint64_t length) noexcept nogil:
    RFP_ASSERT(log.head <= log.tail)
    RFP_ASSERT(log.tail - log.head <= log.size)
    return log.tail + rnvm_pad_before(log.tail, length, log.size) + length - log.head <= log.size


cdef bint log_has_room(frontend *fe, int which, uint64_t payload) noexcept nogil:
    cdef const log_ring *log = &fe.log[which]
    cdef uint64_t length = rnvm_record_length(payload)
    return fits(log, length) or read_positions(fe) == OK and fits(log, length)


cdef int log_await_room(frontend *fe, int which, uint64_t payload) noexcept nogil:
    cdef const log_ring *log = &fe.log[which]
    cdef uint64_t length = rnvm_record_length(payload)
    cdef uint64_t pause = 0
    cdef int status
    if length > rnvm_longest_record(log.size):
        return TOO_LONG
    while not fits(log, length):
        status = read_positions(fe)
        if status != OK:
            return status
        if fits(log, length):
            break
        status = remote_ask(fe, RNVM_ROOM, 0)
        if status != OK:
            return status
        status = read_positions(fe)
        if status == OK and not fits(log, length):
            status = remote_wait(fe, &pause)
        if status != OK:
            return status
    return OK


cdef bint operation_log_is_long(frontend *fe) noexcept nogil:
    cdef const log_ring *log = &fe.log[OPERATION_LOG]
    if (log.tail - log.head) * 2 <= log.size:
        return False
    # Some of that may be free by now.
    return read_positions(fe) != OK or (log.tail - log.head) * 2 > log.size


# Records


cdef int seal(frontend *fe, int which, uint16_t kind, uint16_t parts, uint32_t payload,
              work_request *works) noexcept nogil:
    """Seals a record, and a pad before it if need be, and fills in the requests that WRITE them;
    their number."""
    cdef log_ring *log = &fe.log[which]
    cdef rnvm_record *record = record_of(fe, log)
    cdef rnvm_record *pad = <rnvm_record *> pad_of(fe, log)
    cdef uint64_t before = rnvm_pad_before(log.tail, rnvm_record_length(payload), log.size)
    cdef int n = 0
    RFP_ASSERT(fits(log, rnvm_record_length(payload)))
    RFP_ASSERT(payload <= log_room(fe, which))
    if before:
        rnvm_pad_seal(pad, log.seed, log.tail, fe.session.epoch, <uint32_t> before)
        works[n].local_offset = log.staging
        works[n].remote_offset = log.offset + log.tail % log.size
        works[n].length = sizeof(rnvm_record)
        n += 1
        log.tail += before
    rnvm_record_seal(record, log.seed, log.tail, fe.session.epoch, kind, parts, record + 1, payload)
    works[n].local_offset = log.staging + PAD_BYTES
    works[n].remote_offset = log.offset + log.tail % log.size
    works[n].length = sizeof(rnvm_record) + payload
    fe.in_doubt.any = fe.in_doubt.written[which] = True
    fe.in_doubt.lsn[which] = log.tail
    log.tail += record.length
    RFP_ASSERT(record.length == rnvm_record_length(payload))
    RFP_ASSERT(log.tail % RNVM_LINE == 0)
    return n + 1


cdef void store_records(frontend *fe, const work_request *works, int n) noexcept nogil:
    """Copies records into the mapped rings."""
    cdef char *ring = fe.log_io.region.base
    cdef const char *buffer = fe.link.buffer.base
    cdef int i
    for i in range(n):
        if fe.session.flushes and fe.session.persistent:
            # A record begins and ends with a cache line, in the ring as in the buffer.
            store_lines(ring + works[i].remote_offset, buffer + works[i].local_offset,
                        rnvm_up(works[i].length, RNVM_LINE))
        else:
            rfp_copy_out(ring + works[i].remote_offset, buffer + works[i].local_offset,
                         works[i].length)
    rfp_fence_release()


cdef int write_and_read_positions(frontend *fe, work_request *works, int n) noexcept nogil:
    """Over a network: WRITEs, then a READ of the durable positions in the same round trip.

    The READ is delayed by the time that the back-end needs to make the records durable, so that one
    READ is enough.  The delay adapts.
    """
    cdef live shown
    cdef int outcome, status
    RFP_ASSERT(not fe.link.mapped)
    works[n].opcode = READ
    works[n].local = fe.link.buffer
    works[n].local_offset = fe.link.landing_at
    works[n].remote = fe.link.pool
    works[n].remote_offset = live_at(fe)
    works[n].length = sizeof(live)
    fe.stats.reads += 1
    outcome = client_ring_staggered(fe.link.ring, works, n + 1, fe.log_io.durable_read_delay_ns,
                                    fe.link.deadline_ns)
    if outcome != DONE:
        return unsure(fe, outcome)
    memcpy(&shown, fe.link.buffer.base + fe.link.landing_at, sizeof(live))
    status = adopt_positions(fe, &shown)
    if all_durable(fe):
        fe.log_io.durable_read_delay_ns = max(
            fe.log_io.durable_read_delay_ns - fe.log_io.durable_read_delay_ns // 64,
            <uint64_t> READ_DELAY_NS_MIN)
    else:
        fe.log_io.durable_read_delay_ns = min(
            fe.log_io.durable_read_delay_ns + fe.log_io.durable_read_delay_ns // 4,
            <uint64_t> READ_DELAY_NS_MAX)
    return status


cdef int unsure(frontend *fe, int outcome) noexcept nogil:
    """The WRITEs have not completed.  Also after a time-out the session ends: a record that may be
    in the log must not be written a second time, and only a new session knows."""
    session_fail(fe, LOST)
    return LATE if outcome == TIMED_OUT else LOST


cdef int logs_write(frontend *fe, uint32_t operation_bytes, uint16_t operation_parts,
                    uint32_t redo_bytes, uint16_t redo_parts) noexcept nogil:
    cdef work_request[5] works
    cdef int n = 0, i, outcome
    if fe.link.error:
        return fe.link.error
    memset(works, 0, sizeof(works))
    if operation_bytes:
        n += seal(fe, OPERATION_LOG, RNVM_OPERATION, operation_parts, operation_bytes, works)
    if redo_bytes:
        n += seal(fe, REDO_LOG, RNVM_TRANSACTION, redo_parts, redo_bytes, works + n)
    fe.stats.writes += n
    RFP_ASSERT(n >= 1)
    RFP_ASSERT(n <= 4)
    if fe.link.mapped:
        store_records(fe, works, n)
        if counts_when_stored(fe):
            return OK
        # The back-end makes the records durable; it may be asleep: an empty WRITE wakes it.
        memset(works, 0, sizeof(work_request))
        n = 1
    for i in range(n):
        works[i].opcode = WRITE
        works[i].local = fe.link.buffer
        works[i].remote = fe.log_io.region
    works[n - 1].opcode = WRITE_NOTIFY
    if not fe.link.mapped and fe.session.persistent:
        return write_and_read_positions(fe, works, n)
    outcome = client_ring_transfers(fe.link.ring, works, n, fe.link.deadline_ns)
    return OK if outcome == DONE else unsure(fe, outcome)


# Durability


cdef int logs_await_durable(frontend *fe) noexcept nogil:
    cdef int status = await_durable(fe)
    if status == OK:
        if fe.in_doubt.any and (fe.session.replicated or fe.session.guarded):
            promise_wrote(fe, &fe.in_doubt, fe.session.replicated and fe.link.mapped
                          and counts_when_stored(fe))
        in_doubt_clear(fe)
    elif fe.in_doubt.any and not fe.link.error:
        session_fail(fe, LOST)                  # only the end of the session decides which count
    return status


cdef inline bint counts_when_stored(const frontend *fe) noexcept nogil:
    """Whether records in mapped rings count without the back-end.

    With mirrors they must be in a frame, but for the operations of a batch: its redo record, at the
    end, waits for that, and no other front-end counts them before.
    """
    if not fe.session.persistent:
        return True
    return fe.session.direct and (not fe.session.replicated or fe.scope.batching
                                  and not fe.in_doubt.written[REDO_LOG])


cdef int await_durable(frontend *fe) noexcept nogil:
    cdef int status, i, polls = DURABLE_POLLS
    if fe.link.error:
        return fe.link.error
    if fe.link.mapped and counts_when_stored(fe):
        return confirm_stores(fe)
    if fe.link.mapped:
        polls = fe.log_io.durable_polls
    for i in range(polls):
        # If logs_write() has READ positions that suffice, it has also validated the session.
        if fe.link.mapped or not fe.session.persistent or not all_durable(fe):
            status = read_positions(fe)
            if status != OK:
                return status
        if not fe.session.persistent or all_durable(fe):
            fe.log_io.durable_polls = DURABLE_POLLS
            return OK
        if fe.link.mapped:
            rfp_pause()
    # While a disk syncs, polling only takes the processor from threads that could use it.
    fe.log_io.durable_polls = max(fe.log_io.durable_polls // 2, 1)
    status = remote_ask(fe, RNVM_SYNC, 0)
    if status == OK and fe.link.status != RNVM_GOOD:
        return session_fail(fe, LOST)
    if status == OK:
        status = read_positions(fe)
    if status == OK and not all_durable(fe):
        # RNVM_SYNC makes all whole records durable: one of ours is not whole.
        return session_fail(fe, LOST)
    return status


cdef int logs_await_frames(frontend *fe) noexcept nogil:
    cdef int status = read_positions(fe)
    if status == OK and not all_durable(fe):
        status = remote_ask(fe, RNVM_SYNC, 0)
        if status == OK and fe.link.status == RNVM_GOOD:
            status = read_positions(fe)
        if status == OK and not all_durable(fe):
            status = session_fail(fe, LOST)
    return status


cdef int confirm_stores(frontend *fe) noexcept nogil:
    """Mapped rings whose records become durable without the back-end."""
    cdef work_request work
    RFP_ASSERT(fe.link.mapped)
    if fe.session.persistent and fe.session.flushes:
        flush_drain()
    # The records must be visible before the epoch is read: the back-end raises the epoch first, and
    # reads the records then.
    rfp_fence_full()
    if rfp_load64(fe.link.pool.base + live_at(fe)) != fe.session.epoch:
        return session_fail(fe, FENCED)
    if watched(fe):
        # The back-end may be asleep, and threads wait for what it applies: an empty WRITE wakes it.
        # The records count, so the outcome does not matter.
        memset(&work, 0, sizeof(work))
        work.opcode = WRITE_NOTIFY
        work.local = fe.link.buffer
        work.remote = fe.log_io.region
        client_ring_transfers(fe.link.ring, &work, 1, fe.link.deadline_ns)
    return OK


cdef bint watched(frontend *fe) noexcept nogil:
    """Whether threads wait for a change of a structure that was changed since the last call.

    The full fence in confirm_stores() precedes: the back-end sees the records, or we see its word.
    """
    cdef instance *s
    cdef bint any = False
    cdef uint32_t i
    for i in range(fe.open.count):
        s = fe.open.items[i]
        if s.unannounced:
            s.unannounced = False
            any |= rfp_load64(fe.link.pool.base + rnvm_name_at(&fe.g, s.index) + RNVM_NAME_LIVE
                              + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_FLAGS)) & RNVM_WATCHED != 0
    return any

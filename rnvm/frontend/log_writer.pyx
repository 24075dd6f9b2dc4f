# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The logs of a session, as their writer sees them (the contract is in _journal.pxd)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_copy_out, rfp_fence_full, rfp_fence_release, rfp_load64, rfp_pause
from rfp.fabric.fabric cimport READ, WRITE, WRITE_NOTIFY, work_request
from rfp.protocol.client.client_ring cimport DONE, TIMED_OUT
from rfp.protocol.client.one_sided cimport client_ring_staggered, client_ring_transfers
from rnvm.format.layout cimport (
    RNVM_LINE, RNVM_OPERATION, RNVM_SESSION_LIVE, RNVM_TRANSACTION, rnvm_longest_record,
    rnvm_pad_before, rnvm_pad_seal, rnvm_record, rnvm_record_length, rnvm_record_seal,
    rnvm_session_at, rnvm_up,
)
from rnvm.format.messages cimport RNVM_ROOM, RNVM_SYNC, RNVM_GOOD
from rnvm.frontend.status cimport FENCED, LATE, LOST, OK, TOO_LONG
from rnvm.frontend.remote cimport remote_ask, remote_patience, remote_read
from rnvm.media.flush cimport flush_drain, store_lines

cdef enum:
    LINES = 64                 # between the pad's header and the record, where they are made
    LOOKS = 200                # at the durable LSN, before the back-end is asked to make it so
    SHORTEST = 200             # ns between a record's WRITE and the READ that finds it durable
    LONGEST = 10000


cdef inline char *pad_of(frontend *fe, journal *j) noexcept nogil:
    return fe.buffer.base + j.staging


cdef inline rnvm_record *record_of(frontend *fe, journal *j) noexcept nogil:
    return <rnvm_record *> (fe.buffer.base + j.staging + LINES)


cdef char *journal_payload(frontend *fe, journal *j) noexcept nogil:
    return <char *> (record_of(fe, j) + 1)


cdef uint64_t journal_room(const journal *j) noexcept nogil:
    return rnvm_longest_record(j.size) - sizeof(rnvm_record)


cdef inline uint64_t live_at(const frontend *fe) noexcept nogil:
    return rnvm_session_at(&fe.g, fe.session) + RNVM_SESSION_LIVE


cdef int hear(frontend *fe, const live *shown) noexcept nogil:
    """How far the back-end is; FENCED where it has taken the session away."""
    if shown.epoch != fe.epoch:
        fe.trouble = FENCED
        return FENCED
    # Never believed beyond what this side knows: a wrong number would let it overwrite what is still needed.
    if fe.operations.head <= shown.operations_head <= fe.operations.tail:
        fe.operations.head = shown.operations_head
    if fe.memory.head <= shown.memory_head <= fe.memory.tail:
        fe.memory.head = shown.memory_head
    fe.operations.durable = shown.operations_durable
    fe.memory.durable = shown.memory_durable
    return OK


cdef int journal_hear(frontend *fe) noexcept nogil:
    cdef live shown
    cdef int found = remote_read(fe, live_at(fe), &shown, sizeof(shown))
    return hear(fe, &shown) if found == OK else found


cdef inline bint all_durable(const frontend *fe) noexcept nogil:
    return fe.operations.durable >= fe.operations.tail and fe.memory.durable >= fe.memory.tail


cdef bint fits(const journal *j, uint64_t length) noexcept nogil:
    return j.tail + rnvm_pad_before(j.tail, length, j.size) + length - j.head <= j.size


cdef bint journal_has_room(frontend *fe, journal *j, uint64_t payload) noexcept nogil:
    cdef uint64_t length = rnvm_record_length(payload)
    return fits(j, length) or journal_hear(fe) == OK and fits(j, length)


cdef int journal_wait(frontend *fe, journal *j, uint64_t payload) noexcept nogil:
    cdef uint64_t length = rnvm_record_length(payload)
    cdef uint64_t pause = 0
    cdef int found
    if length > rnvm_longest_record(j.size):
        return TOO_LONG
    while not fits(j, length):
        found = journal_hear(fe)
        if found != OK:
            return found
        if fits(j, length):
            break
        found = remote_ask(fe, RNVM_ROOM, 0)
        if found != OK:
            return found
        found = journal_hear(fe)
        if found == OK and not fits(j, length):
            found = remote_patience(fe, &pause)
        if found != OK:
            return found
    return OK


cdef int add(frontend *fe, journal *j, uint16_t kind, uint16_t parts, uint32_t length, work_request *works) noexcept nogil:
    """Seals a record (and a pad) and says what is to be WRITTEN; how many requests."""
    cdef rnvm_record *record = record_of(fe, j)
    cdef rnvm_record *pad = <rnvm_record *> pad_of(fe, j)
    cdef uint64_t before = rnvm_pad_before(j.tail, rnvm_record_length(length), j.size)
    cdef int n = 0, which = j == &fe.memory
    if before:
        rnvm_pad_seal(pad, j.seed, j.tail, fe.epoch, <uint32_t> before)
        works[n].local_offset = j.staging
        works[n].remote_offset = j.offset + j.tail % j.size
        works[n].length = sizeof(rnvm_record)
        n += 1
        j.tail += before
    rnvm_record_seal(record, j.seed, j.tail, fe.epoch, kind, parts, record + 1, length)
    works[n].local_offset = j.staging + LINES
    works[n].remote_offset = j.offset + j.tail % j.size
    works[n].length = sizeof(rnvm_record) + length
    fe.doubt.any = fe.doubt.written[which] = True
    fe.doubt.lsn[which] = j.tail
    j.tail += record.length
    return n + 1


cdef int journal_write(frontend *fe, uint32_t operations, uint16_t operation_parts, uint32_t memory,
                       uint16_t memory_parts) noexcept nogil:
    cdef work_request[5] works
    cdef live shown
    cdef int n = 0, i, found
    if fe.trouble:
        return fe.trouble
    memset(works, 0, sizeof(works))
    if operations:
        n += add(fe, &fe.operations, RNVM_OPERATION, operation_parts, operations, works)
    if memory:
        n += add(fe, &fe.memory, RNVM_TRANSACTION, memory_parts, memory, works + n)
    fe.writes += n
    if fe.near:
        for i in range(n):
            if fe.flushed and fe.persistent:
                # Records begin with a line and end with one, in the ring as where they were made.
                store_lines(fe.logs.base + works[i].remote_offset, fe.buffer.base + works[i].local_offset,
                            rnvm_up(works[i].length, RNVM_LINE))
            else:
                rfp_copy_out(fe.logs.base + works[i].remote_offset, fe.buffer.base + works[i].local_offset, works[i].length)
        rfp_fence_release()
        if fe.direct or not fe.persistent:
            return OK
        # The back-end makes it durable: it may sleep.
        memset(works, 0, sizeof(work_request))
        n = 1
    for i in range(n):
        works[i].opcode = WRITE
        works[i].local = fe.buffer
        works[i].remote = fe.logs
    works[n - 1].opcode = WRITE_NOTIFY
    if fe.near or not fe.persistent:
        found = client_ring_transfers(fe.ring, works, n, fe.deadline)
    else:
        # Behind them comes a READ of how far the back-end is, as late as it needs to make them durable: then one is enough.
        works[n].opcode = READ
        works[n].local = fe.buffer
        works[n].local_offset = fe.landing
        works[n].remote = fe.pool
        works[n].remote_offset = live_at(fe)
        works[n].length = sizeof(live)
        fe.reads += 1
        found = client_ring_staggered(fe.ring, works, n + 1, fe.linger, fe.deadline)
        if found == DONE:
            memcpy(&shown, fe.buffer.base + fe.landing, sizeof(live))
            found = hear(fe, &shown)
            if all_durable(fe):
                fe.linger = max(fe.linger - fe.linger // 64, <uint64_t> SHORTEST)
            else:
                fe.linger = min(fe.linger + fe.linger // 4, <uint64_t> LONGEST)
            return found
    if found == DONE:
        return OK
    # Also where only the time is over: what may be in the log must not be written a second time.  A new session tells.
    fe.trouble = LOST
    return LATE if found == TIMED_OUT else LOST


cdef void journal_trust(frontend *fe) noexcept nogil:
    memset(&fe.doubt, 0, sizeof(fe.doubt))


cdef int journal_settle(frontend *fe) noexcept nogil:
    cdef int found = settle(fe)
    if found == OK:
        journal_trust(fe)
    elif fe.doubt.any and not fe.trouble:
        fe.trouble = LOST                       # only the end of the session tells what counts
    return found


cdef int settle(frontend *fe) noexcept nogil:
    cdef int found, looks, most = LOOKS
    if fe.trouble:
        return fe.trouble
    if fe.near and (fe.direct or not fe.persistent):
        if fe.persistent and fe.flushed:
            flush_drain()
        # What was written must be visible before the epoch is looked at: the back-end raises it, and then looks at what was
        # written.
        rfp_fence_full()
        if rfp_load64(fe.pool.base + rnvm_session_at(&fe.g, fe.session) + RNVM_SESSION_LIVE) != fe.epoch:
            fe.trouble = FENCED
            return FENCED
        return OK
    if fe.near:
        most = fe.looks
    for looks in range(most):
        # Where journal_write() has heard enough already, it has also heard that the session is still ours.
        if fe.near or not fe.persistent or not all_durable(fe):
            found = journal_hear(fe)
            if found != OK:
                return found
        if not fe.persistent or all_durable(fe):
            fe.looks = LOOKS
            return OK
        if fe.near:
            rfp_pause()
    # Waiting for a disk, looks only take the processor from those who have something to do.
    fe.looks = max(fe.looks // 2, 1)
    found = remote_ask(fe, RNVM_SYNC, 0)
    if found == OK and fe.refusal != RNVM_GOOD:
        fe.trouble = LOST
        return LOST
    if found == OK:
        found = journal_hear(fe)
    if found == OK and not all_durable(fe):
        # What is whole there was made durable: so something is not whole.
        fe.trouble = LOST
        return LOST
    return found

"""Pulling a writer's redo log.

Why the overlay is right
------------------------
Let T(n) be the transactions of a structure and M(n) its memory after T(1) ... T(n).  The status
line says that the holder's log is applied up to an LSN, and with it everything that earlier holders
wrote.  So memory is M(j), with parts of T(j + 1) that the back-end is applying, for some j.  The
log contains T(i + 1) ... T(k), i <= j, from that LSN on.  Written in order over the bytes of a
READ, they make it M(k), however far the back-end is, as long as it has not begun T(k + 1): a byte
that one of them writes gets the last one's value; any other byte is in M(j) as in M(k); and parts
of T(j + 1), if j < k, are overwritten.  (Logs are physical: bytes and their addresses.)  So each
node that was READ before the sequence rose above 2 k is that of M(k), the odd sequences below 2 k
included, and one poll of the sequence at the end validates all of them.

Which records count
-------------------
Records that are whole, consecutive, of the session's epoch, and that cannot be undone:

- Those before the durable position that the back-end publishes.  One that is not whole there was
  overwritten: restart.
- A writer that stores into a log that is itself persistent acknowledges before the back-end has
  published anything.  Then whole records are taken, made durable if the writer has not done that
  yet, and only then the epoch is read again, after a full fence.  If the epoch has not changed, a
  back-end that raises it later reads the log after that and finds the same records whole; so they
  count.  A record that is not whole was not acknowledged, unless it was overwritten; the head shows
  that.

The next query continues where this one ended, as long as the same holder has the lock: nothing is
pulled twice, and a reader that has seen T(k) never goes back before it.  With another holder, or
none, all of the log has been applied.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_fence_full, rfp_load64, rfp_load64_acquire
from rnvm.media.flush cimport flush, flush_drain
from rnvm.format.layout cimport (
    RNVM_NO_BLOCK, RNVM_PAD, RNVM_SESSION_LIVE, RNVM_TRANSACTION, RNVM_WRITE, rnvm_backend,
    rnvm_block_of, rnvm_entry, rnvm_entry_next, rnvm_longest_record, rnvm_memory_ring_at,
    rnvm_offset, rnvm_part, rnvm_part_next, rnvm_record, rnvm_record_crc, rnvm_record_fits,
    rnvm_ring_seed, rnvm_sequence_of, rnvm_session_at)
from rnvm.frontend.byte_buffer cimport buffer_free, buffer_reserve
from rnvm.frontend.log_writer cimport live
from rnvm.frontend.promise cimport promise_note
from rnvm.frontend.remote cimport remote_read
from rnvm.frontend.state cimport frontend, instance, overlay, patch
from rnvm.frontend.status cimport AGAIN, NO_MEMORY, OK
from rnvm.frontend.status_line cimport status_line

cdef enum:
    LOG_BYTES_MAX = 262144     # to pull: if more is not applied, asking the back-end is faster
    PATCHES_MIN = 256          # of the first allocation
    PAGE_BITS = 12
    NOWHERE = 0xffffffff
    RECORD_LSN_OFFSET = 8      # rnvm_record.lsn
    MEMORY_HEAD_OFFSET = 24    # live.memory_head
    SESSION_FRAME_AT = 48          # live.frame

cdef uint32_t all_checks = OVERLAY_CHECK_CRC | OVERLAY_CHECK_EPOCH | OVERLAY_CHECK_ORDER | \
    OVERLAY_CHECK_HEAD | OVERLAY_CHECK_DURABLE | OVERLAY_CHECK_PUBLISHED
cdef uint32_t overlay_checks = all_checks


def _skip_checks(uint32_t skipped):
    """Take records without these checks, for tests only."""
    global overlay_checks
    overlay_checks = all_checks & ~skipped


cdef struct source:            # the log that is pulled
    uint64_t at                # its ring's offset in the pool
    uint64_t size
    uint32_t seed
    uint64_t epoch
    uint64_t live_at           # the session's live words


cdef int overlay_pull(instance *s, const status_line *seen, uint64_t *state) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef source from_
    cdef uint64_t session = (seen.holder & 0xffff) - 1
    cdef overlay *o
    cdef int status
    if session >= fe.g.sessions:                # several front-ends share the lock
        overlay_clear(s)
        return ASK_BACKEND
    if s.pulled == NULL:
        s.pulled = <overlay *> calloc(1, sizeof(overlay))
        if s.pulled == NULL:
            return NO_MEMORY
    o = s.pulled
    # Also if most of it has been applied: pulling the rest again costs less than keeping all of it.
    if o.word != seen.holder or seen.replayed > o.first \
            and seen.replayed - o.first > (o.upto - o.first) // 2:
        begin(o, seen.holder, seen.replayed)
    from_.at = rnvm_memory_ring_at(&fe.g, <uint32_t> session)
    from_.size = fe.g.memory_ring
    from_.seed = rnvm_ring_seed(fe.g.seed, from_.at)
    from_.live_at = rnvm_session_at(&fe.g, <uint32_t> session) + RNVM_SESSION_LIVE
    status = pull(s, seen, &from_)
    if status == OK:
        state[0] = rnvm_sequence_of(o.number) if o.number else seen.sequence
        # A transaction that is or was being applied is among those that were pulled; otherwise the
        # line is out of date.
        if not state[0] & 1 and seen.sequence <= state[0]:
            return OK
        status = AGAIN
    begin(o, 0, 0)
    return status


cdef void begin(overlay *o, uint64_t word, uint64_t lsn) noexcept nogil:
    """Nothing is pulled yet of this holder's log from here on."""
    o.word = word
    o.first = o.upto = lsn
    o.number = 0
    o.count = 0
    memset(o.heads, 0xff, sizeof(o.heads))


cdef void overlay_clear(instance *s) noexcept nogil:
    if s.pulled != NULL:
        begin(s.pulled, 0, 0)


cdef void overlay_free(instance *s) noexcept nogil:
    if s.pulled != NULL:
        buffer_free(&s.pulled.log)
        free(s.pulled.patches)
        free(s.pulled)
        s.pulled = NULL


# Pulling


cdef int pull(instance *s, const status_line *seen, source *from_) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef overlay *o = s.pulled
    cdef live shown
    cdef uint64_t until
    cdef int status
    if fe.link.mapped and nothing_new(fe, from_, o.upto):
        return OK
    status = remote_read(fe, from_.live_at, &shown, sizeof(shown))
    if status != OK:
        return status
    from_.epoch = shown.epoch
    # Records that are not published as durable are in no frame yet.
    if not shown.awaits and (not (fe.link.mapped and fe.session.direct) or fe.session.replicated
                             and overlay_checks & OVERLAY_CHECK_PUBLISHED):
        return ASK_BACKEND
    if fe.session.replicated:
        status = note_frame(fe, from_)
        if status != OK:
            return status
    if not shown.awaits or not overlay_checks & OVERLAY_CHECK_DURABLE:
        return pull_whole(s, from_, &shown, seen.sequence)
    until = shown.memory_durable
    if until <= o.upto:
        return OK
    if until - o.first > LOG_BYTES_MAX:
        return ASK_BACKEND
    return pull_published(s, from_, until, seen.sequence)


cdef int note_frame(frontend *fe, const source *from_) noexcept nogil:
    """The frame word of the log, after its durable words: the back-end stores it before them."""
    cdef uint64_t frame = 0
    cdef int status = OK
    if fe.link.mapped:
        frame = rfp_load64_acquire(fe.link.pool.base + from_.live_at + SESSION_FRAME_AT)
    else:
        status = remote_read(fe, from_.live_at + SESSION_FRAME_AT, &frame, sizeof(frame))
    if status == OK:
        promise_note(fe, frame)
    return status


cdef inline bint nothing_new(const frontend *fe, const source *from_, uint64_t lsn) noexcept nogil:
    """For a mapped log: two loads show that nothing was written there, and nothing overwritten."""
    cdef const char *pool = fe.link.pool.base
    cdef uint64_t next = rfp_load64_acquire(pool + from_.at + lsn % from_.size + RECORD_LSN_OFFSET)
    return next != lsn and (not overlay_checks & OVERLAY_CHECK_HEAD or rfp_load64(
        pool + from_.live_at + MEMORY_HEAD_OFFSET) <= lsn)


cdef int read_log(frontend *fe, const source *from_, uint64_t lsn, void *to,
                  uint64_t n) noexcept nogil:
    """n bytes of the log, which may cross the end of its ring."""
    cdef uint64_t place = lsn % from_.size
    cdef uint64_t first = min(n, from_.size - place)
    cdef int status = remote_read(fe, from_.at + place, to, first)
    if status == OK and first < n:
        status = remote_read(fe, from_.at, <char *> to + first, n - first)
    return status


cdef inline bint fits(const source *from_, const rnvm_record *header, uint64_t lsn) noexcept nogil:
    cdef uint64_t epoch = from_.epoch if overlay_checks & OVERLAY_CHECK_EPOCH else header.epoch
    return rnvm_record_fits(header, lsn, epoch, from_.size - lsn % from_.size,
                            rnvm_longest_record(from_.size))


cdef inline bint crc_matches(const source *from_, const rnvm_record *record) noexcept nogil:
    return not overlay_checks & OVERLAY_CHECK_CRC \
        or rnvm_record_crc(from_.seed, record, record + 1) == record.crc


cdef int pull_published(instance *s, const source *from_, uint64_t until,
                        uint64_t sequence) noexcept nogil:
    """Everything before the published durable position: one READ, or two at the ring's end."""
    cdef overlay *o = s.pulled
    cdef rnvm_record *record
    cdef uint64_t n = until - o.upto
    cdef int status
    if not buffer_reserve(&o.log, until - o.first):
        return NO_MEMORY
    status = read_log(s.fe, from_, o.upto, o.log.bytes + (o.upto - o.first), n)
    while status == OK and o.upto < until:
        record = <rnvm_record *> (o.log.bytes + (o.upto - o.first))
        if until - o.upto < sizeof(rnvm_record) or not fits(from_, record, o.upto) \
                or record.length > until - o.upto or not crc_matches(from_, record):
            return AGAIN
        status = take_record(s, record, sequence)
        o.upto += record.length
    return status


cdef int pull_whole(instance *s, const source *from_, const live *shown,
                    uint64_t sequence) noexcept nogil:
    """All whole records of a log in memory that is mapped here."""
    cdef frontend *fe = s.fe
    cdef overlay *o = s.pulled
    cdef rnvm_record *record
    cdef rnvm_record header
    cdef live after
    cdef uint64_t begun = o.upto, place
    cdef int status = OK
    while status == OK:
        status = read_log(fe, from_, o.upto, &header, sizeof(header))
        if status != OK or header.lsn != o.upto:
            break
        if overlay_checks & OVERLAY_CHECK_EPOCH and header.epoch != from_.epoch:
            return AGAIN                        # its writer is being fenced
        if not fits(from_, &header, o.upto):
            break
        if o.upto - o.first + header.length > LOG_BYTES_MAX:
            return ASK_BACKEND
        if not buffer_reserve(&o.log, o.upto - o.first + header.length):
            return NO_MEMORY
        record = <rnvm_record *> (o.log.bytes + (o.upto - o.first))
        record[0] = header
        status = read_log(fe, from_, o.upto + sizeof(header), record + 1, header.payload)
        if status != OK or not crc_matches(from_, record):
            break
        if fe.session.flushes and o.upto >= shown.memory_durable:
            place = from_.at + o.upto % from_.size
            flush(fe.link.pool.base + place, sizeof(rnvm_record) + record.payload)
        status = take_record(s, record, sequence)
        o.upto += record.length
    if status != OK:
        return status
    if fe.session.flushes:
        flush_drain()
    rfp_fence_full()
    status = remote_read(fe, from_.live_at, &after, sizeof(after))
    if status == OK and (overlay_checks & OVERLAY_CHECK_EPOCH and after.epoch != from_.epoch
                         or overlay_checks & OVERLAY_CHECK_HEAD and after.memory_head > begun):
        return AGAIN
    return status


# Records


cdef int take_record(instance *s, const rnvm_record *record, uint64_t sequence) noexcept nogil:
    """A whole record, in private memory."""
    cdef const rnvm_part *part
    cdef uint64_t at = 0
    cdef uint32_t i
    cdef int status
    if record.kind == RNVM_PAD:
        return OK
    if record.kind != RNVM_TRANSACTION:
        return ASK_BACKEND
    for i in range(record.parts):
        part = rnvm_part_next(<const char *> (record + 1), record.payload, &at)
        if part == NULL:
            return ASK_BACKEND
        if part.structure == s.id:
            status = take_part(s, part, sequence)
            if status != OK:
                return status
    return OK


cdef int take_part(instance *s, const rnvm_part *part, uint64_t sequence) noexcept nogil:
    """Adds the bytes that a transaction writes into this structure."""
    cdef overlay *o = s.pulled
    cdef const rnvm_entry *entry
    cdef uint64_t within = 0
    if overlay_checks & OVERLAY_CHECK_ORDER:
        # The first one may be applied already; its predecessor is, for certain.
        if part.number != o.number + 1 if o.number \
                else not part.number or rnvm_sequence_of(part.number - 1) > sequence:
            return AGAIN
    while within < part.length:
        entry = rnvm_entry_next(part, &within)
        if entry == NULL:
            return ASK_BACKEND
        if entry.kind == RNVM_WRITE:
            if not in_data(s.fe, entry):
                return ASK_BACKEND
            if not add_patches(o, rnvm_offset(entry.address), entry.length,
                               <uint64_t> (<const char *> (entry + 1) - o.log.bytes)):
                return NO_MEMORY
    o.number = part.number
    return OK


cdef bint in_data(const frontend *fe, const rnvm_entry *entry) noexcept nogil:
    """Whether an entry writes into the pool's data.  Whose data, the replayer checks: it fences a
    writer that writes into another structure's."""
    cdef uint64_t offset = rnvm_offset(entry.address), first, last
    if rnvm_backend(entry.address) != fe.g.backend or not entry.length:
        return False
    first = rnvm_block_of(&fe.g, offset)
    last = rnvm_block_of(&fe.g, offset + entry.length - 1)
    return first != RNVM_NO_BLOCK and last != RNVM_NO_BLOCK \
        and first // fe.g.group_blocks == last // fe.g.group_blocks


# Patches


cdef inline uint32_t list_of(const overlay *o, uint64_t page) noexcept nogil:
    return <uint32_t> page & (sizeof(o.heads) // sizeof(o.heads[0]) - 1)


cdef bint reserve_patch(overlay *o) noexcept nogil:
    cdef uint32_t room = 2 * o.patch_room if o.patch_room else PATCHES_MIN
    cdef patch *grown
    if o.count < o.patch_room:
        return True
    grown = <patch *> realloc(o.patches, room * sizeof(patch))
    if grown == NULL:
        return False
    o.patches = grown
    o.patch_room = room
    return True


cdef bint add_patches(overlay *o, uint64_t offset, uint64_t length,
                      uint64_t bytes) noexcept nogil:
    """One for each page; those of a page are in one list, in the order of the log."""
    cdef uint64_t page = offset >> PAGE_BITS, begins, ends
    cdef uint32_t i
    cdef patch *p
    while page << PAGE_BITS < offset + length:
        if not reserve_patch(o):
            return False
        begins = max(offset, page << PAGE_BITS)
        ends = min(offset + length, page + 1 << PAGE_BITS)
        p = &o.patches[o.count]
        p.offset = begins
        p.length = <uint32_t> (ends - begins)
        p.bytes = <uint32_t> (bytes + begins - offset)
        p.next = NOWHERE
        i = list_of(o, page)
        if o.heads[i] == NOWHERE:
            o.heads[i] = o.count
        else:
            o.patches[o.tails[i]].next = o.count
        o.tails[i] = o.count
        o.count += 1
        page += 1
    return True


cdef void overlay_patch(const instance *s, uint64_t offset, char *bytes, uint64_t n) noexcept nogil:
    cdef const overlay *o = s.pulled
    cdef const patch *p
    cdef uint64_t page = offset >> PAGE_BITS, begins, ends
    cdef uint32_t i
    if o == NULL or not o.count:
        return
    while page << PAGE_BITS < offset + n:
        i = o.heads[list_of(o, page)]
        while i != NOWHERE:
            p = &o.patches[i]
            begins = max(p.offset, offset)
            ends = min(p.offset + p.length, offset + n)
            # Several pages may share the list.
            if begins < ends and p.offset >> PAGE_BITS == page:
                memcpy(bytes + (begins - offset), o.log.bytes + p.bytes + (begins - p.offset),
                       ends - begins)
            i = p.next
        page += 1

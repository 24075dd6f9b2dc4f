# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Pulling of a writer's log (the contract is in _overlay.pxd).

Let T(n) be the transactions of a structure and M(n) its memory after T(1) ... T(n).  A line says that all of the holder's log
before an LSN is applied, and with it everything that others wrote before him; so memory is M(j), with the parts of T(j + 1) that
the back-end is just about, for some j.  Behind that LSN stand T(i + 1) ... T(k), i <= j.  Written over what a READ brings, in
order, they make it M(k), however far the back-end is, as long as it has not begun T(k + 1): a byte that one of them writes gets
the last one's value; any other is in M(j) as in M(k), and parts of T(j + 1), if j < k, are among what is written over.  (Logs are
physical: bytes and where they stand.)  So each node that was READ before the sequence rose above 2 k is that of M(k), the odd
numbers below 2 k included, and one look at the sequence at the end validates all of them.

What may be pulled: records that are whole, in a row, of the session's epoch, and that count for certain.

- Up to the durable position that the back-end publishes they do.  One that is not whole there was overwritten: begin again.
- Who stores into a log that is itself persistent acknowledges before the back-end has published anything.  Then what is whole
  is taken, made durable if its writer was not yet through with that, and only then the epoch is looked at again, behind a
  full fence.  If that still stands, whoever raises it finds the same records whole when he looks at the log behind his.  So they
  count.  What is not whole was not acknowledged, unless it was overwritten; which is seen at the head.

The next query goes on where this one ended, as long as the same holder has the lock: what is pulled is not pulled twice, and a
reader that has seen T(k) never goes back behind it.  With another holder, or none, all of it has been applied.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_fence_full, rfp_load64, rfp_load64_acquire
from rnvm.format.layout cimport (
    RNVM_NO_BLOCK, RNVM_PAD, RNVM_SESSION_LIVE, RNVM_TRANSACTION, RNVM_WRITE, rnvm_backend,
    rnvm_block_of, rnvm_entry, rnvm_entry_next, rnvm_longest_record, rnvm_memory_ring_at,
    rnvm_offset, rnvm_part, rnvm_part_next, rnvm_record, rnvm_record_crc, rnvm_record_fits,
    rnvm_ring_seed, rnvm_session_at,
)
from rnvm.frontend.status cimport AGAIN, NO_MEMORY, OK
from rnvm.frontend.state cimport frontend, instance, overlay, patch
from rnvm.frontend.log_writer cimport live
from rnvm.frontend.status_line cimport line
from rnvm.frontend.remote cimport remote_read
from rnvm.media.flush cimport flush, flush_drain

cdef enum:
    LOG = 16384                # bytes of log that there is room for at first
    MOST_LOG = 262144          # and at most: behind a back-end that is farther behind, asking it is the shorter way
    PATCHES = 256
    PAGE = 12                  # bits
    NOWHERE = 0xffffffff

cdef uint32_t overlay_checks = CHECK_CRC | CHECK_EPOCH | CHECK_ORDER | CHECK_HEAD | CHECK_DURABLE


def _skip_checks(uint32_t skipped):
    """Believe what is pulled without these checks, for tests alone."""
    global overlay_checks
    overlay_checks = (CHECK_CRC | CHECK_EPOCH | CHECK_ORDER | CHECK_HEAD | CHECK_DURABLE) & ~skipped


cdef struct source:            # the log that is pulled
    uint64_t at                # its ring's offset in the pool
    uint64_t size
    uint32_t seed
    uint64_t epoch
    uint64_t live_at           # the session's live words


# Room


cdef bint room_for_log(overlay *o, uint64_t n) noexcept nogil:
    cdef uint64_t room = o.log_room if o.log_room else LOG
    cdef char *grown
    if n <= o.log_room:
        return True
    while room < n:
        room *= 2
    grown = <char *> realloc(o.log, room)
    if grown == NULL:
        return False
    o.log = grown
    o.log_room = room
    return True


cdef bint room_for_patch(overlay *o) noexcept nogil:
    cdef uint32_t room = 2 * o.patch_room if o.patch_room else PATCHES
    cdef patch *grown
    if o.count < o.patch_room:
        return True
    grown = <patch *> realloc(o.patches, room * sizeof(patch))
    if grown == NULL:
        return False
    o.patches = grown
    o.patch_room = room
    return True


cdef void begin(overlay *o, uint64_t word, uint64_t lsn) noexcept nogil:
    """Nothing was pulled yet of this holder's log from here on."""
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
        free(s.pulled.log)
        free(s.pulled.patches)
        free(s.pulled)
        s.pulled = NULL


# What was pulled


cdef inline uint32_t list_of(const overlay *o, uint64_t page) noexcept nogil:
    return <uint32_t> page & (sizeof(o.heads) // sizeof(o.heads[0]) - 1)


cdef bint file_patch(overlay *o, uint64_t offset, uint64_t length, uint64_t bytes) noexcept nogil:
    """By pages: those of a page stand in one list, in the order of the log."""
    cdef uint64_t page = offset >> PAGE, begins, ends
    cdef uint32_t i
    cdef patch *p
    while page << PAGE < offset + length:
        if not room_for_patch(o):
            return False
        begins = max(offset, page << PAGE)
        ends = min(offset + length, page + 1 << PAGE)
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
    cdef uint64_t page = offset >> PAGE, begins, ends
    cdef uint32_t i
    if o == NULL or not o.count:
        return
    while page << PAGE < offset + n:
        i = o.heads[list_of(o, page)]
        while i != NOWHERE:
            p = &o.patches[i]
            begins = max(p.offset, offset)
            ends = min(p.offset + p.length, offset + n)
            # Other pages may share the list.
            if begins < ends and p.offset >> PAGE == page:
                memcpy(bytes + (begins - offset), o.log + p.bytes + (begins - p.offset), ends - begins)
            i = p.next
        page += 1


cdef bint possible(const frontend *fe, const rnvm_entry *entry) noexcept nogil:
    """Whether there is data where an entry writes; whose, the replayer knows, who cuts off a writer that does not care."""
    cdef uint64_t offset = rnvm_offset(entry.address), first, last
    if rnvm_backend(entry.address) != fe.g.backend or not entry.length:
        return False
    first = rnvm_block_of(&fe.g, offset)
    last = rnvm_block_of(&fe.g, offset + entry.length - 1)
    return first != RNVM_NO_BLOCK and last != RNVM_NO_BLOCK and first // fe.g.group_blocks == last // fe.g.group_blocks


cdef int take_part(instance *s, const rnvm_part *part, uint64_t sequence) noexcept nogil:
    """What a transaction writes into this structure."""
    cdef overlay *o = s.pulled
    cdef const rnvm_entry *entry
    cdef uint64_t within = 0
    if overlay_checks & CHECK_ORDER:
        # The first may be applied already; then its predecessor is for certain.
        if part.number != o.number + 1 if o.number else not part.number or 2 * (part.number - 1) > sequence:
            return AGAIN
    while within < part.length:
        entry = rnvm_entry_next(part, &within)
        if entry == NULL:
            return ASK
        if entry.kind == RNVM_WRITE:
            if not possible(s.fe, entry):
                return ASK
            if not file_patch(o, rnvm_offset(entry.address), entry.length, <uint64_t> (<const char *> (entry + 1) - o.log)):
                return NO_MEMORY
    o.number = part.number
    return OK


cdef int take_record(instance *s, const rnvm_record *record, uint64_t sequence) noexcept nogil:
    """A record that is whole; its bytes are private."""
    cdef const rnvm_part *part
    cdef uint64_t at = 0
    cdef uint32_t i
    cdef int found
    if record.kind == RNVM_PAD:
        return OK
    if record.kind != RNVM_TRANSACTION:
        return ASK
    for i in range(record.parts):
        part = rnvm_part_next(<const char *> (record + 1), record.payload, &at)
        if part == NULL:
            return ASK
        if part.structure == s.id:
            found = take_part(s, part, sequence)
            if found != OK:
                return found
    return OK


cdef inline bint fits(const source *from_, const rnvm_record *header, uint64_t lsn) noexcept nogil:
    cdef uint64_t epoch = from_.epoch if overlay_checks & CHECK_EPOCH else header.epoch
    return rnvm_record_fits(header, lsn, epoch, from_.size - lsn % from_.size, rnvm_longest_record(from_.size))


cdef inline bint sound(const source *from_, const rnvm_record *record) noexcept nogil:
    return not overlay_checks & CHECK_CRC or rnvm_record_crc(from_.seed, record, record + 1) == record.crc


# Bringing


cdef int bring(frontend *fe, const source *from_, uint64_t lsn, void *to, uint64_t n) noexcept nogil:
    """n bytes of the log, which may pass the end of its ring."""
    cdef uint64_t place = lsn % from_.size
    cdef uint64_t first = min(n, from_.size - place)
    cdef int found = remote_read(fe, from_.at + place, to, first)
    if found == OK and first < n:
        found = remote_read(fe, from_.at, <char *> to + first, n - first)
    return found


cdef int pull_published(instance *s, const source *from_, uint64_t until, uint64_t sequence) noexcept nogil:
    """All up to the published durable position: one READ, or two where the ring ends."""
    cdef overlay *o = s.pulled
    cdef rnvm_record *record
    cdef uint64_t n = until - o.upto
    cdef int found
    if not room_for_log(o, until - o.first):
        return NO_MEMORY
    found = bring(s.fe, from_, o.upto, o.log + (o.upto - o.first), n)
    while found == OK and o.upto < until:
        record = <rnvm_record *> (o.log + (o.upto - o.first))
        if until - o.upto < sizeof(rnvm_record) or not fits(from_, record, o.upto) or record.length > until - o.upto \
                or not sound(from_, record):
            return AGAIN
        found = take_record(s, record, sequence)
        o.upto += record.length
    return found


cdef int pull_whole(instance *s, const source *from_, const live *shown, uint64_t sequence) noexcept nogil:
    """All that is whole in a log on memory that is mapped here."""
    cdef frontend *fe = s.fe
    cdef overlay *o = s.pulled
    cdef rnvm_record *record
    cdef rnvm_record header
    cdef live after
    cdef uint64_t begun = o.upto, place
    cdef int found = OK
    while found == OK:
        found = bring(fe, from_, o.upto, &header, sizeof(header))
        if found != OK or header.lsn != o.upto:
            break
        if overlay_checks & CHECK_EPOCH and header.epoch != from_.epoch:
            return AGAIN                        # its writer is being cut off
        if not fits(from_, &header, o.upto):
            break
        if o.upto - o.first + header.length > MOST_LOG:
            return ASK
        if not room_for_log(o, o.upto - o.first + header.length):
            return NO_MEMORY
        record = <rnvm_record *> (o.log + (o.upto - o.first))
        record[0] = header
        found = bring(fe, from_, o.upto + sizeof(header), record + 1, header.payload)
        if found != OK or not sound(from_, record):
            break
        if fe.flushed and o.upto >= shown.memory_durable:
            place = from_.at + o.upto % from_.size
            flush(fe.pool.base + place, sizeof(rnvm_record) + record.payload)
        found = take_record(s, record, sequence)
        o.upto += record.length
    if found != OK:
        return found
    if fe.flushed:
        flush_drain()
    rfp_fence_full()
    found = remote_read(fe, from_.live_at, &after, sizeof(after))
    if found == OK and (overlay_checks & CHECK_EPOCH and after.epoch != from_.epoch
                        or overlay_checks & CHECK_HEAD and after.memory_head > begun):
        return AGAIN
    return found


cdef inline bint nothing_new(const frontend *fe, const source *from_, uint64_t lsn) noexcept nogil:
    """Where the log is mapped: two loads say that nothing was written there, and nothing overwritten."""
    cdef uint64_t found = rfp_load64_acquire(fe.pool.base + from_.at + lsn % from_.size + 8)
    # rnvm_record.lsn; then rnvm_session.memory_head.
    return found != lsn and (not overlay_checks & CHECK_HEAD or rfp_load64(fe.pool.base + from_.live_at + 24) <= lsn)


cdef int pull(instance *s, const line *seen, source *from_) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef overlay *o = s.pulled
    cdef live shown
    cdef uint64_t until
    cdef int found
    if fe.near and nothing_new(fe, from_, o.upto):
        return OK
    found = remote_read(fe, from_.live_at, &shown, sizeof(shown))
    if found != OK:
        return found
    from_.epoch = shown.epoch
    if not shown.awaits and not (fe.near and fe.direct):
        return ASK
    if not shown.awaits or not overlay_checks & CHECK_DURABLE:
        return pull_whole(s, from_, &shown, seen.sequence)
    until = shown.memory_durable
    if until <= o.upto:
        return OK
    if until - o.first > MOST_LOG:
        return ASK
    return pull_published(s, from_, until, seen.sequence)


cdef int overlay_pull(instance *s, const line *seen, uint64_t *state) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef source from_
    cdef uint64_t session = (seen.holder & 0xffff) - 1
    cdef overlay *o
    cdef int found
    if session >= fe.g.sessions:                # several front-ends have the lock together
        overlay_clear(s)
        return ASK
    if s.pulled == NULL:
        s.pulled = <overlay *> calloc(1, sizeof(overlay))
        if s.pulled == NULL:
            return NO_MEMORY
    o = s.pulled
    # Also where most of it has been applied: pulling the rest again costs less than to carry on with all of it.
    if o.word != seen.holder or seen.replayed - o.first > (o.upto - o.first) // 2 and seen.replayed > o.first:
        begin(o, seen.holder, seen.replayed)
    from_.at = rnvm_memory_ring_at(&fe.g, <uint32_t> session)
    from_.size = fe.g.memory_ring
    from_.seed = rnvm_ring_seed(fe.g.seed, from_.at)
    from_.live_at = rnvm_session_at(&fe.g, <uint32_t> session) + RNVM_SESSION_LIVE
    found = pull(s, seen, &from_)
    if found == OK:
        state[0] = 2 * o.number if o.number else seen.sequence
        # A transaction that is being applied, or was, is among those that were pulled; else the line is of another time.
        if not state[0] & 1 and seen.sequence <= state[0]:
            return OK
        found = AGAIN
    begin(o, 0, 0)
    return found

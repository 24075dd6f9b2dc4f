"""The index of a partition: buckets, chains of overflow lines, growth by linear hashing.

A slot is one 8-byte word, so a reader never sees half of one:

     63       48 47      36 35                  0
    +-----------+----------+---------------------+
    | tag       | length   | offset of record    |   tag: 16 bits of the hash, never 0
    +-----------+----------+---------------------+   length, offset: in units of 16 bytes
    | 0         | 0        | offset of line      |   a link to an overflow line
    +-----------+----------+---------------------+

A bucket is a cache line of 8 slots.  A ninth record turns the last slot into a link.  The overflow
line is a block of the arena and contains the number of its bucket, so that a move of the line finds
the link to it.  A, B, ... are slots of records:

    bucket 0                                 overflow line
    +---+---+---+---+---+---+---+------+     +-------+--------+---+---+---+---+---+---+---+---+
    | A | B | C | D | E | F | G | link |---->| block | bucket | H | I | J |   |   |   |   |   |
    +---+---+---+---+---+---+---+------+     | word  |   0    |   |   |   |   |   |   |   |   |
                                             +-------+--------+---+---+---+---+---+---+---+---+

Growth from 4 to 5 buckets splits one bucket: bucket 4 takes the records of bucket 4 & 3 = 0 whose
next hash bit is 1.  Before, with the table growing downwards from the end of the region:

    | arena ... |END| reserved lines       | bucket 3 | bucket 2 | bucket 1 | bucket 0 |
                                                                             A B C D E
                                                                             F G -> H I J
After:

    | arena ... |END| reserved | bucket 4  | bucket 3 | bucket 2 | bucket 1 | bucket 0 |
                                 B E G I                                     A C D F H J

index_split() writes bucket 4, then the number of buckets, then bucket 0, and then frees the
overflow line.  A one-sided reader may find a record twice in between, or miss it; it never finds a
wrong one.  The rearrangement counter of the bucket (layout.h) tells it not to believe the miss.

If no reserved line is left, widen() takes 64 lines from the end of the arena: it moves the records
and overflow lines there elsewhere, until the last block is free and large enough.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport (
    RFP_ASSERT, rfp_copy_out, rfp_fence_release, rfp_prefetch, rfp_store32, rfp_store64,
    rfp_store64_release,
)
from rfp.store.layout cimport (
    KV_ARENA_START, KV_BLOCK_FREE, KV_BLOCK_OVERFLOW, KV_BLOCK_RECORD, KV_CHAIN, KV_LAYOUT_VERSION,
    KV_LINE, KV_MAX_LINES, KV_MAX_SEALED, KV_PARTITION_MAGIC, KV_REARRANGEMENTS, KV_SLOTS,
    KV_STATE_PINS, KV_STATE_REFERENCED, KV_UNIT, kv_bucket, kv_mask, kv_overflow,
    kv_partition_header, kv_record, kv_slot, kv_slot_link, kv_slot_offset,
)
from rfp.store.server.arena cimport (
    ARENA_LEAST, arena, arena_allocate, arena_become, arena_extend_back, arena_free, arena_kind,
    arena_may_shrink, arena_open, arena_previous, arena_shrink, arena_size, arena_take,
)

cdef enum:
    LAST = KV_SLOTS - 1

cdef uint64_t NOT_COUNTED = <uint64_t> -1  # the bucket of a move that readers need not notice


cdef inline void store(uint64_t *slot, uint64_t value) noexcept nogil:
    rfp_store64(slot, value)

cdef inline kv_overflow *overflow(index *x, uint64_t offset) noexcept nogil:
    return <kv_overflow *> (x.base + offset)

cdef inline int occupied(uint64_t *line) noexcept nogil:
    cdef int n = 0
    while n < KV_SLOTS and line[n]:
        n += 1
    return n

# Between these two a reader believes no miss in the buckets that share the counter, and no copy of
# a value that the CRC does not cover.
cdef inline void rearrange_begin(index *x, uint64_t bucket) noexcept nogil:
    cdef uint64_t *counter = index_rearrangements(x.base, bucket)
    RFP_ASSERT(counter[0] % 2 == 0)
    store(counter, counter[0] + 1)
    rfp_fence_release()

cdef inline void rearrange_end(index *x, uint64_t bucket) noexcept nogil:
    cdef uint64_t *counter = index_rearrangements(x.base, bucket)
    RFP_ASSERT(counter[0] % 2 == 1)
    rfp_fence_release()
    store(counter, counter[0] + 1)

cdef inline uint64_t bucket_of(index *x, uint64_t hash) noexcept nogil:
    return kv_bucket(hash, x.buckets, x.mask)


cdef void index_open(index *x, arena *memory, char *base, uint64_t length, uint64_t seed,
                     uint64_t buckets, uint32_t flags) noexcept nogil:
    cdef uint64_t b
    cdef int i
    RFP_ASSERT(buckets > 0)
    RFP_ASSERT(length % KV_LINE == 0)
    memset(x, 0, sizeof(index))
    x.memory = memory
    x.base = base
    x.top = base + length
    x.header = <kv_partition_header *> base
    x.seed = seed
    x.buckets = buckets
    x.mask = kv_mask(buckets)
    x.room = (buckets + INDEX_GRANULE - 1) // INDEX_GRANULE * INDEX_GRANULE
    RFP_ASSERT(length > KV_ARENA_START + KV_LINE * x.room + KV_UNIT + ARENA_LEAST)
    rfp_store64(&x.header.magic, 0)
    rfp_fence_release()
    for b in range(buckets):
        for i in range(KV_SLOTS):
            store(index_bucket(x, b) + i, 0)
    for b in range(KV_REARRANGEMENTS):
        store(index_rearrangements(base, b), 0)
    arena_open(memory, base, KV_ARENA_START, length - KV_LINE * x.room - KV_UNIT)
    rfp_store32(&x.header.version, KV_LAYOUT_VERSION)
    rfp_store32(&x.header.flags, flags)
    rfp_store64(&x.header.seed, seed)
    rfp_store64(&x.header.length, length)
    rfp_store64(&x.header.buckets, buckets)
    rfp_store64_release(&x.header.magic, KV_PARTITION_MAGIC)


# Chains


cdef uint64_t new_line(index *x, uint64_t bucket) noexcept nogil:
    """Returns an overflow line with empty slots, or 0."""
    cdef uint64_t offset = arena_allocate(x.memory, sizeof(kv_overflow), KV_BLOCK_OVERFLOW)
    cdef int i
    RFP_ASSERT(bucket <= x.buckets)
    if offset:
        rfp_store64(&overflow(x, offset).bucket, bucket)
        for i in range(KV_SLOTS):
            store(overflow(x, offset).slots + i, 0)
        x.lines += 1
    return offset


cdef void drop_line(index *x, uint64_t offset) noexcept nogil:
    RFP_ASSERT(x.lines > 0)
    RFP_ASSERT(arena_kind(x.memory, offset) == KV_BLOCK_OVERFLOW)
    arena_free(x.memory, offset)
    x.lines -= 1


cdef int index_insert(index *x, uint64_t hash, uint64_t slot) noexcept nogil:
    cdef uint64_t *line = index_line(x, hash)
    cdef uint64_t *next = index_next_line(x, line)
    cdef uint64_t added
    cdef int lines = 0, n
    while next != NULL:
        line = next
        next = index_next_line(x, line)
        lines += 1
    RFP_ASSERT(lines <= KV_MAX_LINES)
    RFP_ASSERT(kv_slot_offset(slot) != 0)
    RFP_ASSERT(not kv_slot_link(slot))
    n = occupied(line)
    if n < KV_SLOTS:
        rfp_store64_release(line + n, slot)
    else:
        if lines == KV_MAX_LINES:
            return INDEX_FULL
        added = new_line(x, bucket_of(x, hash))
        if not added:
            return INDEX_NO_MEMORY
        rearrange_begin(x, bucket_of(x, hash))
        store(overflow(x, added).slots, line[LAST])
        store(overflow(x, added).slots + 1, slot)
        rfp_store64_release(line + LAST, kv_slot(0, added, 0))
        rearrange_end(x, bucket_of(x, hash))
    x.records += 1
    return INDEX_INSERTED


cdef void index_remove(index *x, uint64_t hash, uint64_t *slot) noexcept nogil:
    cdef uint64_t *before = NULL
    cdef uint64_t *line = index_line(x, hash)
    cdef uint64_t *next = index_next_line(x, line)
    cdef uint64_t gone
    cdef int n
    RFP_ASSERT(x.records > 0)
    RFP_ASSERT(slot[0] != 0)
    RFP_ASSERT(not kv_slot_link(slot[0]))
    x.records -= 1
    rearrange_begin(x, bucket_of(x, hash))
    if next == NULL:           # keep their order: it means age with strict LRU
        while slot < line + LAST and slot[0]:
            store(slot, slot[1])
            slot += 1
        store(slot, 0)
        rearrange_end(x, bucket_of(x, hash))
        return
    while next != NULL:
        before = line
        line = next
        next = index_next_line(x, line)
    n = occupied(line) - 1
    # An overflow line has at least two records.
    RFP_ASSERT(n >= 1)
    store(slot, line[n])
    store(line + n, 0)
    if n == 1:                 # one record needs no line of its own: it replaces the link
        gone = kv_slot_offset(before[LAST])
        store(before + LAST, line[0])
        drop_line(x, gone)
    rearrange_end(x, bucket_of(x, hash))


cdef uint64_t *index_slot(index *x, uint64_t hash, uint64_t offset) noexcept nogil:
    cdef uint64_t *line = index_line(x, hash)
    cdef int i
    while line != NULL:
        for i in range(KV_SLOTS):
            if kv_slot_offset(line[i]) == offset and not kv_slot_link(line[i]):
                return line + i
        line = index_next_line(x, line)
    return NULL


cdef int index_chain(index *x, uint64_t bucket, uint64_t *slots, uint64_t *lines,
                     int *n_lines) noexcept nogil:
    cdef uint64_t *line = index_bucket(x, bucket)
    cdef int n = 0, i
    n_lines[0] = 0
    while True:
        for i in range(KV_SLOTS):
            if not line[i]:
                return n
            if kv_slot_link(line[i]):
                break
            RFP_ASSERT(n < KV_CHAIN)
            slots[n] = line[i]
            n += 1
        else:
            return n
        RFP_ASSERT(n_lines[0] < KV_MAX_LINES)
        lines[n_lines[0]] = kv_slot_offset(line[LAST])
        n_lines[0] += 1
        line = index_next_line(x, line)


cdef inline int lines_for(int n) noexcept nogil:
    return (n - 2) // (KV_SLOTS - 1) if n > KV_SLOTS else 0


cdef void lay_chain(index *x, uint64_t bucket, uint64_t *slots, int n,
                    uint64_t *lines) noexcept nogil:
    """Writes n records into a bucket and the overflow lines that they need."""
    cdef uint64_t *line = index_bucket(x, bucket)
    cdef int i
    RFP_ASSERT(n >= 0)
    RFP_ASSERT(n <= KV_CHAIN)
    while n > KV_SLOTS:
        for i in range(LAST):
            store(line + i, slots[i])
        store(line + LAST, kv_slot(0, lines[0], 0))
        line = overflow(x, lines[0]).slots
        slots += LAST
        n -= LAST
        lines += 1
    for i in range(KV_SLOTS):
        store(line + i, slots[i] if i < n else 0)


# Strict LRU in a bucket


cdef void index_insert_first(index *x, uint64_t hash, uint64_t slot) noexcept nogil:
    cdef uint64_t *line = index_line(x, hash)
    cdef int i = occupied(line)
    RFP_ASSERT(i < KV_SLOTS)
    RFP_ASSERT(not kv_slot_link(slot))
    while i > 0:
        store(line + i, line[i - 1])
        i -= 1
    rfp_store64_release(line, slot)
    x.records += 1


cdef void index_move_first(index *x, uint64_t hash, uint64_t *slot) noexcept nogil:
    cdef uint64_t *line = index_line(x, hash)
    cdef uint64_t moved = slot[0]
    RFP_ASSERT(slot >= line)
    RFP_ASSERT(slot < line + KV_SLOTS)
    while slot > line:
        store(slot, (slot - 1)[0])
        slot -= 1
    store(line, moved)


# Moving records and overflow lines


cdef void index_repoint(index *x, uint64_t old, uint64_t block) noexcept nogil:
    cdef uint64_t *place
    cdef bint is_record = arena_kind(x.memory, block) == KV_BLOCK_RECORD
    if is_record:
        place = index_slot(x, index_hash(x, <kv_record *> (x.base + block)), old)
    else:
        rearrange_begin(x, overflow(x, block).bucket)
        place = index_bucket(x, overflow(x, block).bucket) + LAST
        while kv_slot_offset(place[0]) != old:
            place = overflow(x, kv_slot_offset(place[0])).slots + LAST
    RFP_ASSERT(place != NULL)
    RFP_ASSERT(kv_slot_offset(place[0]) == old)
    x.moved += 1
    rfp_store64_release(place, place[0] - old // KV_UNIT + block // KV_UNIT)
    if is_record:
        record_invalidate(<kv_record *> (x.base + old))
    else:
        rearrange_end(x, overflow(x, block).bucket)


cdef uint64_t index_move_begin(index *x, uint64_t old) noexcept nogil:
    cdef kv_record *record = <kv_record *> (x.base + old)
    cdef uint64_t bucket
    if arena_kind(x.memory, old) != KV_BLOCK_RECORD or record.value_length <= KV_MAX_SEALED:
        return NOT_COUNTED
    bucket = bucket_of(x, index_hash(x, record))
    rearrange_begin(x, bucket)
    return bucket


cdef void index_move_end(index *x, uint64_t bucket) noexcept nogil:
    if bucket != NOT_COUNTED:
        rearrange_end(x, bucket)


cdef void index_move(index *x, uint64_t old, uint64_t block) noexcept nogil:
    cdef kv_record *record = <kv_record *> (x.base + old)
    cdef uint64_t bucket
    if arena_kind(x.memory, old) == KV_BLOCK_RECORD:
        # The clock hand may reach the new place sooner: that must not shorten the record's
        # lifetime.
        rfp_store64(&record.state, record.state | KV_STATE_REFERENCED)
    RFP_ASSERT(block != old)
    RFP_ASSERT(arena_size(x.memory, block) >= arena_size(x.memory, old))
    bucket = index_move_begin(x, old)
    rfp_copy_out(x.base + block + 8, x.base + old + 8, arena_size(x.memory, old) - 8)
    arena_become(x.memory, block, arena_kind(x.memory, old))
    index_repoint(x, old, block)
    index_move_end(x, bucket)
    arena_free(x.memory, old)


cdef bint relocate(index *x, uint64_t block) noexcept nogil:
    """Moves a record or overflow line to any free block that is large enough."""
    cdef uint32_t kind = arena_kind(x.memory, block)
    cdef uint64_t size = arena_size(x.memory, block), moved
    if kind == KV_BLOCK_RECORD:
        if (<kv_record *> (x.base + block)).state & KV_STATE_PINS:
            return False
    elif kind != KV_BLOCK_OVERFLOW:
        return False
    moved = arena_allocate(x.memory, size, kind)
    if moved:
        index_move(x, block, moved)
    return moved != 0


# Growth


cdef bint widen(index *x, uint64_t *obstacle) noexcept nogil:
    """Takes INDEX_GRANULE lines from the end of the arena."""
    cdef arena *a = x.memory
    cdef uint64_t bytes = KV_LINE * INDEX_GRANULE, run = 0, block
    while True:
        block = arena_previous(a, run if run else a.end)
        if not block:
            break
        if arena_kind(a, block) != KV_BLOCK_FREE:
            if not relocate(x, block):
                obstacle[0] = block
                break
        elif run:
            run = arena_extend_back(a, run, bytes + ARENA_LEAST)
        elif arena_may_shrink(arena_size(a, block), bytes):
            RFP_ASSERT(run == 0)
            arena_shrink(a, bytes)
            x.room += INDEX_GRANULE
            return True
        else:  # too small: reserve it, so that no block moved away from the end moves into it
            arena_take(a, block, arena_size(a, block))
            run = block
        if run and arena_may_shrink(arena_size(a, run), bytes):
            arena_free(a, run)
            run = 0
    if run:
        arena_free(a, run)
    return False


cdef bint index_split(index *x, uint64_t *obstacle) noexcept nogil:
    cdef uint64_t[64] slots, stay, move
    cdef uint64_t[8] lines, more
    cdef uint64_t mask = kv_mask(x.buckets + 1), parent = x.buckets & mask >> 1
    cdef int n, n_lines = 0, n_stay = 0, n_move = 0, i, needed
    cdef kv_record *record
    obstacle[0] = 0
    if x.buckets == x.room and not widen(x, obstacle):
        return False
    RFP_ASSERT(x.buckets < x.room)
    RFP_ASSERT(parent < x.buckets)
    n = index_chain(x, parent, slots, lines, &n_lines)
    for i in range(n):
        rfp_prefetch(x.base + kv_slot_offset(slots[i]))
        rfp_prefetch(x.base + kv_slot_offset(slots[i]) + KV_LINE)
    for i in range(n):
        record = <kv_record *> (x.base + kv_slot_offset(slots[i]))
        if (index_hash(x, record) >> 16 & mask) == x.buckets:
            move[n_move] = slots[i]
            n_move += 1
        else:
            stay[n_stay] = slots[i]
            n_stay += 1
    RFP_ASSERT(n_stay + n_move == n)
    needed = lines_for(n_move)
    for i in range(needed):
        more[i] = new_line(x, x.buckets)
        if not more[i]:
            while i > 0:
                i -= 1
                drop_line(x, more[i])
            return False
    RFP_ASSERT((x.buckets - parent) % KV_REARRANGEMENTS == 0)  # both have the same counter
    rearrange_begin(x, parent)
    lay_chain(x, x.buckets, move, n_move, more)
    x.mask = mask
    x.buckets += 1
    rfp_store64_release(&x.header.buckets, x.buckets)
    lay_chain(x, parent, stay, n_stay, lines)
    for i in range(lines_for(n_stay), n_lines):
        drop_line(x, lines[i])
    rearrange_end(x, parent)
    return True

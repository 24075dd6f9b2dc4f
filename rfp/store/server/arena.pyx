"""The allocator of a partition: TLSF (two-level segregated fit) over one contiguous range.

Size classes.  Level 0 has one list for each size below 512.  Each level above is one power of two,
cut into 32 lists:

    level 0    |  0 |  16 |  32 |  48 | ...       | 496 |     a list for each multiple of 16
    level 1    | 512 | 528 | 544 | ...           | 1008 |     32 lists, 16 bytes apart
    level 2    | 1024 | 1056 | 1088 | ...        | 2016 |     32 lists, 32 bytes apart
    level 3    | 2048 | 2112 | 2176 | ...        | 4032 |     32 lists, 64 bytes apart

    levels     0 1 1 0 ...            bit i: level i has a free block
    lists[1]   0 0 1 0 ...            bit j: heads[1][j] is not empty

An allocation rounds its size up to the next list, in which every block fits, and takes the first
list from there on that has its bit set: two bit scans, no search.  Only if there is none, it tries
the first 16 blocks of the list below.

Blocks.  A block in use has a header of one word; a free one has three, and repeats its size in its
last word:

    in use   | size, before, kind | content ...                                  |
    free     | size, before, FREE | next | previous | ...                 | size |
             0                    8      16                               size-8

`before` is the size of the block before it.  It is 0 if that block is free, because a free block
may be too large for its 25 bits; then the size is in the word just before the block.  (64 bytes are
0x40; "<0x40" means before = 0x40.)

Split: an allocation of 0x40 bytes takes the low end of a free block of 0xa0, and the rest becomes a
free block.

    before   | 0x30 used | 0xa0 FREE <0x30                                0xa0 | 0x50 used <0    |
    after    | 0x30 used | 0x40 used <0x30 | 0x60 FREE <0x40              0x60 | 0x50 used <0    |

Merge: freeing a block joins it with both neighbours at once, so no two free blocks are ever
adjacent.

    before   | 0x60 FREE          0x60 | 0x40 used <0 | 0x50 FREE <0x40   0x50 | 0x30 used <0    |
    after    | 0xf0 FREE                                                  0xf0 | 0x30 used <0    |

If a cursor was on a block that disappears in a merge, displaced() puts it on the merged block.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport RFP_ASSERT, rfp_copy_out, rfp_store64
from rfp.core.system cimport __builtin_clzll, __builtin_ctz
from rfp.store.layout cimport (
    KV_BLOCK_END, KV_BLOCK_FREE, KV_BLOCK_RESERVED, KV_MAX_BLOCK, KV_UNIT, kv_block,
    kv_block_before, kv_block_kind, kv_block_size,
)

# Smaller sizes have a list each; from here on every power of two is divided into ARENA_LISTS.
cdef enum:
    EXACT = ARENA_LISTS * 16
    EXACT_LOG = 9
    LISTS_LOG = 5
    # Blocks tried in the list whose blocks may fit, if the lists whose blocks certainly fit are
    # empty.
    TRIES = 16
    LOW_TRIES = 64             # blocks that arena_allocate_low() examines


cdef inline uint64_t load(arena *a, uint64_t offset) noexcept nogil:
    return (<uint64_t *> (a.base + offset))[0]

cdef inline void store(arena *a, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(a.base + offset, value)

cdef inline void set_before(arena *a, uint64_t block, uint64_t before) noexcept nogil:
    cdef uint64_t word = arena_word(a, block)
    store(a, block, kv_block(kv_block_size(word), before, kv_block_kind(word)))

cdef inline void displaced(arena *a, uint64_t gone, uint64_t block) noexcept nogil:
    if a.cursors[0] == gone:
        a.cursors[0] = block
    if a.cursors[1] == gone:
        a.cursors[1] = block

cdef inline void place(uint64_t size, uint32_t *level, uint32_t *number) noexcept nogil:
    cdef uint32_t log
    if size < EXACT:
        level[0] = 0
        number[0] = <uint32_t> (size / KV_UNIT)
    else:
        log = 63 - __builtin_clzll(size)
        level[0] = log - EXACT_LOG + 1
        number[0] = <uint32_t> (size >> (log - LISTS_LOG)) & (ARENA_LISTS - 1)


cdef void link_free(arena *a, uint64_t block, uint64_t size, uint64_t before) noexcept nogil:
    """Makes the range a free block and marks the next block's `before` as 0."""
    cdef uint32_t level, number
    cdef uint64_t head
    RFP_ASSERT(size >= ARENA_LEAST)
    RFP_ASSERT(size % KV_UNIT == 0)
    RFP_ASSERT(block + size <= a.end)
    place(size, &level, &number)
    head = a.heads[level][number]
    store(a, block, kv_block(size, before, KV_BLOCK_FREE))
    store(a, block + 8, head)
    store(a, block + 16, 0)
    store(a, block + size - 8, size)
    if head:
        store(a, head + 16, block)
    a.heads[level][number] = block
    a.lists[level] |= 1u << number
    a.levels |= 1u << level
    set_before(a, block + size, 0)


cdef void unlink_free(arena *a, uint64_t block, uint64_t size) noexcept nogil:
    cdef uint32_t level, number
    cdef uint64_t next = load(a, block + 8), previous = load(a, block + 16)
    RFP_ASSERT(arena_kind(a, block) == KV_BLOCK_FREE)
    RFP_ASSERT(arena_size(a, block) == size)
    if next:
        store(a, next + 16, previous)
    if previous:
        store(a, previous + 8, next)
        return
    place(size, &level, &number)
    RFP_ASSERT(a.heads[level][number] == block)
    a.heads[level][number] = next
    if not next:
        a.lists[level] &= ~(1u << number)
        if not a.lists[level]:
            a.levels &= ~(1u << level)


cdef uint64_t find_free(arena *a, uint64_t size) noexcept nogil:
    """Returns a free block of at least `size` bytes: from the smallest list in which all fit, else
    one of the first blocks of the list below it."""
    cdef uint32_t level, number, found, log
    cdef uint64_t block, up = size
    cdef int _
    if size >= EXACT:
        log = 63 - __builtin_clzll(size)
        up += (1ull << (log - LISTS_LOG)) - 1
    place(up, &level, &number)
    if level < ARENA_LEVELS:
        found = a.lists[level] & (~0u << number)
        if not found and level + 1 < ARENA_LEVELS:
            found = a.levels & (~0u << (level + 1))
            if found:
                level = __builtin_ctz(found)
                found = a.lists[level]
        if found:
            return a.heads[level][__builtin_ctz(found)]
    if size < EXACT:
        return 0
    place(size, &level, &number)
    if level >= ARENA_LEVELS:
        return 0
    block = a.heads[level][number]
    for _ in range(TRIES):
        if not block or arena_size(a, block) >= size:
            return block
        block = load(a, block + 8)
    return 0


cdef void occupy(arena *a, uint64_t block, uint64_t whole, uint64_t size, uint64_t before,
                 uint32_t kind) noexcept nogil:
    """Makes an unlinked range a block of `size` bytes and, if enough is left, a free block behind
    it."""
    RFP_ASSERT(size >= ARENA_LEAST)
    RFP_ASSERT(whole >= size)
    if whole - size >= ARENA_LEAST:
        link_free(a, block + size, whole - size, size)
    else:
        size = whole
        set_before(a, block + size, size)
    store(a, block, kv_block(size, before, kind))
    a.used += size


cdef void arena_open(arena *a, char *base, uint64_t start, uint64_t end) noexcept nogil:
    memset(a, 0, sizeof(arena))
    RFP_ASSERT(end >= start + ARENA_LEAST)
    RFP_ASSERT((start | end) % KV_UNIT == 0)
    a.base = base
    a.start = start
    a.end = end
    a.cursors[0] = start
    a.cursors[1] = start
    store(a, end, kv_block(KV_UNIT, 0, KV_BLOCK_END))
    link_free(a, start, end - start, 0)


cdef uint64_t arena_allocate(arena *a, uint64_t size, uint32_t kind) noexcept nogil:
    cdef uint64_t block, word
    size = ARENA_LEAST if size < ARENA_LEAST else (size + KV_UNIT - 1) & ~<uint64_t> (KV_UNIT - 1)
    if size > KV_MAX_BLOCK - ARENA_LEAST:
        return 0
    block = find_free(a, size)
    if block:
        word = arena_word(a, block)
        unlink_free(a, block, kv_block_size(word))
        occupy(a, block, kv_block_size(word), size, kv_block_before(word), kind)
        RFP_ASSERT(kind != KV_BLOCK_FREE)
        RFP_ASSERT(arena_size(a, block) >= size)
    return block


cdef uint64_t arena_allocate_low(arena *a, uint64_t size, uint32_t kind,
                                 uint64_t limit) noexcept nogil:
    cdef uint32_t level, number, tries = LOW_TRIES
    cdef uint64_t block, lowest = 0, word
    cdef int _
    size = ARENA_LEAST if size < ARENA_LEAST else (size + KV_UNIT - 1) & ~<uint64_t> (KV_UNIT - 1)
    if size > KV_MAX_BLOCK - ARENA_LEAST:
        return 0
    place(size, &level, &number)
    while level < ARENA_LEVELS and tries:
        while number < ARENA_LISTS and tries:
            block = a.heads[level][number] if a.lists[level] >> number & 1 else 0
            for _ in range(TRIES):
                if not block or not tries:
                    break
                tries -= 1
                if arena_size(a, block) >= size and block + size <= limit \
                        and (not lowest or block < lowest):
                    lowest = block
                block = load(a, block + 8)
            number += 1
        level += 1
        number = 0
    if lowest:
        word = arena_word(a, lowest)
        unlink_free(a, lowest, kv_block_size(word))
        occupy(a, lowest, kv_block_size(word), size, kv_block_before(word), kind)
    return lowest


cdef void arena_free(arena *a, uint64_t block) noexcept nogil:
    cdef uint64_t word = arena_word(a, block), size = kv_block_size(word)
    cdef uint64_t before = kv_block_before(word)
    cdef uint64_t next = block + size, previous
    cdef uint64_t other = arena_word(a, next)
    RFP_ASSERT(block >= a.start)
    RFP_ASSERT(next <= a.end)
    RFP_ASSERT(kv_block_kind(word) != KV_BLOCK_FREE)
    RFP_ASSERT(a.used >= size)
    a.used -= size
    if kv_block_kind(other) == KV_BLOCK_FREE:
        unlink_free(a, next, kv_block_size(other))
        size += kv_block_size(other)
        displaced(a, next, block)
    if not before and block != a.start:
        previous = arena_previous(a, block)
        other = arena_word(a, previous)
        unlink_free(a, previous, kv_block_size(other))
        size += kv_block_size(other)
        before = kv_block_before(other)
        displaced(a, block, previous)
        block = previous
    link_free(a, block, size, before)


cdef void arena_take(arena *a, uint64_t block, uint64_t most) noexcept nogil:
    cdef uint64_t word = arena_word(a, block), size = kv_block_size(word)
    RFP_ASSERT(most >= ARENA_LEAST)
    unlink_free(a, block, size)
    occupy(a, block, size, min(size, most), kv_block_before(word), KV_BLOCK_RESERVED)


cdef void arena_extend(arena *a, uint64_t block, uint64_t most) noexcept nogil:
    cdef uint64_t word = arena_word(a, block), size = kv_block_size(word), next = block + size
    cdef uint64_t free = arena_size(a, next)
    RFP_ASSERT(kv_block_kind(word) == KV_BLOCK_RESERVED)
    RFP_ASSERT(arena_kind(a, next) == KV_BLOCK_FREE)
    RFP_ASSERT(most >= size)
    unlink_free(a, next, free)
    displaced(a, next, block)
    a.used -= size
    occupy(a, block, size + free, min(size + free, most), kv_block_before(word),
           kv_block_kind(word))


cdef uint64_t arena_extend_back(arena *a, uint64_t block, uint64_t most) noexcept nogil:
    cdef uint64_t previous = arena_previous(a, block), word = arena_word(a, previous)
    cdef uint64_t size = arena_size(a, block)
    cdef uint64_t free = kv_block_size(word), taken = min(free, most - size), before = 0
    RFP_ASSERT(arena_kind(a, block) == KV_BLOCK_RESERVED)
    RFP_ASSERT(kv_block_kind(word) == KV_BLOCK_FREE)
    RFP_ASSERT(most >= size)
    if free - taken < ARENA_LEAST:
        taken = free
        before = kv_block_before(word)
    unlink_free(a, previous, free)
    displaced(a, block, block - taken)
    if taken < free:
        link_free(a, previous, free - taken, kv_block_before(word))
    store(a, block - taken, kv_block(size + taken, before, KV_BLOCK_RESERVED))
    set_before(a, block + size, size + taken)
    a.used += taken
    return block - taken


cdef void arena_trim(arena *a, uint64_t block, uint64_t size) noexcept nogil:
    cdef uint64_t word = arena_word(a, block), rest
    size = ARENA_LEAST if size < ARENA_LEAST else (size + KV_UNIT - 1) & ~<uint64_t> (KV_UNIT - 1)
    if kv_block_size(word) < size + ARENA_LEAST:
        return
    RFP_ASSERT(kv_block_kind(word) != KV_BLOCK_FREE)
    rest = kv_block_size(word) - size
    store(a, block, kv_block(size, kv_block_before(word), kv_block_kind(word)))
    store(a, block + size, kv_block(rest, size, KV_BLOCK_RESERVED))
    set_before(a, block + size + rest, rest)
    arena_free(a, block + size)


cdef uint64_t arena_slide(arena *a, uint64_t reserved) noexcept nogil:
    cdef uint64_t word = arena_word(a, reserved), room = kv_block_size(word)
    cdef uint64_t block = reserved + room
    cdef uint64_t other = arena_word(a, block), size = kv_block_size(other)
    RFP_ASSERT(kv_block_kind(word) == KV_BLOCK_RESERVED)
    RFP_ASSERT(block < a.end)
    if size > room:
        return 0
    rfp_copy_out(a.base + reserved + 8, a.base + block + 8, size - 8)
    store(a, reserved, kv_block(size, kv_block_before(word), kv_block_kind(other)))
    store(a, reserved + size, kv_block(room, size, KV_BLOCK_RESERVED))
    set_before(a, block + size, room)
    displaced(a, block, reserved + size)
    return reserved + size


cdef bint arena_may_shrink(uint64_t size, uint64_t bytes) noexcept nogil:
    return size == bytes or size >= bytes + ARENA_LEAST


cdef void arena_shrink(arena *a, uint64_t bytes) noexcept nogil:
    cdef uint64_t last = arena_previous(a, a.end), word = arena_word(a, last)
    cdef uint64_t rest = kv_block_size(word) - bytes
    RFP_ASSERT(kv_block_kind(word) == KV_BLOCK_FREE)
    RFP_ASSERT(arena_may_shrink(kv_block_size(word), bytes))
    unlink_free(a, last, kv_block_size(word))
    displaced(a, a.end, a.end - bytes)
    a.end -= bytes
    store(a, a.end, kv_block(KV_UNIT, kv_block_before(word), KV_BLOCK_END))
    if rest:
        link_free(a, last, rest, kv_block_before(word))


cdef uint64_t arena_previous(arena *a, uint64_t block) noexcept nogil:
    cdef uint64_t before
    if block == a.start:
        return 0
    RFP_ASSERT(block > a.start)
    RFP_ASSERT(block <= a.end)
    before = kv_block_before(arena_word(a, block))
    return block - (before if before else load(a, block - 8))


cdef const char *arena_check(arena *a) noexcept nogil:
    cdef uint64_t block = a.start, size, word, before = 0, used = 0
    cdef uint64_t free_blocks = 0, listed = 0, previous
    cdef uint32_t kind, level, number, want_level, want_number
    cdef bint free_before = False, hand = False, cursor = False
    while True:
        if block > a.end:
            return "a block extends beyond the end of the arena"
        word = arena_word(a, block)
        kind = kv_block_kind(word)
        size = kv_block_size(word)
        hand = hand or block == a.cursors[0]
        cursor = cursor or block == a.cursors[1]
        if kv_block_before(word) != (0 if free_before else before):
            return "a block's word does not contain the size of the previous block"
        if free_before and load(a, block - 8) != before:
            return "the last word of a free block does not contain its size"
        if block == a.end:
            break
        if kind == KV_BLOCK_FREE:
            if free_before:
                return "two adjacent blocks are free"
            free_blocks += 1
        elif kind == KV_BLOCK_END:
            return "an end block is inside the arena"
        else:
            used += size
        if size < ARENA_LEAST:
            return "a block is too small"
        free_before = kind == KV_BLOCK_FREE
        before = size
        block += size
    if kind != KV_BLOCK_END:
        return "the arena has no end block"
    if used != a.used:
        return "the count of bytes in use does not match the blocks in use"
    if not hand or not cursor:
        return "a cursor is not at a block"
    for level in range(ARENA_LEVELS):
        if (a.levels >> level & 1) != (a.lists[level] != 0):
            return "the bitmap of levels does not match the free lists"
        for number in range(ARENA_LISTS):
            if (a.lists[level] >> number & 1) != (a.heads[level][number] != 0):
                return "the bitmap of lists does not match the free lists"
            previous = 0
            block = a.heads[level][number]
            while block:
                listed += 1
                if listed > free_blocks:
                    return "the free lists contain more blocks than are free"
                if arena_kind(a, block) != KV_BLOCK_FREE:
                    return "a free list contains a block in use"
                place(arena_size(a, block), &want_level, &want_number)
                if want_level != level or want_number != number:
                    return "a free block is in the list of another size"
                if load(a, block + 16) != previous:
                    return "a back link of a free list is wrong"
                previous = block
                block = load(a, block + 8)
    if listed != free_blocks:
        return "a free block is in no list"
    return NULL

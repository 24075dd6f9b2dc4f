"""Allocate, free, retire and reclaim blocks."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from rfp.core.core cimport RFP_ASSERT, rfp_load64
from rfp.core.system cimport __builtin_ctzll
from rnvm.format.layout cimport (
    RNVM_NOBODY, RNVM_NO_BLOCK, RNVM_UNKNOWN, rnvm_owner_shift, rnvm_owner_word_at, rnvm_word,
    rnvm_word_value, rnvm_word_whole,
)
from rnvm.media.medium cimport medium_write, medium_write64
from rnvm.pool.state cimport pool, retired

cdef enum:
    WORDS = 64                 # of a map that are written together: the smallest block
    LIMBO = 64                 # minimum capacity of the limbo list
    RUN = 64                   # blocks beside released ones that may be free, too


cdef inline bint is_taken(const pool *p, uint64_t block) noexcept nogil:
    return p.taken[block >> 6] >> (block & 63) & 1


cdef void take(pool *p, uint64_t first, uint64_t count) noexcept nogil:
    cdef uint64_t block
    RFP_ASSERT(first + count <= p.g.blocks)
    for block in range(first, first + count):
        if not is_taken(p, block):
            p.taken[block >> 6] |= <uint64_t> 1 << (block & 63)
            RFP_ASSERT(p.free > 0)
            p.free -= 1


cdef uint32_t block_owner(const pool *p, uint64_t block) noexcept nogil:
    cdef uint64_t at = rnvm_owner_word_at(&p.g, block)
    cdef uint64_t word = rfp_load64(p.m.base + at)
    RFP_ASSERT(block < p.g.blocks)
    if not rnvm_word_whole(p.g.seed, at, word):
        return RNVM_UNKNOWN
    return word >> rnvm_owner_shift(&p.g, block) & 0xffff


cdef void blocks_assign(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil:
    cdef uint64_t block = first, at, word, value
    cdef uint32_t shift
    RFP_ASSERT(first + count <= p.g.blocks)
    RFP_ASSERT(owner <= 0xffff)
    while block < first + count:
        at = rnvm_owner_word_at(&p.g, block)
        word = rfp_load64(p.m.base + at)
        value = rnvm_word_value(word)
        # The other owners in a damaged word are lost: mark them unknown, so that the word cannot
        # pass its check again with random content.
        if not rnvm_word_whole(p.g.seed, at, word):
            value = <uint64_t> RNVM_UNKNOWN << 32 | <uint64_t> RNVM_UNKNOWN << 16 | RNVM_UNKNOWN
        while block < first + count and rnvm_owner_word_at(&p.g, block) == at:
            shift = rnvm_owner_shift(&p.g, block)
            value = (value & ~(<uint64_t> 0xffff << shift)) | <uint64_t> owner << shift
            block += 1
        value = rnvm_word(p.g.seed, at, value)
        if value != word:
            medium_write64(p.m, at, value)


cdef uint64_t search(pool *p, uint64_t start, uint64_t end, uint64_t count) noexcept nogil:
    """Return the first of `count` consecutive free blocks within [start, end).

    The run does not leave its group.
    """
    cdef uint64_t block = start, length = 0, word
    RFP_ASSERT(count > 0)
    RFP_ASSERT(end <= p.g.blocks)
    while block < end:
        if not length and not block & 63 and ~p.taken[block >> 6] == 0:
            block += 64
            continue
        if block % p.g.group_blocks == 0:
            length = 0                       # the next group's map is between them
        if is_taken(p, block):
            length = 0
            word = ~p.taken[block >> 6] >> (block & 63)
            block += __builtin_ctzll(word) if word else 64 - (block & 63)
            continue
        length += 1
        block += 1
        RFP_ASSERT(block <= end)
        if length == count:
            return block - count
    return RNVM_NO_BLOCK


cdef uint64_t blocks_allocate(pool *p, uint64_t count, uint32_t owner) noexcept nogil:
    cdef uint64_t first
    # A search of a whole pool of short runs takes long: not again until a run can be longer.
    if not count or count > p.longest_run or count > p.free:
        return RNVM_NO_BLOCK
    first = search(p, p.hint, p.g.blocks, count)
    if first == RNVM_NO_BLOCK:
        first = search(p, 0, min(p.g.blocks, p.hint + count), count)
    if first == RNVM_NO_BLOCK:
        p.longest_run = count - 1
        return RNVM_NO_BLOCK
    RFP_ASSERT(first // p.g.group_blocks == (first + count - 1) // p.g.group_blocks)
    blocks_claim(p, first, count, owner)
    p.hint = first + count
    return first


cdef void blocks_claim(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil:
    take(p, first, count)
    blocks_assign(p, first, count, owner)


cdef void note_run(pool *p, uint64_t first, uint64_t count) noexcept nogil:
    """Raise the bound of the runs' length to that of the run around these free blocks."""
    cdef uint64_t end = first + count, begin = first
    if p.longest_run == p.g.group_blocks:
        return
    while begin and first - begin < RUN and not is_taken(p, begin - 1):
        begin -= 1
    while end < p.g.blocks and end - first - count < RUN and not is_taken(p, end):
        end += 1
    if first - begin == RUN or end - first - count == RUN:
        p.longest_run = p.g.group_blocks        # it may be longer
    p.longest_run = min(max(p.longest_run, end - begin), p.g.group_blocks)


cdef void blocks_release(pool *p, uint64_t first, uint64_t count) noexcept nogil:
    cdef uint64_t block
    RFP_ASSERT(first + count <= p.g.blocks)
    for block in range(first, first + count):
        if is_taken(p, block):
            p.taken[block >> 6] &= ~(<uint64_t> 1 << (block & 63))
            RFP_ASSERT(p.free < p.g.blocks)
            p.free += 1
    note_run(p, first, count)


cdef uint64_t blocks_free_all(pool *p, uint32_t owner) noexcept nogil:
    cdef uint64_t block, first, freed = 0
    block = 0
    while block < p.g.blocks:
        first = block
        while block < p.g.blocks and block_owner(p, block) == owner:
            block += 1
        if block == first:
            block += 1
            continue
        blocks_assign(p, first, block - first, RNVM_NOBODY)
        blocks_retire(p, first, block - first)
        freed += block - first
    return freed


cdef void blocks_retire(pool *p, uint64_t first, uint64_t count) noexcept nogil:
    cdef retired *limbo
    cdef uint64_t room, i
    cdef retired *last
    RFP_ASSERT(count > 0)
    take(p, first, count)                    # after a crash they may have seemed free already
    if p.limbo_count:
        last = &p.limbo[(p.limbo_first + p.limbo_count - 1) % p.limbo_room]
        if (last.reclaim_epoch == p.reclaim_epoch and last.checkpoint_no == p.checkpoints
                and last.first + last.count == first):
            last.count += count
            return
    RFP_ASSERT(p.limbo_count <= p.limbo_room)
    if p.limbo_count == p.limbo_room:
        room = 2 * p.limbo_room if p.limbo_room else LIMBO
        limbo = <retired *> malloc(room * sizeof(retired))
        if limbo == NULL:
            p.leaked += count
            return
        for i in range(p.limbo_count):
            limbo[i] = p.limbo[(p.limbo_first + i) % p.limbo_room]
        free(p.limbo)
        p.limbo = limbo
        p.limbo_first = 0
        p.limbo_room = room
    p.limbo[(p.limbo_first + p.limbo_count) % p.limbo_room] = retired(first, count, p.reclaim_epoch,
                                                                      p.checkpoints)
    p.limbo_count += 1


cdef uint64_t blocks_reclaim(pool *p, uint64_t reclaim_epoch) noexcept nogil:
    cdef uint64_t reclaimed = 0
    cdef retired *each
    while p.limbo_count:
        each = &p.limbo[p.limbo_first]
        if each.reclaim_epoch >= reclaim_epoch or each.checkpoint_no >= p.checkpoints:
            break
        RFP_ASSERT(each.count > 0)
        RFP_ASSERT(p.limbo_first < p.limbo_room)
        blocks_release(p, each.first, each.count)
        reclaimed += each.count
        p.limbo_first = (p.limbo_first + 1) % p.limbo_room
        p.limbo_count -= 1
    return reclaimed


cdef void blocks_load(pool *p) noexcept nogil:
    cdef uint64_t block, words = (p.g.blocks + 63) // 64
    memset(p.taken, 0xff, words * sizeof(uint64_t))
    p.free = 0
    p.hint = 0
    p.longest_run = p.g.group_blocks
    for block in range(p.g.blocks):
        if block_owner(p, block) == RNVM_NOBODY:
            blocks_release(p, block, 1)


cdef void blocks_format(pool *p, uint64_t size) noexcept nogil:
    cdef uint64_t[64] words
    cdef uint64_t map_at = p.g.groups_at, at, i
    while map_at < p.g.size:
        if map_at >= size:
            at = map_at
            while at < map_at + p.g.group_map:
                for i in range(64):
                    words[i] = rnvm_word(p.g.seed, at + 8 * i, 0)
                medium_write(p.m, at, words, sizeof(words))
                at += sizeof(words)
        map_at += p.g.group

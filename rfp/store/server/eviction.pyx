"""Eviction: the clock sweep over the arena, and LRU in neighbouring buckets."""

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_store64, rfp_store64_release
from rfp.store.layout cimport (
    KV_BLOCK_END, KV_BLOCK_FREE, KV_BLOCK_OVERFLOW, KV_BLOCK_RECORD, KV_BLOCK_RESERVED, KV_SLOTS,
    KV_STATE_PINS, KV_STATE_REFERENCED, kv_bucket, kv_record, kv_slot_link, kv_slot_offset,
)
from rfp.store.messages cimport KV_C_EVICTIONS
from rfp.store.server.arena cimport (
    arena, arena_allocate, arena_extend, arena_free, arena_kind, arena_size, arena_slide,
    arena_take, arena_trim,
)
from rfp.store.server.index cimport (
    index_bucket, index_line, index_move_begin, index_move_end, index_next_line, index_repoint,
    record_invalidate,
)
from rfp.store.server.records cimport (
    EVICT_BUCKET, EVICT_NOTHING, eviction, need_uses, partition, record_at, record_evict,
    record_expired, record_left,
)
from rfp.store.server.views cimport views_reap

cdef enum:
    # Second chances in one call: if all records are in use, the sweep evicts one of them soon all
    # the same.
    SECOND_CHANCES_MAX = 1024
    # Bytes whose move costs as much as a visit to a block.
    BLOCK_COST_BYTES = 256
    # Buckets from which one call evicts their oldest record before it stops hoping for a hole that
    # is large enough.
    NEIGHBOUR_BUCKETS_MAX = 64
    # Of eviction_make_low_room(): blocks visited at a time, and how often.
    LOW_STEP_BLOCKS = 512
    LOW_STEPS_MAX = 32


cdef void eviction_abandon(partition *p, eviction *r) noexcept nogil:
    if r.block:
        arena_free(&p.memory, r.block)
        r.block = 0


cdef bint move_down(partition *p, eviction *r) noexcept nogil:
    """Moves the block behind the hole to the hole's beginning."""
    cdef uint64_t hole = r.block, old = hole + arena_size(&p.memory, hole)
    cdef uint64_t after, bucket
    if arena_size(&p.memory, old) > arena_size(&p.memory, hole):
        return False
    bucket = index_move_begin(&p.index, old)
    after = arena_slide(&p.memory, hole)
    index_repoint(&p.index, old, hole)
    index_move_end(&p.index, bucket)
    r.block = after
    return True


cdef int eviction_sweep(partition *p, eviction *r, uint64_t budget) noexcept nogil:
    cdef arena *a = &p.memory
    cdef uint64_t at, size, rounds = 3 * (a.end - a.start)
    cdef uint64_t chances = SECOND_CHANCES_MAX
    cdef uint32_t kind
    cdef kv_record *record
    need_uses(p)
    if budget < <uint64_t> -1:
        chances = max(chances, budget)
    while budget:
        budget -= 1
        at = r.block + arena_size(a, r.block) if r.block else a.cursors[0]
        kind = arena_kind(a, at)
        size = arena_size(a, at)
        if kind == KV_BLOCK_FREE:
            if r.block:
                arena_extend(a, r.block, r.size)
            else:
                arena_take(a, at, r.size)
                r.block = at
        elif kind == KV_BLOCK_RECORD and at != r.exempt \
                and not record_at(p, at).state & KV_STATE_PINS:
            record = record_at(p, at)
            if chances and record.state & KV_STATE_REFERENCED and not record_expired(p, record):
                chances -= 1
                rfp_store64(&record.state, record.state & ~<uint64_t> KV_STATE_REFERENCED)
                if not r.block:
                    a.cursors[0] = at + size
                elif move_down(p, r):
                    budget -= min(budget, size // BLOCK_COST_BYTES)
                else:
                    eviction_abandon(p, r)
                    a.cursors[0] = at + size
            else:
                record_evict(p, at)
                continue       # its place is a free block now, which may begin earlier
        elif kind != KV_BLOCK_OVERFLOW or not r.block or not move_down(p, r):
            eviction_abandon(p, r)
            a.cursors[0] = a.start if kind == KV_BLOCK_END else at + size
        if r.block and arena_size(a, r.block) >= r.size:
            arena_trim(a, r.block, r.size)
            a.cursors[0] = r.block + arena_size(a, r.block)
            return EVICTION_DONE
        r.scanned += size
        if r.scanned > rounds:
            eviction_abandon(p, r)
            return EVICTION_IMPOSSIBLE
    return EVICTION_PENDING


cdef uint64_t evict_neighbours(partition *p, uint64_t hash, uint64_t size,
                               uint64_t exempt) noexcept nogil:
    """Evicts the least recently used record of the key's bucket and of the buckets after it, until
    there is room."""
    cdef uint64_t bucket = kv_bucket(hash, p.index.buckets, p.index.mask), block
    cdef uint64_t *line
    cdef int i, _
    for _ in range(NEIGHBOUR_BUCKETS_MAX):
        line = index_bucket(&p.index, bucket)
        for i in range(KV_SLOTS - 1, -1, -1):
            block = kv_slot_offset(line[i])
            if block and block != exempt and not record_at(p, block).state & KV_STATE_PINS:
                record_evict(p, block)
                block = arena_allocate(&p.memory, size, KV_BLOCK_RESERVED)
                if block:
                    return block
                break
        bucket += 1
        if bucket == p.index.buckets:
            bucket = 0
    return 0


cdef uint64_t eviction_make_room(partition *p, uint64_t hash, uint64_t size,
                                 uint64_t exempt) noexcept nogil:
    cdef eviction r
    cdef uint64_t block
    if size > p.memory.end - p.memory.start:
        return 0
    if views_reap(p, p.policy == EVICT_NOTHING):
        block = arena_allocate(&p.memory, size, KV_BLOCK_RESERVED)
        if block:
            return block
    if p.policy == EVICT_NOTHING:
        return 0
    if p.policy == EVICT_BUCKET:
        block = evict_neighbours(p, hash, size, exempt)
        if block:
            return block
    r.block = 0
    r.size = size
    r.exempt = exempt
    r.scanned = 0
    if eviction_sweep(p, &r, <uint64_t> -1) == EVICTION_DONE:
        return r.block
    return arena_allocate(&p.memory, size, KV_BLOCK_RESERVED) if views_reap(p, True) else 0


cdef uint64_t eviction_make_low_room(partition *p, uint64_t size, uint64_t limit,
                                     uint64_t exempt) noexcept nogil:
    cdef eviction r
    cdef uint64_t at
    cdef int made, _
    r.block = 0
    r.size = size
    r.exempt = exempt
    r.scanned = 0
    p.memory.cursors[0] = p.memory.start
    for _ in range(LOW_STEPS_MAX):
        made = eviction_sweep(p, &r, LOW_STEP_BLOCKS)
        if made == EVICTION_IMPOSSIBLE:
            return 0
        at = r.block if r.block else p.memory.cursors[0]
        if made == EVICTION_DONE and at + size <= limit:
            return at
        if at + size > limit:
            # The first round has taken the marks of the records in use.
            eviction_abandon(p, &r)
            p.memory.cursors[0] = p.memory.start
    eviction_abandon(p, &r)
    return 0


cdef bint eviction_in_chain(partition *p, uint64_t hash, uint64_t slot) noexcept nogil:
    cdef uint64_t *line = index_line(&p.index, hash)
    cdef uint64_t *victim = NULL
    cdef uint64_t block
    cdef int i
    if p.policy == EVICT_NOTHING:
        return False
    need_uses(p)
    while line != NULL:
        for i in range(KV_SLOTS):
            if line[i] and not kv_slot_link(line[i]):
                if victim == NULL:
                    victim = line + i
                if not record_at(p, kv_slot_offset(line[i])).state & KV_STATE_REFERENCED:
                    victim = line + i
                    break
        else:
            line = index_next_line(&p.index, line)
            continue
        break
    block = kv_slot_offset(victim[0])
    record_invalidate(record_at(p, block))
    rfp_store64_release(victim, slot)
    record_left(p, block)
    p.counters[KV_C_EVICTIONS] += 1
    return True

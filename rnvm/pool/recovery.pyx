"""Load a pool, make the bytes read durable, replay, and finish interrupted changes."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport rfp_fence_full, rfp_load64, rfp_store64, rfp_store64_release
from rnvm.format.layout cimport (
    RNVM_DROPPING, RNVM_FREE, RNVM_GRANTED, RNVM_LIVE, RNVM_LOCK, RNVM_MEMORY, RNVM_NOBODY,
    RNVM_OPERATIONS, RNVM_OWNER_INDEX, RNVM_OWNER_KIND, RNVM_PROGRESS, RNVM_SESSION_LIVE,
    RNVM_SESSION_STATE, RNVM_UNKNOWN, RNVM_USED, rnvm_longest_record, rnvm_memory_ring_at,
    rnvm_name, rnvm_name_at, rnvm_operation_ring_at, rnvm_sequence_of, rnvm_session,
    rnvm_session_at, rnvm_structure, rnvm_word_value,
)
from rnvm.media.medium cimport medium_drain, medium_flush
from rnvm.pool.blocks cimport (
    block_owner, blocks_assign, blocks_load, blocks_reclaim, blocks_release,
)
from rnvm.pool.catalog cimport catalog_drop, catalog_publish
from rnvm.pool.dual_copy cimport dual_copy_finish, dual_copy_read
from rnvm.pool.replay cimport pool_checkpoint, pool_pending, pool_replay
from rnvm.pool.ring_log cimport FAULT_END, FAULT_NUMBER, ring_open, ring_scan
from rnvm.pool.sessions cimport session_fence, session_release, session_set_fence_point
from rnvm.pool.state cimport pool, ring, structure


# Reading


cdef void load_session(pool *p, uint32_t i) noexcept nogil:
    cdef uint64_t[3] words
    cdef uint64_t at = rnvm_session_at(&p.g, i), epoch
    cdef uint64_t capacity = rnvm_longest_record(max(p.g.operation_ring, p.g.memory_ring))
    memset(words, 0, sizeof(words))
    dual_copy_read(p.m, p.g.seed, at + RNVM_SESSION_STATE, words)
    p.sessions[i].epoch = words[0]
    p.sessions[i].state = <uint32_t> words[1]
    p.sessions[i].detail = words[2]
    # The rings of a free session contain nothing, with any bytes.
    epoch = 0 if p.sessions[i].state == RNVM_FREE else words[0]
    ring_open(&p.operations[i], p.m, p.g.seed, rnvm_operation_ring_at(&p.g, i), p.g.operation_ring,
              at + RNVM_OPERATIONS, epoch)
    ring_open(&p.memory[i], p.m, p.g.seed, rnvm_memory_ring_at(&p.g, i), p.g.memory_ring,
              at + RNVM_MEMORY, epoch)
    if epoch:
        scan(&p.operations[i], p.scratch, capacity)
        scan(&p.memory[i], p.scratch, capacity)


cdef void scan(ring *r, char *buffer, uint64_t capacity) noexcept nogil:
    ring_scan(r, buffer, capacity)
    if r.tail < r.end:
        r.faulty = FAULT_END


cdef void load_structure(pool *p, uint32_t i) noexcept nogil:
    cdef uint64_t[3] words
    cdef uint64_t at = rnvm_name_at(&p.g, i)
    cdef uint64_t state = rnvm_word_value(rfp_load64(p.m.base + at))
    cdef structure *each = &p.structures[i]
    memset(words, 0, sizeof(words))
    memset(each, 0, sizeof(structure))
    each.state = state & 0xff
    if each.state != RNVM_LIVE:
        return
    dual_copy_read(p.m, p.g.seed, at + RNVM_PROGRESS, words)
    each.id = rnvm_structure(i, <uint32_t> (state >> 8 & 0xffff))
    each.number = each.saved = words[0]
    each.covers = words[1]


cdef void pool_load(pool *p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.g.names):
        load_structure(p, i)
    for i in range(p.g.sessions):
        load_session(p, i)
    blocks_load(p)


# Making it durable


cdef void flush_ring(pool *p, ring *r) noexcept nogil:
    cdef uint64_t begin = r.head % r.size, length = r.tail - r.head
    cdef uint64_t first = min(length, r.size - begin)
    if length:
        medium_flush(p.m, r.at + begin, first)
        medium_flush(p.m, r.at, length - first)


cdef int pool_settle(pool *p) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t at
    medium_flush(p.m, p.g.names_at, p.g.rings_at - p.g.names_at)
    at = p.g.groups_at
    while at < p.g.size:
        medium_flush(p.m, at, p.g.group_map)
        at += p.g.group
    for i in range(p.g.sessions):
        flush_ring(p, &p.operations[i])
        flush_ring(p, &p.memory[i])
    if medium_drain(p.m):
        return -1
    for i in range(p.g.names):
        if p.structures[i].state != RNVM_FREE:
            dual_copy_finish(p.m, p.g.seed, rnvm_name_at(&p.g, i) + RNVM_PROGRESS)
            dual_copy_finish(p.m, p.g.seed, rnvm_name_at(&p.g, i) + RNVM_LOCK)
    for i in range(p.g.sessions):
        at = rnvm_session_at(&p.g, i)
        dual_copy_finish(p.m, p.g.seed, at + RNVM_SESSION_STATE)
        dual_copy_finish(p.m, p.g.seed, at + RNVM_OPERATIONS)
        dual_copy_finish(p.m, p.g.seed, at + RNVM_MEMORY)
        p.operations[i].durable = p.operations[i].tail
        p.memory[i].durable = p.memory[i].tail
    return medium_drain(p.m)


# Finishing interrupted changes


cdef int fence_faulty(pool *p, recovery *done) noexcept nogil:
    """Fence sessions that wrote a record which cannot be applied; their logs count up to there."""
    cdef uint32_t i
    cdef ring *memory
    for i in range(p.g.sessions):
        memory = &p.memory[i]
        if memory.replayed < memory.durable and not memory.faulty:
            memory.faulty = FAULT_NUMBER
        if memory.faulty or p.operations[i].faulty:
            done.fenced += 1
            if session_fence(p, i):
                return -1
    return 0


cdef bint count_pending(void *context, uint32_t session, uint64_t lsn, uint32_t of, uint32_t code,
                        uint64_t number, const char *bytes, uint32_t length) noexcept nogil:
    (<uint64_t *> context)[0] += 1
    return True


cdef int finish_sessions(pool *p, recovery *done) noexcept nogil:
    """End all sessions: front-ends attach again.

    A session with operations to re-execute stays, fenced.
    """
    cdef uint32_t i
    for i in range(p.g.sessions):
        if (p.sessions[i].state != RNVM_FREE
                and (session_fence(p, i) or session_set_fence_point(p, i))):
            return -1
    # Records that arrived before the fence point count too.
    done.applied += pool_replay(p, <int64_t> (<uint64_t> -1 >> 1))
    if pool_checkpoint(p):
        return -1
    for i in range(p.g.sessions):
        if p.sessions[i].state != RNVM_FREE and session_release(p, i) < 0:
            return -1
        pool_pending(p, i, count_pending, &done.pending)
    return 0


cdef bint in_use(pool *p, uint32_t owner) noexcept nogil:
    """Return whether the owner of a block exists."""
    cdef uint32_t which = owner & RNVM_OWNER_INDEX
    if owner == RNVM_UNKNOWN:
        return True
    if owner & RNVM_OWNER_KIND == RNVM_GRANTED:
        return which < p.g.sessions and p.sessions[which].state != RNVM_FREE
    if owner & RNVM_OWNER_KIND == RNVM_USED:
        return which != 0 and which <= p.g.names and p.structures[which - 1].state != RNVM_FREE
    return False


cdef uint64_t free_orphans(pool *p) noexcept nogil:
    """Free blocks that were allocated for something that was never completed."""
    cdef uint64_t block, freed = 0
    cdef uint32_t owner
    for block in range(p.g.blocks):
        owner = block_owner(p, block)
        if owner != RNVM_NOBODY and not in_use(p, owner):
            blocks_assign(p, block, 1, RNVM_NOBODY)
            blocks_release(p, block, 1)
            freed += 1
    return freed


cdef void show(pool *p) noexcept nogil:
    """Write the words that peers READ from the dual-copy records.

    These words mean nothing after a crash.
    """
    cdef uint32_t i
    cdef rnvm_name *name
    cdef rnvm_session *shown
    for i in range(p.g.names):
        name = <rnvm_name *> (p.m.base + rnvm_name_at(&p.g, i))
        rfp_store64(&name.revoke, 0)
        rfp_store64_release(&name.sequence, rnvm_sequence_of(p.structures[i].number))
        catalog_publish(p, i)
    for i in range(p.g.sessions):
        shown = <rnvm_session *> (p.m.base + rnvm_session_at(&p.g, i))
        rfp_store64(&shown.operations_head, p.operations[i].head)
        rfp_store64(&shown.operations_durable, p.operations[i].durable)
        rfp_store64(&shown.memory_head, p.memory[i].head)
        rfp_store64(&shown.memory_durable, p.memory[i].durable)
        rfp_store64_release(&shown.epoch, p.sessions[i].epoch + 1)


cdef void warn(pool *p) noexcept nogil:
    """End all sessions before replay.

    Front-ends of an earlier back-end may still read this memory, and replay takes structures back
    to earlier states: they must see that their sessions have ended before anything else changes.
    """
    cdef uint32_t i
    for i in range(p.g.sessions):
        rfp_store64(p.m.base + rnvm_session_at(&p.g, i) + RNVM_SESSION_LIVE,
                    p.sessions[i].epoch + 1)
    rfp_fence_full()


cdef int pool_recover(pool *p, recovery *done) noexcept nogil:
    cdef uint32_t i
    memset(done, 0, sizeof(recovery))
    warn(p)
    p.recovering = True
    done.applied = pool_replay(p, <int64_t> (<uint64_t> -1 >> 1))
    p.recovering = False
    if pool_checkpoint(p) or fence_faulty(p, done):
        return -1
    for i in range(p.g.names):
        if p.structures[i].state == RNVM_DROPPING:
            done.dropped += 1
            if catalog_drop(p, i):
                return -1
    if finish_sessions(p, done):
        return -1
    done.freed = free_orphans(p)
    if pool_checkpoint(p):
        return -1
    # No reader has read anything yet.
    p.reclaim_epoch += 1
    blocks_reclaim(p, p.reclaim_epoch)
    show(p)
    return 0

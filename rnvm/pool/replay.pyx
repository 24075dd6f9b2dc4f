"""Collect, replay, checkpoint; list pending operations."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.core.core cimport RFP_ASSERT, rfp_fence_release, rfp_store64, rfp_store64_release
from rnvm.format.layout cimport (
    RNVM_GRANTED, RNVM_NOBODY, RNVM_NO_BLOCK, RNVM_OPERATION, RNVM_PAD, RNVM_PROGRESS, RNVM_RETURN,
    RNVM_TAKE, RNVM_TRANSACTION, RNVM_UNKNOWN, RNVM_USED, RNVM_WRITE, rnvm_backend, rnvm_block_at,
    rnvm_block_of, rnvm_entry, rnvm_entry_next, rnvm_longest_record, rnvm_name, rnvm_name_at,
    rnvm_offset, rnvm_part, rnvm_part_next, rnvm_record, rnvm_sequence_applying, rnvm_sequence_of,
    rnvm_session, rnvm_session_at, rnvm_structure_index,
)
from rnvm.media.medium cimport medium_drain, medium_write
from rnvm.pool.blocks cimport block_owner, blocks_assign, blocks_claim, blocks_retire
from rnvm.pool.dual_copy cimport dual_copy_begin, dual_copy_finish
from rnvm.pool.frame_words cimport frame_words_apply, frame_words_collect
from rnvm.pool.ring_log cimport (
    FAULT_ADDRESS, FAULT_MALFORMED, FAULT_OWNER, ring_begin, ring_collect, ring_finish, ring_read,
)
from rnvm.pool.state cimport pool, ring, structure

cdef enum:                     # result of judge(); faults are above 0
    APPLICABLE = 0
    EARLY = -1                 # it follows a transaction that has not arrived yet


cdef inline rnvm_session *session_at(pool *p, uint32_t session) noexcept nogil:
    return <rnvm_session *> (p.m.base + rnvm_session_at(&p.g, session))


cdef inline rnvm_name *name_at(pool *p, uint32_t index) noexcept nogil:
    return <rnvm_name *> (p.m.base + rnvm_name_at(&p.g, index))


cdef inline uint64_t capacity(const pool *p) noexcept nogil:
    return rnvm_longest_record(max(p.g.operation_ring, p.g.memory_ring))


cdef structure *structure_of(pool *p, uint32_t id) noexcept nogil:
    """Return the structure with this ID in logs.

    NULL: it was dropped, and its remaining records do not matter.
    """
    cdef uint32_t index = rnvm_structure_index(id)
    return &p.structures[index] if index < p.g.names and p.structures[index].id == id else NULL


# Collecting


cdef int64_t pool_collect(pool *p) noexcept nogil:
    return pool_collect_portion(p, 0)


cdef int64_t pool_collect_portion(pool *p, uint64_t portion) noexcept nogil:
    cdef uint32_t session, i
    cdef int64_t found = 0
    for i in range(p.g.sessions):
        session = (p.turn + i) % p.g.sessions
        if portion and found >= <int64_t> portion:
            p.turn = session
            break
        if p.operations[session].epoch:
            found += ring_collect(&p.operations[session], p.scratch, capacity(p))
            found += ring_collect(&p.memory[session], p.scratch, capacity(p))
    return make_durable(p, found)


cdef int64_t pool_collect_from(pool *p, uint32_t *next, uint64_t portion) noexcept nogil:
    cdef int64_t found = 0
    while next[0] < p.g.sessions and found < <int64_t> portion:
        if p.operations[next[0]].epoch:
            found += ring_collect(&p.operations[next[0]], p.scratch, capacity(p))
            found += ring_collect(&p.memory[next[0]], p.scratch, capacity(p))
        next[0] += 1
    return make_durable(p, found)


cdef int64_t make_durable(pool *p, int64_t found) noexcept nogil:
    """Make what was collected durable, and publish the new positions; return its bytes."""
    cdef uint32_t session
    if not found:
        return 0
    p.collected += <uint64_t> found
    if medium_drain(p.m):
        return -1
    for session in range(p.g.sessions):
        if p.operations[session].epoch:
            if (p.operations[session].durable != p.operations[session].tail
                    or p.memory[session].durable != p.memory[session].tail):
                frame_words_collect(p, session)
            durable(&p.operations[session], &session_at(p, session).operations_durable)
            durable(&p.memory[session], &session_at(p, session).memory_durable)
    return found


cdef inline void durable(ring *r, uint64_t *published) noexcept nogil:
    if r.durable != r.tail:
        RFP_ASSERT(r.durable < r.tail)
        r.durable = r.tail
        rfp_store64_release(published, r.durable)


cdef bint pool_settled(pool *p, uint32_t session) noexcept nogil:
    cdef ring *r
    cdef uint32_t i
    for i in range(2):
        r = &p.memory[session] if i else &p.operations[session]
        if r.durable != r.tail or not r.faulty and ring_read(r, r.tail, p.scratch, capacity(p)):
            return False
    return True


# Replaying


cdef bint belongs(pool *p, uint32_t kind, uint64_t block, uint32_t user,
                  uint32_t session) noexcept nogil:
    """Return whether an entry may touch this block."""
    cdef uint32_t owner = block_owner(p, block)
    if owner == user or owner == (RNVM_GRANTED | session):
        return True
    # A damaged word does not take blocks away from a structure.  And after a crash a later
    # transaction, which will follow, may have returned the block already.
    return owner == RNVM_UNKNOWN and kind != RNVM_TAKE or owner == RNVM_NOBODY and p.recovering


cdef uint32_t entry_fault(pool *p, const rnvm_entry *entry, uint32_t user,
                          uint32_t session) noexcept nogil:
    cdef uint64_t offset = rnvm_offset(entry.address)
    cdef uint64_t first = rnvm_block_of(&p.g, offset), block, last
    if rnvm_backend(entry.address) != p.g.backend or first == RNVM_NO_BLOCK or not entry.length:
        return FAULT_ADDRESS
    if entry.kind == RNVM_WRITE:
        last = rnvm_block_of(&p.g, offset + entry.length - 1)
    elif entry.kind == RNVM_TAKE or entry.kind == RNVM_RETURN:
        if offset != rnvm_block_at(&p.g, first):
            return FAULT_ADDRESS
        last = first + entry.length - 1
    else:
        return FAULT_MALFORMED
    if (last == RNVM_NO_BLOCK or last >= p.g.blocks
            or first // p.g.group_blocks != last // p.g.group_blocks):
        return FAULT_ADDRESS
    for block in range(first, last + 1):
        if not belongs(p, entry.kind, block, user, session):
            return FAULT_OWNER
    return 0


cdef bint named_before(const rnvm_record *record, uint32_t parts, uint32_t id) noexcept nogil:
    """Return whether one of the first parts is of this structure too.

    The number of the second part could never be the next.
    """
    cdef const rnvm_part *part
    cdef uint64_t at = 0
    cdef uint32_t i
    for i in range(parts):
        part = rnvm_part_next(<const char *> (record + 1), record.payload, &at)
        if part.structure == id:
            return True
    return False


cdef int judge(pool *p, const rnvm_record *record, uint32_t session) noexcept nogil:
    """Return whether a record can be applied now; changes nothing."""
    cdef const char *payload = <const char *> (record + 1)
    cdef const rnvm_part *part
    cdef const rnvm_entry *entry
    cdef structure *owner
    cdef uint64_t at = 0, within
    cdef uint32_t i, fault
    cdef int verdict = APPLICABLE
    if record.kind != RNVM_TRANSACTION:
        return FAULT_MALFORMED
    for i in range(record.parts):
        part = rnvm_part_next(payload, record.payload, &at)
        if part == NULL:
            return FAULT_MALFORMED
        owner = structure_of(p, part.structure)
        if owner == NULL or part.number <= owner.number:
            continue
        if part.number > owner.number + 1:
            if named_before(record, i, part.structure):
                return FAULT_MALFORMED
            verdict = EARLY
            continue
        within = 0
        while within < part.length:
            entry = rnvm_entry_next(part, &within)
            if entry == NULL:
                return FAULT_MALFORMED
            fault = entry_fault(p, entry, RNVM_USED | rnvm_structure_index(part.structure) + 1,
                                session)
            if fault:
                return fault
    return verdict if at == record.payload else FAULT_MALFORMED


cdef void apply_entry(pool *p, const rnvm_entry *entry, uint32_t user) noexcept nogil:
    cdef uint64_t offset = rnvm_offset(entry.address)
    cdef uint64_t first = rnvm_block_of(&p.g, offset)
    RFP_ASSERT(first != RNVM_NO_BLOCK)
    RFP_ASSERT(first < p.g.blocks)
    if entry.kind == RNVM_WRITE:
        # In the record's order: a reader that sees a structure's root sees all before it.
        rfp_fence_release()
        medium_write(p.m, offset, entry + 1, entry.length)
    elif entry.kind == RNVM_TAKE:
        blocks_claim(p, first, entry.length, user)
    else:
        blocks_assign(p, first, entry.length, RNVM_NOBODY)
        blocks_retire(p, first, entry.length)


cdef void apply_record(pool *p, const rnvm_record *record) noexcept nogil:
    """Apply a record that was judged applicable.

    Readers see the sequence of each of its structures odd in the meantime.
    """
    cdef const char *payload = <const char *> (record + 1)
    cdef const rnvm_part *part
    cdef structure *owner
    cdef uint64_t at = 0, within
    cdef uint32_t i
    RFP_ASSERT(record.kind == RNVM_TRANSACTION)
    for i in range(record.parts):
        part = rnvm_part_next(payload, record.payload, &at)
        RFP_ASSERT(part != NULL)
        owner = structure_of(p, part.structure)
        if owner != NULL and part.number == owner.number + 1:
            rfp_store64(&name_at(p, rnvm_structure_index(part.structure)).sequence,
                        rnvm_sequence_applying(part.number))
    rfp_fence_release()
    at = 0
    for i in range(record.parts):
        part = rnvm_part_next(payload, record.payload, &at)
        owner = structure_of(p, part.structure)
        if owner == NULL or part.number != owner.number + 1:
            continue
        within = 0
        while within < part.length:
            apply_entry(p, rnvm_entry_next(part, &within),
                        RNVM_USED | rnvm_structure_index(part.structure) + 1)
        owner.number = part.number
        owner.covers = max(owner.covers, part.covers)
        frame_words_apply(p, rnvm_structure_index(part.structure))
    rfp_fence_release()
    at = 0
    for i in range(record.parts):
        part = rnvm_part_next(payload, record.payload, &at)
        owner = structure_of(p, part.structure)
        if owner != NULL:
            rfp_store64(&name_at(p, rnvm_structure_index(part.structure)).sequence,
                        rnvm_sequence_of(owner.number))


cdef int64_t replay_ring(pool *p, uint32_t session, int64_t most, uint64_t *left) noexcept nogil:
    cdef ring *r = &p.memory[session]
    cdef rnvm_record *record = <rnvm_record *> p.scratch
    cdef int64_t applied = 0
    cdef uint64_t length
    cdef int verdict
    RFP_ASSERT(r.head <= r.replayed)
    while r.replayed < r.durable and not r.faulty and applied < most and left[0]:
        length = ring_read(r, r.replayed, p.scratch, capacity(p))
        if not length:
            r.faulty = FAULT_MALFORMED
        elif record.kind == RNVM_PAD:
            r.replayed += length
        else:
            verdict = judge(p, record, session)
            if verdict == EARLY:
                break
            if verdict:
                r.faulty = verdict
                break
            apply_record(p, record)
            r.replayed += length
            applied += 1
            left[0] -= min(length, left[0])
    RFP_ASSERT(applied <= most)
    return applied


cdef int64_t pool_replay(pool *p, int64_t most) noexcept nogil:
    return pool_replay_portion(p, most, <uint64_t> -1)


cdef int64_t pool_replay_portion(pool *p, int64_t most, uint64_t portion) noexcept nogil:
    cdef int64_t applied = 0, before = -1
    cdef uint32_t session
    # Repeat as long as it makes progress: a record may wait for one in another ring.
    while applied != before and applied < most and portion:
        before = applied
        for session in range(p.g.sessions):
            applied += replay_ring(p, session, most - applied, &portion)
    return applied


# Checkpoints


cdef void pass_covered(pool *p, uint32_t session) noexcept nogil:
    """Advance over the operations at the head of a ring that need not be re-executed."""
    cdef ring *r = &p.operations[session]
    cdef rnvm_record *record = <rnvm_record *> p.scratch
    cdef const rnvm_part *part
    cdef structure *owner
    cdef uint64_t length, at
    cdef uint32_t i
    RFP_ASSERT(r.head <= r.replayed)
    while r.replayed < r.durable and not r.faulty:
        length = ring_read(r, r.replayed, p.scratch, capacity(p))
        if not length:
            r.faulty = FAULT_MALFORMED
            return
        at = 0
        for i in range(record.parts):
            part = rnvm_part_next(<const char *> (record + 1), record.payload, &at)
            if part == NULL or record.kind != RNVM_OPERATION:
                r.faulty = FAULT_MALFORMED
                return
            owner = structure_of(p, part.structure)
            if owner != NULL and part.number > owner.covers:
                return
        r.replayed += length


cdef int save_progress(pool *p) noexcept nogil:
    """Save the position of each structure; in both copies when it returns."""
    cdef uint64_t[3] words
    cdef structure *each
    cdef uint32_t i
    cdef bint any_begun = False
    for i in range(p.g.names):
        each = &p.structures[i]
        if each.id and each.number != each.saved:
            words[0] = each.number
            words[1] = each.covers
            words[2] = 0
            dual_copy_begin(p.m, p.g.seed, rnvm_name_at(&p.g, i) + RNVM_PROGRESS, words)
            each.begun = any_begun = True
    if not any_begun:
        return 0
    if medium_drain(p.m):
        return -1
    for i in range(p.g.names):
        each = &p.structures[i]
        if each.begun:
            RFP_ASSERT(each.number != each.saved)
            dual_copy_finish(p.m, p.g.seed, rnvm_name_at(&p.g, i) + RNVM_PROGRESS)
            each.saved = each.number
            each.begun = False
    return medium_drain(p.m)


cdef inline bint unsaved(const ring *r) noexcept nogil:
    return r.epoch and (r.replayed != r.head or r.durable != r.end)


cdef int save_heads(pool *p) noexcept nogil:
    """Save the position of each ring; its space is free when this returns."""
    cdef uint32_t session
    cdef bint any_begun = False
    for session in range(p.g.sessions):
        pass_covered(p, session)
        if unsaved(&p.operations[session]):
            ring_begin(&p.operations[session], p.operations[session].replayed)
            any_begun = True
        if unsaved(&p.memory[session]):
            ring_begin(&p.memory[session], p.memory[session].replayed)
            any_begun = True
    if not any_begun:
        return 0
    if medium_drain(p.m):
        return -1
    for session in range(p.g.sessions):
        if p.operations[session].begun:
            ring_finish(&p.operations[session])
        if p.memory[session].begun:
            ring_finish(&p.memory[session])
    if medium_drain(p.m):
        return -1
    for session in range(p.g.sessions):
        free_space(&p.operations[session], &session_at(p, session).operations_head)
        free_space(&p.memory[session], &session_at(p, session).memory_head)
    return 0


cdef inline void free_space(ring *r, uint64_t *published) noexcept nogil:
    if r.head != r.replayed:
        RFP_ASSERT(r.head < r.replayed)
        RFP_ASSERT(not r.begun)
        r.head = r.replayed
        rfp_store64_release(published, r.head)


cdef int pool_checkpoint(pool *p) noexcept nogil:
    # Applied data first; then the fact that they were applied; then, that their log is no longer
    # needed.
    if medium_drain(p.m) or save_progress(p) or save_heads(p):
        return -1
    p.checkpoints += 1
    return 0


# Pending operations


cdef void pool_pending(pool *p, uint32_t session, pending_operation found,
                       void *context) noexcept nogil:
    cdef ring *r = &p.operations[session]
    cdef rnvm_record *record = <rnvm_record *> p.scratch
    cdef const rnvm_part *part
    cdef structure *owner
    cdef uint64_t lsn = r.replayed, length, at
    cdef uint32_t i
    RFP_ASSERT(r.head <= lsn)
    while lsn < r.durable:
        length = ring_read(r, lsn, p.scratch, capacity(p))
        if not length:
            return
        at = 0
        for i in range(record.parts):
            part = rnvm_part_next(<const char *> (record + 1), record.payload, &at)
            if part == NULL:
                return
            owner = structure_of(p, part.structure)
            if owner != NULL and part.number > owner.covers:
                if not found(context, session, lsn, part.structure, part.code, part.number,
                             <const char *> (part + 1), part.length):
                    return
        lsn += length

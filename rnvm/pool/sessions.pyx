"""Attach, fence and release sessions."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_fence_full, rfp_store64, rfp_store64_release
from rnvm.format.layout cimport (
    RNVM_ATTACHED, RNVM_FENCED, RNVM_FREE, RNVM_GRANTED, RNVM_NO_LIMIT, RNVM_SESSION_STATE,
    rnvm_longest_record, rnvm_session, rnvm_session_at,
)
from rnvm.media.medium cimport medium_drain
from rnvm.pool.blocks cimport blocks_free_all
from rnvm.pool.dual_copy cimport dual_copy_begin, dual_copy_finish
from rnvm.pool.ring_log cimport FAULT_NUMBER, ring_begin, ring_collect, ring_finish
from rnvm.pool.state cimport pool, ring


cdef int save(pool *p, uint32_t index, uint32_t state, uint64_t epoch) noexcept nogil:
    cdef uint64_t[3] words
    cdef uint64_t at = rnvm_session_at(&p.g, index) + RNVM_SESSION_STATE
    words[0] = epoch
    words[1] = state
    words[2] = p.sessions[index].detail
    dual_copy_begin(p.m, p.g.seed, at, words)
    if medium_drain(p.m):
        return -1
    dual_copy_finish(p.m, p.g.seed, at)
    if medium_drain(p.m):
        return -1
    p.sessions[index].epoch = epoch
    p.sessions[index].state = state
    return 0


cdef int save_rings(pool *p, uint32_t index) noexcept nogil:
    cdef ring *operations = &p.operations[index]
    cdef ring *memory = &p.memory[index]
    ring_begin(operations, operations.head)
    ring_begin(memory, memory.head)
    if medium_drain(p.m):
        return -1
    ring_finish(operations)
    ring_finish(memory)
    return medium_drain(p.m)


cdef void begin_ring(ring *r, uint64_t epoch) noexcept nogil:
    r.epoch = epoch
    r.limit = RNVM_NO_LIMIT
    r.replayed = r.durable = r.tail = r.head
    r.faulty = 0


cdef int64_t session_attach(pool *p, uint64_t detail) noexcept nogil:
    cdef uint32_t index
    cdef uint64_t epoch
    cdef rnvm_session *shown
    for index in range(p.g.sessions):
        if p.sessions[index].state == RNVM_FREE:
            break
    else:
        return NO_SESSION
    epoch = p.sessions[index].epoch + 1
    begin_ring(&p.operations[index], epoch)
    begin_ring(&p.memory[index], epoch)
    p.sessions[index].detail = detail
    # The rings first: a crash leaves a free session, whose rings are not read.
    if save_rings(p, index) or save(p, index, RNVM_ATTACHED, epoch):
        return SESSION_FAILED
    shown = <rnvm_session *> (p.m.base + rnvm_session_at(&p.g, index))
    rfp_store64(&shown.operations_head, p.operations[index].head)
    rfp_store64(&shown.operations_durable, p.operations[index].head)
    rfp_store64(&shown.memory_head, p.memory[index].head)
    rfp_store64(&shown.memory_durable, p.memory[index].head)
    rfp_store64_release(&shown.epoch, epoch)
    return index


cdef int session_fence(pool *p, uint32_t index) noexcept nogil:
    cdef uint64_t epoch = p.sessions[index].epoch
    if p.sessions[index].state != RNVM_FENCED and save(p, index, RNVM_FENCED, epoch):
        return -1
    rfp_store64(&(<rnvm_session *> (p.m.base + rnvm_session_at(&p.g, index))).epoch, epoch + 1)
    rfp_fence_full()
    return 0


cdef int session_set_fence_point(pool *p, uint32_t index) noexcept nogil:
    cdef ring *operations = &p.operations[index]
    cdef ring *memory = &p.memory[index]
    cdef uint64_t capacity = rnvm_longest_record(max(p.g.operation_ring, p.g.memory_ring))
    if (operations.limit != RNVM_NO_LIMIT and memory.limit != RNVM_NO_LIMIT
            and not operations.faulty and not memory.faulty):
        return 0
    ring_collect(operations, p.scratch, capacity)
    ring_collect(memory, p.scratch, capacity)
    if medium_drain(p.m):
        return -1
    # If a record must not be applied, the records behind it must not be either.
    if operations.faulty:
        operations.tail = operations.replayed
    if memory.faulty:
        memory.tail = memory.replayed
    operations.durable = operations.limit = operations.tail
    memory.durable = memory.limit = memory.tail
    operations.faulty = memory.faulty = 0
    return save_rings(p, index)


cdef bint stuck(const pool *p, uint32_t index) noexcept nogil:
    """Return whether a record waits for a predecessor that is in no ring.

    That is known once all other rings have been replayed.
    """
    cdef uint32_t other
    if p.memory[index].replayed == p.memory[index].durable:
        return False
    for other in range(p.g.sessions):
        if other != index and p.memory[other].replayed != p.memory[other].durable:
            return False
    return True


cdef int session_release(pool *p, uint32_t index) noexcept nogil:
    cdef ring *operations = &p.operations[index]
    cdef ring *memory = &p.memory[index]
    if p.sessions[index].state != RNVM_FENCED:
        return 0
    if not memory.faulty and stuck(p, index):
        memory.faulty = FAULT_NUMBER
    if (memory.faulty or operations.faulty) and session_set_fence_point(p, index):
        return -1
    if operations.head != operations.limit or memory.head != memory.limit:
        return 0
    blocks_free_all(p, RNVM_GRANTED | index)
    if medium_drain(p.m):
        return -1
    p.sessions[index].detail = 0
    return 1 if not save(p, index, RNVM_FREE, p.sessions[index].epoch) else -1

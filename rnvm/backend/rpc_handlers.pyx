"""Execute calls of front-ends without the GIL: grants, locks, syncs, outcomes, pending."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rnvm.backend.lock_manager cimport (
    LOCK_ABANDONED, LOCK_GRANTED, fence_point, lock_leave, lock_manager_catch_up,
    lock_manager_fence_point,
    lock_request, lock_share, lock_word,
)
from rnvm.backend.openings cimport openings_remove
from rnvm.backend.state cimport backend_checkpoint, fail, reply
from rnvm.backend.watches cimport watches_add
from rnvm.format.layout cimport (
    RNVM_FENCED, RNVM_GRANTED, RNVM_LIVE, RNVM_NO_BLOCK, rnvm_address, rnvm_block_at,
    rnvm_structure_index,
)
from rnvm.format.messages cimport (
    RNVM_ABANDONED, RNVM_ABSENT, RNVM_BAD_REQUEST, RNVM_FORGOTTEN, RNVM_NO_SPACE, RNVM_PATIENT,
    RNVM_QUEUED, rnvm_after, rnvm_locked, rnvm_number, rnvm_outcome, rnvm_pending, rnvm_share,
)
from rnvm.media.medium cimport medium_drain
from rnvm.pool.blocks cimport blocks_allocate
from rnvm.pool.replay cimport pool_pending


cdef void call_grant(backend *s, uint64_t count, response *answer, const client *c) noexcept nogil:
    cdef rnvm_number done
    cdef uint64_t block = blocks_allocate(s.g.p, count, RNVM_GRANTED | <uint32_t> c.session)
    # Blocks returned in a transaction may be free after a checkpoint; that transaction may not be
    # applied yet.
    if block == RNVM_NO_BLOCK and not lock_manager_catch_up(&s.g) and not backend_checkpoint(s):
        block = blocks_allocate(s.g.p, count, RNVM_GRANTED | <uint32_t> c.session)
    if block == RNVM_NO_BLOCK:
        answer.status = RNVM_NO_SPACE
        return
    if medium_drain(s.g.p.m):
        fail(s, answer)
        return
    done.number = rnvm_address(s.g.p.g.backend, rnvm_block_at(&s.g.p.g, block))
    reply(answer, &done, sizeof(done))


cdef int64_t index_of(const backend *s, uint64_t structure) noexcept nogil:
    cdef uint32_t index = rnvm_structure_index(<uint32_t> structure)
    if (index >= s.g.p.g.names or s.g.p.structures[index].id != structure
            or s.g.p.structures[index].state != RNVM_LIVE):
        return -1
    return index


cdef void say_granted(backend *s, uint32_t index, response *answer) noexcept nogil:
    cdef rnvm_locked done
    done.word = lock_word(&s.g, index)
    done.number = s.g.p.structures[index].number
    done.covered = s.g.p.structures[index].covers
    done.operations = max(s.g.locks[index].orphans, done.covered)
    reply(answer, &done, sizeof(done))


cdef void call_acquire(backend *s, uint64_t wanted, response *answer,
                       const client *c) noexcept nogil:
    cdef int64_t index = index_of(s, wanted & ~<uint64_t> RNVM_PATIENT)
    cdef int found
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    found = lock_request(&s.g, <uint32_t> index, <uint32_t> c.session, wanted & RNVM_PATIENT != 0)
    if found < 0:
        fail(s, answer)
        return
    if found != LOCK_GRANTED:
        answer.status = RNVM_QUEUED
        return
    say_granted(s, <uint32_t> index, answer)


cdef void call_share(backend *s, const request *asked, response *answer,
                     const client *c) noexcept nogil:
    cdef rnvm_share question
    cdef rnvm_number dead
    cdef int64_t index
    cdef int found
    if asked.length != sizeof(question) or s.g.words == NULL:
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    index = index_of(s, question.structure & ~<uint64_t> RNVM_PATIENT)
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    found = lock_share(&s.g, <uint32_t> index, <uint32_t> c.session, question.word,
                       question.structure & RNVM_PATIENT != 0, &dead.number)
    if found < 0:
        fail(s, answer)
    elif found == LOCK_GRANTED:
        say_granted(s, <uint32_t> index, answer)
    elif found == LOCK_ABANDONED:
        answer.status = RNVM_ABANDONED
        reply(answer, &dead, sizeof(dead))
    else:
        answer.status = RNVM_QUEUED


cdef void call_leave(backend *s, uint64_t structure, response *answer,
                     const client *c) noexcept nogil:
    cdef int64_t index = index_of(s, structure)
    if index >= 0 and lock_leave(&s.g, <uint32_t> index, <uint32_t> c.session):
        fail(s, answer)


cdef void call_watch(backend *s, uint64_t structure, response *answer) noexcept nogil:
    cdef int64_t index = index_of(s, structure)
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    watches_add(&s.watched, &s.g, <uint32_t> index)


cdef void call_close(backend *s, uint64_t structure, const client *c) noexcept nogil:
    cdef int64_t index = index_of(s, structure)
    if index >= 0:
        openings_remove(s, <uint32_t> index, c.session)


cdef struct search:
    uint64_t structure
    uint64_t after
    rnvm_pending found
    const char *scratch


cdef bint nearer(void *context, uint32_t writer, uint64_t lsn, uint32_t structure, uint32_t code,
                 uint64_t number, const char *bytes, uint32_t length) noexcept nogil:
    cdef search *s = <search *> context
    if (structure == s.structure and number > s.after
            and (not s.found.number or number < s.found.number)):
        s.found.number = number
        s.found.lsn = lsn
        s.found.session = writer
        s.found.code = code
        s.found.at = <uint32_t> (bytes - s.scratch)
        s.found.length = length
    return True


cdef void call_pending(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_after question
    cdef search wanted
    cdef uint32_t i
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    memset(&wanted, 0, sizeof(wanted))
    wanted.structure = question.structure
    wanted.after = question.number
    wanted.scratch = s.g.p.scratch
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED:
            pool_pending(s.g.p, i, nearer, &wanted)
    if not wanted.found.number:
        answer.status = RNVM_ABSENT
        return
    wanted.found.epoch = s.g.p.sessions[wanted.found.session].epoch
    reply(answer, &wanted.found, sizeof(wanted.found))


cdef void call_outcome(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_outcome question
    cdef const fence_point *end
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if question.session >= s.g.p.g.sessions:
        answer.status = RNVM_BAD_REQUEST
        return
    end = lock_manager_fence_point(&s.g, question.session, question.epoch)
    if end == NULL or end.ticket and end.ticket != question.ticket:
        # Not known any more, or from another history, which this pool has had since a copy of it
        # was restored.
        answer.status = RNVM_FORGOTTEN
    elif question.lsn >= (end.memory if question.ring else end.operations):
        answer.status = RNVM_ABSENT

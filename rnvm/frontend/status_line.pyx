# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A structure's line of live words, as a front-end sees it (the contract is in _line.pxd)."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_load64_acquire
from rfp.fabric.fabric cimport READ, remote_region, work_request
from rnvm.format.layout cimport RNVM_NAME_LIVE, RNVM_SESSION_LIVE, rnvm_name_at, rnvm_session_at
from rnvm.format.messages cimport (
    RNVM_LIVE_HOLDER, RNVM_LIVE_ORPHANS, RNVM_LIVE_REPLAYED, RNVM_LIVE_STRUCTURE, rnvm_locked,
)
from rnvm.frontend.status cimport FENCED, GONE, OK
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.remote cimport remote_place, remote_read, remote_transfers

cdef enum:
    REVOKE = 1                 # words of the line
    SPARE = 2


cdef inline uint64_t line_at(const instance *s) noexcept nogil:
    return rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE


cdef int line_ask(instance *s, work_request *works) noexcept nogil:
    """READs in order: the other words of the first, sequence and structure of the second."""
    cdef frontend *fe = s.fe
    cdef remote_region *region = NULL
    cdef uint64_t place = 0, size = 0
    cdef int found = remote_place(fe, line_at(s), sizeof(line), &region, &place, &size)
    cdef int i
    if found != OK:
        return found
    for i in range(2):
        works[i].opcode = READ
        works[i].local = fe.buffer
        works[i].local_offset = fe.landing + 64 * i
        works[i].remote = region
        works[i].remote_offset = place
        works[i].length = sizeof(line)
    fe.reads += 2
    return OK


cdef int line_answer(instance *s, line *seen) noexcept nogil:
    cdef const char *landed = s.fe.buffer.base + s.fe.landing
    cdef const line *second = <const line *> (landed + 64)
    memcpy(seen, landed, sizeof(line))
    seen.sequence = second.sequence
    seen.structure = second.structure
    return OK if seen.structure == s.id else GONE


cdef int line_session(frontend *fe) noexcept nogil:
    cdef uint64_t epoch = 0
    cdef uint64_t at = rnvm_session_at(&fe.g, fe.session) + RNVM_SESSION_LIVE
    cdef int found = fe.trouble
    if found != OK:
        return found
    if fe.near:
        epoch = rfp_load64_acquire(fe.pool.base + at)
    else:
        found = remote_read(fe, at, &epoch, sizeof(epoch))
    if found == OK and epoch != fe.epoch:
        found = fe.trouble = FENCED
    return found


cdef int line_look(instance *s, line *seen) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef work_request[2] works
    cdef const char *at
    cdef int found
    if fe.trouble:
        return fe.trouble
    if fe.near:
        at = fe.pool.base + line_at(s)
        # In this order: when a lock was asked back and taken, its holder changes first; then nobody asks for it any more.
        seen.revoke = rfp_load64_acquire(at + 8 * REVOKE)
        seen.holder = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_HOLDER))
        seen.replayed = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_REPLAYED))
        seen.orphans = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_ORPHANS))
        seen.sequence = rfp_load64_acquire(at)
        # A sequence that begins anew, for another structure or while a new back-end replays logs, comes after these have changed.
        seen.structure = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_STRUCTURE))
        found = line_session(fe)
        if found != OK:
            return found
        return OK if seen.structure == s.id else GONE
    found = line_ask(s, works)
    if found == OK:
        found = remote_transfers(fe, works, 2, fe.deadline)
    return line_answer(s, seen) if found == OK else found


cdef bint line_grants(const line *seen, uint64_t word) noexcept nogil:
    return seen.holder == word and seen.revoke != word >> 16


cdef void line_take_over(instance *s, const rnvm_locked *locked) noexcept nogil:
    s.holds = True
    s.word = locked.word
    if 2 * locked.number != s.seen:
        s.generation += 1
        s.seen = 2 * locked.number
    s.number = s.applied = locked.number
    s.operations = locked.operations
    s.covered = locked.covered

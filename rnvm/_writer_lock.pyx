# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A structure's line of live words, and its writer lock (the contract is in _writer_lock.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp._core cimport rfp_fence_full, rfp_load64, rfp_load64_acquire, rfp_now, rfp_store64_release
from rfp._fabric cimport READ, WRITE, local_region, remote_region, work_request
from rfp.protocol._client_ring cimport DONE, TIMED_OUT
from rfp.protocol._transfers cimport client_ring_transfers
from rnvm._answers cimport AGAIN, DAMAGED, FENCED, LATE, LOST, OK
from rnvm._front cimport frontend, instance
from rnvm._layout cimport RNVM_NAME_LIVE, rnvm_name_at
from rnvm._messages cimport *
from rnvm._remote cimport remote_ask, remote_call, remote_patience, remote_place

cdef enum:
    REVOKE = 1                 # words of the line
    SPARE = 2
    LOOKS = 128                # whether a lock was granted, before it is asked for again
    HEED = 200000              # ns between two looks whether somebody else wants a lock, over a network


cdef inline uint64_t line_at(const instance *s) noexcept nogil:
    return rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE


cdef int line_look(instance *s, line *seen) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef local_region here
    cdef work_request[2] works
    cdef remote_region *region = NULL
    cdef uint64_t place = 0, size = 0
    cdef const char *at
    cdef int found, i
    if fe.trouble:
        return fe.trouble
    if fe.near:
        at = fe.pool.base + line_at(s)
        seen.revoke = rfp_load64_acquire(at + 8 * REVOKE)
        seen.holder = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_HOLDER))
        seen.replayed = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_REPLAYED))
        seen.orphans = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_ORPHANS))
        seen.sequence = rfp_load64_acquire(at)
        return OK
    # Two READs in order, one round trip: the other words of the first, the sequence of the second.
    fe.reads += 2
    found = remote_place(fe, line_at(s), sizeof(line), &region, &place, &size)
    if found != OK:
        return found
    here = fe.buffer[0]
    for i in range(2):
        works[i].opcode = READ
        works[i].local = &here
        works[i].local_offset = fe.landing + 64 * i
        works[i].remote = region
        works[i].remote_offset = place
        works[i].length = sizeof(line)
    found = client_ring_transfers(fe.ring, works, 2, fe.deadline)
    if found != DONE:
        if found == TIMED_OUT:
            return LATE
        fe.trouble = LOST
        return LOST
    memcpy(seen, fe.buffer.base + fe.landing, sizeof(line))
    memcpy(&seen.sequence, fe.buffer.base + fe.landing + 64, sizeof(uint64_t))
    return OK


cdef int say(instance *s, uint64_t inside) noexcept nogil:
    """Tells the back-end whether we are inside an operation of this structure."""
    cdef frontend *fe = s.fe
    cdef work_request work
    cdef int found
    fe.turns += 2
    inside |= fe.turns
    if fe.near:
        rfp_store64_release(fe.desk.base + 8 * <uint64_t> s.index, inside)
        return OK
    work.opcode = WRITE
    work.local = fe.buffer
    work.local_offset = fe.landing + 128
    work.remote = fe.desk
    work.remote_offset = 8 * <uint64_t> s.index
    work.length = 8
    memcpy(fe.buffer.base + work.local_offset, &inside, 8)
    fe.writes += 1
    found = client_ring_transfers(fe.ring, &work, 1, fe.deadline)
    if found == DONE:
        return OK
    if found == TIMED_OUT:
        return LATE
    fe.trouble = LOST
    return LOST


cdef bint still_ours(instance *s) noexcept nogil:
    """After say(): whether the lock is ours, and will be until we say that we are out."""
    cdef const char *at = s.fe.pool.base + line_at(s)
    rfp_fence_full()
    # In this order: once a lock was asked back and taken, its holder changes first, and only then nobody asks for it any more.
    return rfp_load64_acquire(at + 8 * REVOKE) != s.word >> 16 and rfp_load64(at + 8 * (SPARE + RNVM_LIVE_HOLDER)) == s.word


cdef void take_over(instance *s, const rnvm_locked *locked) noexcept nogil:
    """The lock was granted: what others did meanwhile shows."""
    s.holds = True
    s.word = locked.word
    if 2 * locked.number != s.seen:
        s.generation += 1
        s.seen = 2 * locked.number
    s.number = s.applied = locked.number
    s.operations = locked.operations
    s.covered = locked.covered


cdef int lock_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_locked locked
    cdef line seen
    cdef uint64_t pause, asked, id = s.id
    cdef uint32_t got = 0, looks
    cdef int found
    s.holds = False
    while True:
        asked = rfp_now()
        found = remote_call(fe, RNVM_ACQUIRE, &id, sizeof(id), &locked, sizeof(locked), &got)
        if found != OK:
            return found
        if fe.refusal == RNVM_GOOD and got == sizeof(locked):
            found = say(s, 1)
            if found != OK:
                return found
            s.word = locked.word
            if not fe.near:
                # Asked for back before we said that we are inside?
                found = line_look(s, &seen)
                if found != OK:
                    return found
                if seen.holder == s.word and seen.revoke != s.word >> 16:
                    s.looked = asked
                    take_over(s, &locked)
                    return OK
            elif still_ours(s):
                take_over(s, &locked)
                return OK
            say(s, 0)
            continue
        if fe.refusal != RNVM_QUEUED:
            fe.trouble = LOST
            return LOST
        pause = 0
        for looks in range(LOOKS):
            found = line_look(s, &seen)
            if found != OK:
                break
            if seen.holder and (seen.holder & 0xffff) == fe.session + 1:
                break
            found = remote_patience(fe, &pause)
            if found != OK:
                break
        if found != OK:
            if not fe.trouble:
                remote_ask(fe, RNVM_LEAVE, s.id)
            return found


cdef int give_back(instance *s) noexcept nogil:
    """To the back-end, which lets the next one in."""
    cdef int found
    s.holds = False
    found = say(s, 0)
    return remote_ask(s.fe, RNVM_LEAVE, s.id) if found == OK else found


cdef int heed(instance *s) noexcept nogil:
    """Over a network we say that we are inside for as long as we have the lock.  Here it goes back, if somebody waits for it."""
    cdef line seen
    cdef uint64_t now = rfp_now()
    cdef int found = line_look(s, &seen)
    if found != OK:
        return found
    s.looked = now
    if seen.holder == s.word and seen.revoke != s.word >> 16:
        return OK
    return give_back(s)


cdef int lock_resume(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.trouble:
        return fe.trouble
    if not s.holds:
        return OK
    if not fe.near:
        # Over a network s.holds is right for half a lease, since the lock is not taken away before a whole one has passed after
        # we last saw that nobody wants it.
        return heed(s) if rfp_now() - s.looked > fe.lease // 2 else OK
    say(s, 1)
    if not still_ours(s):
        say(s, 0)
        s.holds = False
    return OK


cdef int lock_pause(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.trouble or not s.holds:
        return fe.trouble
    if not fe.sticky:
        return give_back(s)
    if fe.near:
        return say(s, 0)
    return heed(s) if rfp_now() - s.looked > HEED else OK


cdef int lock_release(instance *s) noexcept nogil:
    if s.fe.trouble or not s.holds:
        return s.fe.trouble
    return give_back(s)


cdef int lock_confirm(instance *s, int found) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef line seen
    cdef int outcome
    if found != AGAIN and (not s.fetched or not fe.near and rfp_now() - s.looked <= fe.lease):
        return found
    outcome = line_look(s, &seen)
    if outcome == OK and seen.holder != s.word:
        outcome = fe.trouble = FENCED
    if outcome != OK:
        return outcome
    return DAMAGED if found == AGAIN else found

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A structure's writer lock (the contract is in _writer_lock.pxd).

The back-end grants it, and it is kept until others ask for it (lock="sticky") or goes back after each operation ("each").  With
"cas" front-ends settle it among themselves: _swap_lock.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_fence_full, rfp_now, rfp_store64_release
from rfp.fabric.fabric cimport WRITE, work_request
from rnvm.format.messages cimport (
    RNVM_ABSENT, RNVM_ACQUIRE, RNVM_GOOD, RNVM_LEAVE, RNVM_QUEUED, rnvm_locked,
)
from rnvm.frontend.status cimport AGAIN, DAMAGED, FENCED, GONE, LOST, OK
from rnvm.frontend.state cimport WATCH, frontend, instance
from rnvm.frontend.status_line cimport line, line_grants, line_look, line_session, line_take_over
from rnvm.frontend.remote cimport remote_ask, remote_call, remote_patience, remote_transfers
from rnvm.frontend.cas_lock cimport swap_acquire, swap_release

cdef enum:
    LOOKS = 128                # whether a lock was granted, before it is asked for again
    HEED = 200000              # ns between two looks whether somebody else wants a lock, over a network


cdef int say(instance *s, uint64_t inside) noexcept nogil:
    """Tells the back-end whether we are inside an operation of this structure."""
    cdef frontend *fe = s.fe
    cdef work_request work
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
    return remote_transfers(fe, &work, 1, fe.deadline)


cdef int still_ours(instance *s, bint *ours) noexcept nogil:
    """After say(): whether the lock is ours, and will be until we say that we are out."""
    cdef line seen
    cdef int found
    rfp_fence_full()
    found = line_look(s, &seen)
    ours[0] = found == OK and line_grants(&seen, s.word)
    return found


cdef int lock_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_locked locked
    cdef line seen
    cdef uint64_t pause, asked, id = s.id
    cdef uint32_t got = 0, looks
    cdef bint ours = False
    cdef int found
    if fe.words != NULL:
        return swap_acquire(s)
    s.holds = False
    while True:
        asked = rfp_now()
        found = remote_call(fe, RNVM_ACQUIRE, &id, sizeof(id), &locked, sizeof(locked), &got)
        if found != OK:
            return found
        if fe.refusal == RNVM_GOOD and got == sizeof(locked):
            s.word = locked.word
            found = say(s, 1)
            if found == OK:
                # Asked for back before we said that we are inside?
                found = still_ours(s, &ours)
            if found != OK:
                return found
            if ours:
                s.looked = asked
                line_take_over(s, &locked)
                return OK
            say(s, 0)
            continue
        if fe.refusal == RNVM_ABSENT:
            return GONE
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
    return OK if line_grants(&seen, s.word) else give_back(s)


cdef int lock_resume(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef bint ours = False
    cdef int found
    if fe.trouble:
        return fe.trouble
    if not s.holds:
        return OK
    if not fe.near:
        # Over a network s.holds is right for half a lease, since the lock is not taken away before a whole one has passed after
        # we last saw that nobody wants it.
        return heed(s) if rfp_now() - s.looked > fe.lease // 2 else OK
    say(s, 1)
    found = still_ours(s, &ours)
    if not ours:
        say(s, 0)
        s.holds = False
    return found


cdef int lock_pause(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.trouble or not s.holds:
        return fe.trouble
    if fe.words != NULL:
        return swap_release(s)
    if not fe.sticky:
        return give_back(s)
    if fe.near:
        return say(s, 0)
    return heed(s) if rfp_now() - s.looked > HEED else OK


cdef int lock_release(instance *s) noexcept nogil:
    if s.fe.trouble or not s.holds:
        return s.fe.trouble
    return give_back(s) if s.fe.words == NULL else swap_release(s)


cdef bint covered(const instance *s, uint64_t since) noexcept nogil:
    """Over a network: whether the lock is ours at this moment although nothing is READ.  We saw, so short a time ago, that nobody
    wants it, and the back-end lived a moment ago; another one waits longer than that before it serves."""
    cdef const frontend *fe = s.fe
    cdef uint64_t now
    if fe.near:
        return False
    now = rfp_now()
    return now - s.looked <= since and (not fe.watches or now - fe.alive <= WATCH)


cdef int lock_keep(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t now
    cdef line seen
    cdef int found
    if fe.trouble:
        return fe.trouble
    if fe.near:
        return line_session(fe)
    if covered(s, fe.lease // 2):
        return OK
    if fe.words != NULL:
        return line_session(fe)                 # the line does not say who of those that share the lock is inside
    now = rfp_now()
    found = line_look(s, &seen)
    if found == OK and seen.holder != s.word:
        found = fe.trouble = FENCED
    if found == OK and line_grants(&seen, s.word):
        s.looked = now
    return found


cdef int locks_confirm(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    if fe.trouble:
        return fe.trouble
    for i in range(fe.instance_count):
        s = fe.instances[i]
        if s.entered and not covered(s, fe.lease):
            return line_session(fe)
    return OK


cdef int lock_confirm(instance *s, int found) noexcept nogil:
    cdef bint suspect = found == AGAIN or found == DAMAGED
    cdef int outcome
    if not suspect and (not s.fetched or covered(s, s.fe.lease)):
        return found
    # While the session is ours, so is each lock that we are inside of: whoever takes one of them raises the epoch first.
    outcome = line_session(s.fe)
    if outcome != OK:
        return outcome
    return DAMAGED if suspect else found

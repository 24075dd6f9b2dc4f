# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The writer lock by compare-and-swap (the contract is in _swap_lock.pxd).

The back-end grants the lock to all such front-ends together, durably, and takes it back when others ask for it; who of them is
inside says the structure's word.  It names session, epoch and turn, also after its writer has gone: so who finds there what he
has left himself knows all that was done, and needs no call.  Only front-ends change it, all of them by the same means.  The
back-end looks at it, and says of which session nothing will come any more; then another front-end puts its own word in its place.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_compare_swap64, rfp_fence_full, rfp_load64_acquire, rfp_now
from rfp.fabric.fabric cimport COMPARE_SWAP, READ, work_request
from rnvm.format.messages cimport *
from rnvm.frontend.status cimport FENCED, GONE, LATE, LOST, OK
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.status_line cimport line, line_answer, line_ask, line_grants, line_look, line_take_over
from rnvm.frontend.remote cimport remote_ask, remote_call, remote_patience, remote_transfers

cdef enum:
    WORD = 192                 # where in the landing one comes
    LOOKS = 128                # whether the lock is shared again, before that is asked for once more
    TRIALS = 32                # before the back-end is asked whether who is inside still lives


cdef int swap(instance *s, uint64_t expected, uint64_t wanted, uint64_t *old, line *seen) noexcept nogil:
    """The word; and behind it, where `seen` is not NULL, the line: who asks the lock back looks at the word after he said so."""
    cdef frontend *fe = s.fe
    cdef work_request[3] works
    cdef uint64_t again
    cdef int found = OK
    fe.swaps += 1
    if fe.near:
        old[0] = expected
        rfp_compare_swap64(fe.words.base + 8 * <uint64_t> s.index, old, wanted)
        rfp_fence_full()
        found = line_look(s, seen) if seen != NULL else OK
        if found == GONE and old[0] == expected:
            # The word is that of another structure by now, whose front-ends would wait until we are fenced.
            again = wanted
            rfp_compare_swap64(fe.words.base + 8 * <uint64_t> s.index, &again, expected)
        return found
    works[0].opcode = COMPARE_SWAP
    works[0].local = fe.buffer
    works[0].local_offset = fe.landing + WORD
    works[0].remote = fe.words
    works[0].remote_offset = 8 * <uint64_t> s.index
    works[0].length = 8
    works[0].compare = expected
    works[0].operand = wanted
    if seen != NULL:
        found = line_ask(s, works + 1)
    if found == OK:
        # To its end, however late: else nobody knows whose the word is.
        found = remote_transfers(fe, works, 1 if seen == NULL else 3, 0)
    if found == OK:
        memcpy(old, fe.buffer.base + fe.landing + WORD, 8)
        if seen != NULL:
            line_answer(s, seen)
    return found


cdef int look(instance *s, uint64_t *word) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef work_request work
    cdef int found
    if fe.near:
        rfp_fence_full()
        word[0] = rfp_load64_acquire(fe.words.base + 8 * <uint64_t> s.index)
        return OK
    work.opcode = READ
    work.local = fe.buffer
    work.local_offset = fe.landing + WORD
    work.remote = fe.words
    work.remote_offset = 8 * <uint64_t> s.index
    work.length = 8
    fe.reads += 1
    found = remote_transfers(fe, &work, 1, fe.deadline)
    if found == OK:
        memcpy(word, fe.buffer.base + fe.landing + WORD, 8)
    return found


cdef int ask(instance *s, uint64_t word, void *answer, uint32_t capacity, uint32_t *got) noexcept nogil:
    cdef rnvm_share question
    question.structure = s.id
    question.word = word
    return remote_call(s.fe, RNVM_SHARE, &question, sizeof(question), answer, capacity, got)


cdef int enter(instance *s) noexcept nogil:
    """The word is ours; whether the lock is, says the back-end, and what others have done.  s.holds: it is."""
    cdef rnvm_locked locked
    cdef uint32_t got = 0
    cdef int found = ask(s, s.token, &locked, sizeof(locked), &got)
    if found == OK and s.fe.refusal == RNVM_GOOD and got == sizeof(locked):
        line_take_over(s, &locked)
        return OK
    if s.fe.trouble:
        return s.fe.trouble
    if found == OK and s.fe.refusal == RNVM_ABSENT:
        found = GONE
    elif found == OK and s.fe.refusal != RNVM_QUEUED:
        s.fe.trouble = LOST
        return LOST
    s.word = 0
    return found if swap_release(s) == OK else s.fe.trouble


cdef int await_turn(instance *s) noexcept nogil:
    """Until the lock is shared: others asked for it before, and the back-end has us in their queue."""
    cdef line seen
    cdef uint64_t pause = 0
    cdef uint32_t looks
    cdef int found = OK
    for looks in range(LOOKS):
        found = line_look(s, &seen)
        if found != OK or (seen.holder & 0xffff) == RNVM_SHARED + 1 and line_grants(&seen, seen.holder):
            break
        found = remote_patience(s.fe, &pause)
        if found != OK:
            break
    return found


cdef int await_word(instance *s, uint64_t word, uint32_t trials, uint64_t *pause, uint64_t *expected) noexcept nogil:
    """Somebody else is inside: what the word will be when he is gone."""
    cdef frontend *fe = s.fe
    cdef rnvm_number dead
    cdef uint32_t got = 0
    cdef int found
    expected[0] = word & ~RNVM_HELD
    if trials % TRIALS == 0:
        found = ask(s, 0, &dead, sizeof(dead), &got)
        if found != OK:
            return found
        if fe.refusal == RNVM_ABANDONED and got == sizeof(dead):
            expected[0] = dead.number
            return OK
        if fe.refusal == RNVM_ABSENT:
            return GONE
        if fe.refusal != RNVM_QUEUED:
            fe.trouble = LOST
            return LOST
    return remote_patience(fe, pause)


cdef bint as_we_left_it(const instance *s, const line *seen) noexcept nogil:
    """Where the word was our own: whether also the lock has been ours all along, and we know of all that was done."""
    return s.word and line_grants(seen, s.word) and not seen.orphans and s.seen == 2 * s.number


cdef int swap_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef line seen
    cdef uint64_t expected = s.left, old = 0, pause = 0
    cdef uint32_t trials = 0
    cdef int found = fe.trouble
    s.holds = False
    while found == OK:
        s.looked = rfp_now()
        if s.looked >= fe.deadline:
            found = LATE
            break
        s.token = rnvm_lock_word(fe.session, fe.epoch, fe.swaps)
        found = swap(s, expected, s.token, &old, &seen)
        if found != OK:
            break
        if old == expected:
            if old == s.left and as_we_left_it(s, &seen):
                s.holds = True
                return OK
            found = enter(s)
            if found == OK and s.holds:
                return OK
            if found == OK:
                found = await_turn(s)
            expected = s.left
        elif old & RNVM_HELD:
            trials += 1
            found = await_word(s, old, trials, &pause, &expected)
        else:
            expected = old
    if not fe.trouble:
        remote_ask(fe, RNVM_LEAVE, s.id)        # we may have been in its queue
    return found


cdef int swap_release(instance *s) noexcept nogil:
    cdef uint64_t old = 0, left = s.token & ~RNVM_HELD
    cdef int found
    s.holds = False
    s.left = 0
    found = swap(s, s.token, left, &old, NULL)
    if found == OK and old == s.token:
        s.left = left
    elif found == OK:
        found = s.fe.trouble = FENCED           # it was taken from us
    return found


cdef int swap_applied(instance *s, const line *seen, bint *applied) noexcept nogil:
    cdef uint64_t word = 0
    cdef int found = look(s, &word)
    # Nobody has been inside since we were, and all of ours is applied.
    applied[0] = word == s.left and s.word and seen.holder == s.word and seen.sequence == 2 * s.number
    return found

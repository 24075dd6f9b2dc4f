"""The writer lock by compare-and-swap.

The back-end grants the lock to all such front-ends together (they share it), durably, and revokes
it when others request it.  Which sharer is inside is in the structure's lock word.  It contains
session, epoch and turn, also after its writer has left: a front-end that finds there the word that
it left itself knows of all that was done, and needs no call.  Only front-ends change the word, all
of them by compare-and-swap.  The back-end reads it, and reports a session of which no further
write can come; then another front-end replaces the word.

The lock is unfair: there is no queue, and any waiter may win.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_compare_swap64, rfp_fence_full, rfp_load64_acquire, rfp_now
from rfp.fabric.fabric cimport COMPARE_SWAP, READ, remote_region, work_request
from rnvm.format.layout cimport rnvm_sequence_of
from rnvm.format.messages cimport *
from rnvm.frontend.promise cimport promise_note_line
from rnvm.frontend.remote cimport (
    remote_ask, remote_call, remote_transfers, remote_wait, session_fail)
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.status cimport FENCED, GONE, LATE, LOST, OK
from rnvm.frontend.status_line cimport (
    STATUS_READS, lock_granted, status_grants, status_landed, status_line, status_post_reads,
    status_read)

cdef enum:
    WORD_OFFSET = 192          # in the landing, behind the activity word: where a lock word lands
    SHARE_POLLS = 128          # of the status line, before sharing is requested again
    ATTEMPTS = 32              # at the word, before the back-end is asked if its owner is alive


cdef void cas_open(frontend *fe, remote_region *words) noexcept nogil:
    fe.cas.words = words


cdef int cas_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef status_line seen
    cdef uint64_t expected = s.left, old = 0, pause = 0
    cdef uint32_t attempts = 0
    cdef int status = fe.link.error
    s.holds = False
    while status == OK:
        s.validated_ns = rfp_now()
        if s.validated_ns >= fe.link.deadline_ns:
            status = LATE
            break
        s.token = rnvm_lock_word(fe.session.number, fe.session.epoch, fe.cas.swaps)
        status = swap(s, expected, s.token, &old, &seen)
        if status != OK:
            break
        if old == expected:
            if old == s.left and as_we_left_it(s, &seen):
                s.holds = True
                return OK
            status = share(s)
            if status == OK and s.holds:
                return OK
            if status == OK:
                status = await_share(s)
            expected = s.left
        elif old & RNVM_HELD:
            attempts += 1
            status = await_word(s, old, attempts, &pause, &expected)
        else:
            expected = old
    if not fe.link.error:
        remote_ask(fe, RNVM_LEAVE, s.id)        # we may be in the back-end's queue
    return status


cdef int cas_release(instance *s) noexcept nogil:
    cdef uint64_t old = 0, left = s.token & ~RNVM_HELD
    cdef int status
    s.holds = False
    s.left = 0
    status = swap(s, s.token, left, &old, NULL)
    if status == OK and old == s.token:
        s.left = left
    elif status == OK:
        status = session_fail(s.fe, FENCED)     # another front-end has replaced the word
    return status


cdef int cas_all_applied(instance *s, const status_line *seen, bint *applied) noexcept nogil:
    cdef uint64_t word = 0
    cdef int status = read_word(s, &word)
    # No front-end has been inside since we were, and everything of ours is applied.
    applied[0] = word == s.left and s.word and seen.holder == s.word \
        and seen.sequence == rnvm_sequence_of(s.number)
    return status


# The word


cdef int swap(instance *s, uint64_t expected, uint64_t wanted, uint64_t *old,
              status_line *seen) noexcept nogil:
    """Swaps the word; then, unless `seen` is NULL, reads the line.

    In this order: the back-end revokes the lock in the line first and reads the word then.
    """
    cdef frontend *fe = s.fe
    cdef work_request[1 + STATUS_READS] works
    cdef uint64_t ours
    cdef int status = OK, n = 0
    fe.cas.swaps += 1
    if fe.link.mapped:
        old[0] = expected
        rfp_compare_swap64(fe.cas.words.base + 8 * <uint64_t> s.index, old, wanted)
        rfp_fence_full()
        status = status_read(s, seen) if seen != NULL else OK
        if status == GONE and old[0] == expected:
            # The word belongs to another structure by now, whose front-ends would wait until the
            # back-end fences us: swap back.
            ours = wanted
            rfp_compare_swap64(fe.cas.words.base + 8 * <uint64_t> s.index, &ours, expected)
        return status
    works[0].opcode = COMPARE_SWAP
    works[0].local = fe.link.buffer
    works[0].local_offset = fe.link.landing_at + WORD_OFFSET
    works[0].remote = fe.cas.words
    works[0].remote_offset = 8 * <uint64_t> s.index
    works[0].length = 8
    works[0].compare = expected
    works[0].operand = wanted
    if seen != NULL:
        status = status_post_reads(s, works + 1, &n)
    if status == OK:
        # Without a deadline: the word's owner must be known.
        status = remote_transfers(fe, works, 1 + n, 0)
    if status == OK:
        memcpy(old, fe.link.buffer.base + fe.link.landing_at + WORD_OFFSET, 8)
        if seen != NULL:
            status_landed(s, seen)
    return status


cdef int read_word(instance *s, uint64_t *word) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef work_request work
    cdef int status
    if fe.link.mapped:
        rfp_fence_full()
        word[0] = rfp_load64_acquire(fe.cas.words.base + 8 * <uint64_t> s.index)
        return OK
    work.opcode = READ
    work.local = fe.link.buffer
    work.local_offset = fe.link.landing_at + WORD_OFFSET
    work.remote = fe.cas.words
    work.remote_offset = 8 * <uint64_t> s.index
    work.length = 8
    fe.stats.reads += 1
    status = remote_transfers(fe, &work, 1, fe.link.deadline_ns)
    if status == OK:
        memcpy(word, fe.link.buffer.base + fe.link.landing_at + WORD_OFFSET, 8)
    return status


cdef bint as_we_left_it(const instance *s, const status_line *seen) noexcept nogil:
    """For a word that was our own: whether the lock was ours all along as well, and we know of all
    that was done."""
    return s.word and status_grants(seen, s.word) and not seen.orphans \
        and s.seen == rnvm_sequence_of(s.number)


# The back-end's part


cdef int ask_to_share(instance *s, uint64_t word, void *answer, uint32_t capacity,
                      uint32_t *got) noexcept nogil:
    cdef rnvm_share question
    question.structure = s.id | (RNVM_PATIENT if s.fe.scope.patient else 0)
    question.word = word
    return remote_call(s.fe, RNVM_SHARE, &question, sizeof(question), answer, capacity, got)


cdef int share(instance *s) noexcept nogil:
    """The word is ours: asks the back-end whether the lock is too, and for others' progress.

    s.holds: it is.
    """
    cdef rnvm_locked locked
    cdef uint32_t got = 0
    cdef int status = ask_to_share(s, s.token, &locked, sizeof(locked), &got)
    if status == OK and s.fe.link.status == RNVM_GOOD and got == sizeof(locked):
        lock_granted(s, &locked)
        return promise_note_line(s)     # after the state that was granted
    if s.fe.link.error:
        return s.fe.link.error
    if status == OK and s.fe.link.status == RNVM_ABSENT:
        status = GONE
    elif status == OK and s.fe.link.status != RNVM_QUEUED:
        return session_fail(s.fe, LOST)
    s.word = 0
    return status if cas_release(s) == OK else s.fe.link.error


cdef int await_share(instance *s) noexcept nogil:
    """Waits until the lock is shared: others requested it earlier, and we are in their queue."""
    cdef status_line seen
    cdef uint64_t pause = 0
    cdef uint32_t polls
    cdef int status = OK
    for polls in range(SHARE_POLLS):
        status = status_read(s, &seen)
        if status != OK or (seen.holder & 0xffff) == RNVM_SHARED + 1 \
                and status_grants(&seen, seen.holder):
            break
        status = remote_wait(s.fe, &pause)
        if status != OK:
            break
    return status


cdef int await_word(instance *s, uint64_t word, uint32_t attempts, uint64_t *pause,
                    uint64_t *expected) noexcept nogil:
    """Another front-end is inside: *expected is the word that it will leave."""
    cdef frontend *fe = s.fe
    cdef rnvm_number dead
    cdef uint32_t got = 0
    cdef int status
    expected[0] = word & ~RNVM_HELD
    if attempts % ATTEMPTS == 0:
        status = ask_to_share(s, 0, &dead, sizeof(dead), &got)
        if status != OK:
            return status
        if fe.link.status == RNVM_ABANDONED and got == sizeof(dead):
            expected[0] = dead.number
            return OK
        if fe.link.status == RNVM_ABSENT:
            return GONE
        if fe.link.status != RNVM_QUEUED:
            return session_fail(fe, LOST)
    return remote_wait(fe, pause)

"""A structure's writer lock.

The back-end grants it.  With lock="sticky" it is kept until other front-ends request it, with
"each" it goes back after each operation.  With "cas" front-ends arbitrate it among themselves:
cas_lock.

A front-end writes the structure's activity word when it enters and leaves (odd: inside).  Mapped,
it is inside during an operation only, and the back-end takes a kept lock away while the word is
even.  Over a network it is inside for as long as it holds the lock, since each change of the word
would cost a round trip.

The front-end writes its activity word, then reads whether the lock is revoked; the back-end revokes
the lock, then reads the activity word; each with a full fence in between.  So at least one of them
sees the other.

Over a network a front-end must give back each lock that others wait for, also a lock of a structure
that the present call does not use: the back-end cannot take it away.  Otherwise two front-ends that
each wait for the lock that the other one keeps would wait until one of them is fenced, and so would
a front-end that waits for the lock of a busy one.  Kept locks are therefore polled:

    lock_release_kept    that of the structure, each REVOKE_INTERVAL_NS, after an operation
    await_grant          all others, each REVOKE_INTERVAL_NS, while this front-end waits
    locks_poll_others    all others, each OTHERS_INTERVAL_NS_MAX or more often, when a call begins
                         and when it READs a node

A lock that the present operation, batch or transaction has entered is not given back: transactions
acquire locks in one order, and everything else has left all structures when it waits.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_fence_full, rfp_now, rfp_store64_release
from rfp.fabric.fabric cimport WRITE, remote_region, work_request
from rnvm.format.messages cimport (
    RNVM_ABSENT, RNVM_ACQUIRE, RNVM_GOOD, RNVM_LEAVE, RNVM_PATIENT, RNVM_QUEUED, rnvm_locked)
from rnvm.frontend.cas_lock cimport cas_acquire, cas_release
from rnvm.frontend.remote cimport (
    remote_ask, remote_call, remote_transfers, remote_wait, session_fail)
from rnvm.frontend.state cimport LIVENESS_INTERVAL_NS, frontend, instance
from rnvm.frontend.status cimport AGAIN, DAMAGED, FENCED, GONE, LOST, OK
from rnvm.frontend.status_line cimport (
    lock_granted, session_validate, status_grants, status_line, status_post_read, status_read)

cdef enum:
    GRANT_POLLS = 128          # of the status line, before the lock is requested again
    REVOKE_INTERVAL_NS = 200000        # over a network: between two polls for a revocation
    OTHERS_INTERVAL_NS_MAX = 10000000  # the same, for locks that the present call does not use
    OTHERS_PER_LEASE = 64      # so many of those polls in a lease, at least
    ACTIVITY_OFFSET = 128      # in the landing, behind the two copies of the status line
    OTHERS_OFFSET = 256        # behind the lock word: where the lines of other structures land
    OTHERS_AT_ONCE = 8         # lines of other structures in one round trip


# Activity words


cdef void activity_open(frontend *fe, remote_region *words) noexcept nogil:
    fe.activity.words = words


cdef int set_activity(instance *s, uint64_t inside) noexcept nogil:
    """Publishes whether we are inside an operation of this structure."""
    cdef frontend *fe = s.fe
    cdef work_request work
    fe.activity.turn += 2
    inside |= fe.activity.turn
    if fe.link.mapped:
        rfp_store64_release(fe.activity.words.base + 8 * <uint64_t> s.index, inside)
        return OK
    work.opcode = WRITE
    work.local = fe.link.buffer
    work.local_offset = fe.link.landing_at + ACTIVITY_OFFSET
    work.remote = fe.activity.words
    work.remote_offset = 8 * <uint64_t> s.index
    work.length = 8
    memcpy(fe.link.buffer.base + work.local_offset, &inside, 8)
    fe.stats.writes += 1
    return remote_transfers(fe, &work, 1, fe.link.deadline_ns)


cdef int still_ours(instance *s, bint *ours) noexcept nogil:
    """After set_activity(s, 1): whether the lock is ours, and remains so until we leave."""
    cdef status_line seen
    cdef int status
    rfp_fence_full()
    status = status_read(s, &seen)
    ours[0] = status == OK and status_grants(&seen, s.word)
    return status


# From the back-end and back


cdef int await_grant(instance *s) noexcept nogil:
    """Polls the status line until the lock is granted to us.

    OK also after GRANT_POLLS: then the request is repeated.
    """
    cdef frontend *fe = s.fe
    cdef status_line seen
    cdef uint64_t pause = 0
    cdef uint32_t polls
    cdef int status
    for polls in range(GRANT_POLLS):
        status = status_read(s, &seen)
        if status != OK:
            return status
        if seen.holder and (seen.holder & 0xffff) == fe.session.number + 1:
            return OK
        status = poll_others(s, REVOKE_INTERVAL_NS)
        if status == OK:
            status = remote_wait(fe, &pause)
        if status != OK:
            return status
    return OK


cdef int lock_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_locked locked
    cdef uint64_t requested_ns, wanted = s.id | (RNVM_PATIENT if fe.scope.patient else 0)
    cdef uint32_t got = 0
    cdef bint ours = False
    cdef int status
    if fe.cas.words != NULL:
        return cas_acquire(s)
    s.holds = False
    while True:
        requested_ns = rfp_now()
        status = remote_call(fe, RNVM_ACQUIRE, &wanted, sizeof(wanted), &locked, sizeof(locked),
                             &got)
        if status != OK:
            return status
        if fe.link.status == RNVM_GOOD and got == sizeof(locked):
            s.word = locked.word
            status = set_activity(s, 1)
            if status == OK:
                # Was it revoked before the back-end could see that we are inside?
                status = still_ours(s, &ours)
            if status != OK:
                if not fe.link.error:
                    give_back(s)                # it must not seem that we are inside
                return status
            if ours:
                s.validated_ns = requested_ns
                lock_granted(s, &locked)
                return OK
            set_activity(s, 0)
            continue
        if fe.link.status == RNVM_ABSENT:
            return GONE
        if fe.link.status != RNVM_QUEUED:
            return session_fail(fe, LOST)
        status = await_grant(s)
        if status != OK:
            if not fe.link.error:
                remote_ask(fe, RNVM_LEAVE, s.id)
            return status


cdef int give_back(instance *s) noexcept nogil:
    """Returns the lock to the back-end, which grants it to the next waiter."""
    cdef int status
    s.holds = False
    status = set_activity(s, 0)
    return remote_ask(s.fe, RNVM_LEAVE, s.id) if status == OK else status


cdef int lock_release(instance *s) noexcept nogil:
    if s.fe.link.error or not s.holds:
        return s.fe.link.error
    return give_back(s) if s.fe.cas.words == NULL else cas_release(s)


# Kept in between


cdef int poll_revocation(instance *s) noexcept nogil:
    """Over a network: gives the lock back if another front-end waits for it."""
    cdef status_line seen
    cdef uint64_t now = rfp_now()
    cdef int status = status_read(s, &seen)
    if status != OK:
        return status
    s.validated_ns = now
    return OK if status_grants(&seen, s.word) else give_back(s)


cdef int poll_others(const instance *s, uint64_t interval_ns) noexcept nogil:
    """Over a network: gives back kept locks of all other structures that front-ends wait for.

    Does nothing if the last poll was less than interval_ns ago.
    """
    cdef frontend *fe = s.fe
    cdef instance *other
    cdef instance *polled[OTHERS_AT_ONCE]
    cdef uint64_t now
    cdef uint32_t i
    cdef int n = 0, status
    if fe.link.mapped or not fe.session.sticky or fe.open.count < 2:
        return OK
    now = rfp_now()
    if now - fe.activity.others_polled_ns <= interval_ns:
        return OK
    fe.activity.others_polled_ns = now
    for i in range(fe.open.count):
        other = fe.open.items[i]
        if other != s and other.holds and not other.entered \
                and now - other.validated_ns > interval_ns:
            polled[n] = other
            n += 1
        if n == OTHERS_AT_ONCE or n and i + 1 == fe.open.count:
            status = poll_revocations(fe, polled, n)
            if status != OK:
                return status
            n = 0
    return OK


cdef int poll_revocations(frontend *fe, instance **polled, int n) noexcept nogil:
    """The same for at most OTHERS_AT_ONCE structures, in one round trip."""
    cdef work_request[OTHERS_AT_ONCE] works
    cdef status_line[OTHERS_AT_ONCE] seen
    cdef instance *s
    cdef uint64_t now = rfp_now()
    cdef int i, status
    for i in range(n):
        status = status_post_read(polled[i], works + i, OTHERS_OFFSET + sizeof(status_line) * i)
        if status != OK:
            return status
    status = remote_transfers(fe, works, n, fe.link.deadline_ns)
    if status != OK:
        return status
    # Before the first lock is given back: that uses the landing as well.
    memcpy(seen, fe.link.buffer.base + fe.link.landing_at + OTHERS_OFFSET,
           sizeof(status_line) * <uint64_t> n)
    for i in range(n):
        s = polled[i]
        if seen[i].structure == s.id and status_grants(&seen[i], s.word):
            s.validated_ns = now
            continue
        status = give_back(s)
        if status != OK:
            return status
    return OK


cdef int locks_poll_others(const instance *s) noexcept nogil:
    return poll_others(s, min(<uint64_t> OTHERS_INTERVAL_NS_MAX,
                              s.fe.session.lease_ns // OTHERS_PER_LEASE))


cdef int lock_acquire_kept(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef bint ours = False
    cdef int status
    if fe.link.error:
        return fe.link.error
    if not s.holds:
        return OK
    if not fe.link.mapped:
        # s.holds is right for half a lease: the lock is not taken away before a whole one has
        # passed since the poll that found no revocation.
        if rfp_now() - s.validated_ns > fe.session.lease_ns // 2:
            return poll_revocation(s)
        return OK
    set_activity(s, 1)
    status = still_ours(s, &ours)
    if not ours:
        set_activity(s, 0)
        s.holds = False
    return status


cdef int lock_release_kept(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.link.error or not s.holds:
        return fe.link.error
    if fe.cas.words != NULL:
        return cas_release(s)
    if not fe.session.sticky:
        return give_back(s)
    if fe.link.mapped:
        return set_activity(s, 0)
    return poll_revocation(s) if rfp_now() - s.validated_ns > REVOKE_INTERVAL_NS else OK


# Validation


cdef bint validated(const instance *s, uint64_t within_ns) noexcept nogil:
    """Over a network: whether the lock is ours at this moment, without a READ.

    It is if a poll so short a time ago found no revocation, and the back-end was alive a moment
    ago: a new back-end waits longer than that before it serves.
    """
    cdef const frontend *fe = s.fe
    cdef uint64_t now
    if fe.link.mapped:
        return False
    now = rfp_now()
    return now - s.validated_ns <= within_ns and (
        not fe.link.polls_liveness or now - fe.link.alive_ns <= LIVENESS_INTERVAL_NS)


cdef int lock_validate(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t now
    cdef status_line seen
    cdef int status
    if fe.link.error:
        return fe.link.error
    if fe.link.mapped:
        return session_validate(fe)
    if validated(s, fe.session.lease_ns // 2):
        return OK
    if fe.cas.words != NULL:
        return session_validate(fe)     # the line does not name which sharer of the lock is inside
    now = rfp_now()
    status = status_read(s, &seen)
    if status == OK and seen.holder != s.word:
        status = session_fail(fe, FENCED)
    if status == OK and status_grants(&seen, s.word):
        s.validated_ns = now
    return status


cdef int locks_confirm(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    if fe.link.error:
        return fe.link.error
    for i in range(fe.open.count):
        s = fe.open.items[i]
        if s.entered and not validated(s, fe.session.lease_ns):
            return session_validate(fe)
    return OK


cdef int lock_confirm(instance *s, int status) noexcept nogil:
    cdef bint suspect = status == AGAIN or status == DAMAGED
    cdef int valid
    if not suspect and (not s.fetched or validated(s, s.fe.session.lease_ns)):
        return status
    # While the session is ours, so is each lock that was acquired: taking one of them away raises
    # the session's epoch first.
    valid = session_validate(s.fe)
    if valid != OK:
        return valid
    return DAMAGED if suspect else status

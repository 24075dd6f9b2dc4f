"""Grant, revoke and fence: the locks of structures and the sessions that hold them."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memmove, memset
from rfp.core.core cimport rfp_fence_full, rfp_load64_acquire, rfp_now, rfp_store64_release
from rnvm.backend.events cimport (
    EVENT_FENCED, FENCE_EARLIER, FENCE_INVALID, FENCE_LEASE, FENCE_STOPPED, event_put,
)
from rnvm.format.layout cimport (
    RNVM_ATTACHED, RNVM_FREE, RNVM_LIVE, RNVM_LOCK, RNVM_NAME_LIVE, RNVM_NO_LIMIT, rnvm_name_at,
    rnvm_structure_index,
)
from rnvm.format.messages cimport (
    RNVM_STATUS_REVOKE, RNVM_STATUS_SPARE,
    RNVM_HELD, RNVM_LIVE_HOLDER, RNVM_LIVE_ORPHANS, RNVM_LIVE_REPLAYED, RNVM_SHARED, rnvm_lock_of,
    rnvm_lock_session,
)
from rnvm.media.medium cimport medium_drain
from rnvm.pool.dual_copy cimport dual_copy_begin, dual_copy_finish, dual_copy_read
from rnvm.pool.replay cimport (
    pool_collect, pool_collect_from, pool_pending, pool_replay, pool_replay_portion,
)
from rnvm.pool.sessions cimport session_fence, session_set_fence_point

cdef enum:
    EVERYTHING = 0x7fffffffffffffff
    GRACE_NS = 20000000           # ns within which a new holder is expected to use its lock


cdef inline void show(lock_manager *g, uint32_t index, uint32_t word,
                      uint64_t value) noexcept nogil:
    rfp_store64_release(g.p.m.base + rnvm_name_at(&g.p.g, index) + RNVM_NAME_LIVE + 8 * word, value)


cdef uint64_t lock_word(const lock_manager *g, uint32_t index) noexcept nogil:
    cdef const lock *it = &g.locks[index]
    return it.epoch << 16 | (it.holder + 1) if it.holder != NOBODY else 0


cdef bint found_orphan(void *context, uint32_t session, uint64_t lsn, uint32_t structure,
                       uint32_t code, uint64_t number, const char *bytes,
                       uint32_t length) noexcept nogil:
    cdef lock_manager *g = <lock_manager *> context
    cdef lock *it = &g.locks[rnvm_structure_index(structure)]
    it.orphans = max(it.orphans, number)
    return True


cdef void record_fence_point(lock_manager *g, uint32_t session) noexcept nogil:
    """Record where a session was fenced, and which of its operations must be re-executed."""
    cdef client_session *each = &g.each[session]
    cdef fence_point *last
    if lock_manager_fence_point(g, session, g.p.sessions[session].epoch) == NULL:
        last = &each.fence_points[each.fenced_epochs % FENCE_POINTS]
        last.epoch = g.p.sessions[session].epoch
        last.operations = g.p.operations[session].limit
        last.memory = g.p.memory[session].limit
        last.ticket = each.proof
        each.fenced_epochs += 1
    pool_pending(g.p, session, found_orphan, g)


cdef const fence_point *lock_manager_fence_point(const lock_manager *g, uint32_t session,
                                                 uint64_t epoch) noexcept nogil:
    cdef const client_session *each = &g.each[session]
    cdef uint32_t i
    for i in range(min(each.fenced_epochs, <uint32_t> FENCE_POINTS)):
        if each.fence_points[i].epoch == epoch:
            return &each.fence_points[i]
    return NULL


cdef int lock_manager_begin(lock_manager *g) noexcept nogil:
    cdef uint64_t[3] words
    cdef uint32_t i
    for i in range(g.p.g.names):
        memset(&g.locks[i], 0, sizeof(lock))
        g.locks[i].holder = NOBODY
        if dual_copy_read(g.p.m, g.p.g.seed, rnvm_name_at(&g.p.g, i) + RNVM_LOCK, words):
            g.locks[i].epoch = words[0]
        show(g, i, RNVM_STATUS_REVOKE, 0)
        show(g, i, RNVM_STATUS_SPARE + RNVM_LIVE_HOLDER, 0)
    for i in range(g.p.g.sessions):
        memset(&g.each[i], 0, sizeof(client_session))
        # Sessions of an earlier back-end: their processes may still run and, on direct memory,
        # store into their rings.
        if g.p.sessions[i].state == RNVM_ATTACHED and lock_manager_fence(g, i, FENCE_EARLIER):
            return -1
        if g.p.operations[i].limit != RNVM_NO_LIMIT:
            record_fence_point(g, i)
        g.each[i].process = g.p.sessions[i].detail
        g.each[i].quiet = g.p.sessions[i].state == RNVM_FREE or not g.lasting
    locks_publish(g)
    return 0


cdef int lock_manager_end(lock_manager *g) noexcept nogil:
    cdef uint32_t i
    for i in range(g.p.g.sessions):
        if lock_manager_fence(g, i, FENCE_STOPPED):
            return -1
    return 0


cdef inline uint64_t step_bytes(lock_manager *g) noexcept nogil:
    return 0 if g.await_room == NULL else g.await_room(g)


cdef int lock_manager_catch_up(lock_manager *g) noexcept nogil:
    cdef uint64_t portion = step_bytes(g)
    cdef uint32_t i = 0
    # In portions while mirrors follow: all of it at once could be more than their streams hold.
    while portion and i < g.p.g.sessions:
        if pool_collect_from(g.p, &i, portion) < 0:
            return -1
        lock_manager_replay(g)
        portion = step_bytes(g)
    if i < g.p.g.sessions and pool_collect(g.p) < 0:
        return -1
    lock_manager_replay(g)
    for i in range(g.p.g.sessions):
        # Fence a front-end that wrote a record which must not be applied.
        if ((g.p.memory[i].faulty or g.p.operations[i].faulty)
                and g.p.sessions[i].state == RNVM_ATTACHED
                and lock_manager_fence(g, i, FENCE_INVALID)):
            return -1
    locks_publish(g)
    return 0


cdef void lock_manager_replay(lock_manager *g) noexcept nogil:
    cdef uint64_t portion = step_bytes(g)
    while portion:
        if not pool_replay_portion(g.p, EVERYTHING, portion):
            return
        portion = step_bytes(g)
    pool_replay(g.p, EVERYTHING)


cdef void locks_publish(lock_manager *g) noexcept nogil:
    cdef lock *it
    cdef uint32_t i
    for i in range(g.p.g.names):
        it = &g.locks[i]
        if it.holder < g.p.g.sessions:
            show(g, i, RNVM_STATUS_SPARE + RNVM_LIVE_REPLAYED, g.p.memory[it.holder].replayed)
        if it.orphans and (g.p.structures[i].state != RNVM_LIVE
                           or it.orphans <= g.p.structures[i].covers):
            it.orphans = 0
        show(g, i, RNVM_STATUS_SPARE + RNVM_LIVE_ORPHANS, it.orphans)


# Locks


cdef uint32_t place_of(const lock_manager *g, uint32_t index, uint32_t session) noexcept nogil:
    """Return the session's place in the queue, or g.waiting: it does not wait.

    NOBODY: the place of the lock's first waiter.
    """
    cdef uint32_t i
    for i in range(g.waiting):
        if g.waiters[i].index == index and (session == NOBODY or g.waiters[i].session == session):
            return i
    return g.waiting


cdef void wait_no_more(lock_manager *g, uint32_t place) noexcept nogil:
    cdef uint32_t index = g.waiters[place].index
    g.waiting -= 1
    memmove(&g.waiters[place], &g.waiters[place + 1], (g.waiting - place) * sizeof(waiter))
    if not insists(g, index):
        g.locks[index].insisted = 0


cdef void stop_waiting(lock_manager *g, uint32_t session) noexcept nogil:
    cdef uint32_t i = 0
    while i < g.waiting:
        if g.waiters[i].session == session:
            wait_no_more(g, i)
        else:
            i += 1


cdef inline uint64_t activity_word(const lock_manager *g, uint32_t index) noexcept nogil:
    """Return the holder's activity word, or the lock word if the lock is shared."""
    cdef const char *activity = g.words
    if g.locks[index].holder != RNVM_SHARED:
        activity = g.each[g.locks[index].holder].activity
    return rfp_load64_acquire(activity + 8 * <uint64_t> index) if activity != NULL else 0


cdef uint32_t user(const lock_manager *g, uint32_t index, uint64_t word) noexcept nogil:
    """Return the session that is inside, by the activity word or lock word.

    NOBODY: none is, or the one in the lock word may not act any more.
    """
    cdef uint32_t session
    if g.locks[index].holder != RNVM_SHARED:
        return g.locks[index].holder if word & 1 else NOBODY
    session = rnvm_lock_session(word)
    if (not word & RNVM_HELD or session >= g.p.g.sessions
            or g.p.sessions[session].state != RNVM_ATTACHED):
        return NOBODY
    return session if rnvm_lock_of(word, g.p.sessions[session].epoch) else NOBODY


cdef bint lock_occupied(const lock_manager *g, uint32_t index, uint32_t session,
                        uint64_t *word) noexcept nogil:
    cdef uint32_t inside
    if g.locks[index].holder == NOBODY:
        return False
    word[0] = activity_word(g, index)
    inside = user(g, index, word[0])
    return inside != NOBODY and inside != session


cdef bint stuck(lock_manager *g, uint32_t index, uint64_t word) noexcept nogil:
    """Return whether a contended lock has not moved for a lease.

    Counted from its revocation, or from the first request that is not patient; for a shared lock,
    since its word last changed.
    """
    cdef lock *it = &g.locks[index]
    if it.holder != RNVM_SHARED:
        return g.now > max(it.revoked, it.insisted) + g.lease
    if it.watched != word:
        it.watched = word
        it.since = rfp_now()
    return g.now > it.since + g.lease


cdef bint insists(const lock_manager *g, uint32_t index) noexcept nogil:
    """Return whether a session waits for a lock that is not patient."""
    cdef uint32_t i
    for i in range(g.waiting):
        if g.waiters[i].index == index and not g.waiters[i].patient:
            return True
    return False


cdef int grant(lock_manager *g, uint32_t index, uint32_t session) noexcept nogil:
    """Grant a lock; the lock-ahead record first: it must be durable before the grantee uses it."""
    cdef lock *it = &g.locks[index]
    cdef uint64_t[3] words
    cdef uint64_t at = rnvm_name_at(&g.p.g, index) + RNVM_LOCK
    words[0] = it.epoch + 1
    words[1] = session + 1
    words[2] = g.p.structures[index].covers
    dual_copy_begin(g.p.m, g.p.g.seed, at, words)
    if medium_drain(g.p.m):
        return -1
    dual_copy_finish(g.p.m, g.p.g.seed, at)
    it.epoch += 1
    it.holder = session
    it.revoked = it.insisted = 0
    it.offered = g.now
    it.activity = activity_word(g, index)
    g.granted += 1
    show(g, index, RNVM_STATUS_REVOKE, 0)
    if session < g.p.g.sessions:
        show(g, index, RNVM_STATUS_SPARE + RNVM_LIVE_REPLAYED, g.p.memory[session].replayed)
    # Last: a peer that reads this word first then reads the others as they belong to it.
    show(g, index, RNVM_STATUS_SPARE + RNVM_LIVE_HOLDER, lock_word(g, index))
    return 0


cdef int grant_next(lock_manager *g, uint32_t index) noexcept nogil:
    cdef uint32_t place = place_of(g, index, NOBODY)
    cdef uint32_t session
    if g.locks[index].holder != NOBODY or place == g.waiting:
        return 0
    if g.waiters[place].shared:
        while place < g.waiting:
            if g.waiters[place].index == index and g.waiters[place].shared:
                wait_no_more(g, place)
            else:
                place += 1
        return grant(g, index, RNVM_SHARED)
    session = g.waiters[place].session
    wait_no_more(g, place)
    return grant(g, index, session)


cdef void free(lock_manager *g, uint32_t index) noexcept nogil:
    g.locks[index].holder = NOBODY
    g.locks[index].revoked = g.locks[index].insisted = 0
    show(g, index, RNVM_STATUS_SPARE + RNVM_LIVE_HOLDER, 0)
    show(g, index, RNVM_STATUS_REVOKE, 0)


cdef int give_back(lock_manager *g, uint32_t index) noexcept nogil:
    """Release the lock of a holder that is not inside and will not be.

    All that it did is in its log, and is applied before any other session is let in.
    """
    if lock_manager_catch_up(g):
        return -1
    free(g, index)
    return 0


cdef int queue(lock_manager *g, uint32_t index, uint32_t session, bint shared,
               bint patient) noexcept nogil:
    """Enqueue a session unless it waits already, and return whether it must wait."""
    cdef uint32_t place = place_of(g, index, session)
    if place == g.waiting:
        stop_waiting(g, session)
        g.waiters[g.waiting] = waiter(index, session, shared, patient)
        g.waiting += 1
    elif not patient:
        g.waiters[place].patient = False
    if not patient and not g.locks[index].insisted:
        g.locks[index].insisted = rfp_now()
    return revoke(g, index)


cdef int lock_request(lock_manager *g, uint32_t index, uint32_t session,
                      bint patient) noexcept nogil:
    cdef lock *it = &g.locks[index]
    if it.holder == session:
        if not it.revoked:
            # It has lost track of its lock; the answer must take account of everything it has
            # written.
            return -1 if lock_manager_catch_up(g) else LOCK_GRANTED
        # It saw the waiters and requests again: they are served first.
        if give_back(g, index):
            return -1
    if queue(g, index, session, False, patient):
        return -1
    return LOCK_GRANTED if it.holder == session else LOCK_WAITING


cdef int lock_share(lock_manager *g, uint32_t index, uint32_t session, uint64_t word,
                    bint patient, uint64_t *dead) noexcept nogil:
    cdef lock *it = &g.locks[index]
    cdef uint64_t found
    if (it.holder != RNVM_SHARED or it.revoked) and queue(g, index, session, True, patient):
        return -1
    if it.holder != RNVM_SHARED or it.revoked:
        return LOCK_WAITING
    found = activity_word(g, index)
    if found == word and user(g, index, found) == session:
        return -1 if lock_manager_catch_up(g) else LOCK_GRANTED
    if not found & RNVM_HELD:
        return LOCK_WAITING
    # The word is frozen: its owner is fenced and cannot swap it again, so a waiter may replace it.
    if user(g, index, found) == NOBODY or not patient and stuck(g, index, found):
        if (user(g, index, found) != NOBODY
                and lock_manager_fence(g, user(g, index, found), FENCE_LEASE)):
            return -1
        dead[0] = found
        return LOCK_ABANDONED
    return LOCK_WAITING


cdef int lock_leave(lock_manager *g, uint32_t index, uint32_t session) noexcept nogil:
    cdef uint32_t place = place_of(g, index, session)
    if place < g.waiting:
        wait_no_more(g, place)
    if g.locks[index].holder != session:
        return 0
    return -1 if give_back(g, index) or grant_next(g, index) else 0


cdef int revoke(lock_manager *g, uint32_t index) noexcept nogil:
    """Revoke a lock from a holder that is not inside.

    The holder announces that it goes inside and then checks for a revocation; we announce the
    revocation and then check whether the holder is inside.  Both sides have a full fence between
    the two steps, so at least one sees the other.
    """
    cdef lock *it = &g.locks[index]
    cdef uint64_t word
    cdef uint32_t inside
    if it.holder == NOBODY:
        return grant_next(g, index)
    if g.now - it.offered < GRACE_NS and activity_word(g, index) == it.activity and (
            it.holder == RNVM_SHARED or g.each[it.holder].activity != NULL):
        return 0                                # it waited for its turn and has not had it yet
    if not it.revoked:
        show(g, index, RNVM_STATUS_REVOKE, it.epoch)
        rfp_fence_full()
        # Not g.now, which is as old as this turn is long: a holder that checked before this store
        # counts a lease from then on.
        it.revoked = rfp_now()
    word = activity_word(g, index)
    inside = user(g, index, word)
    if inside == NOBODY:
        g.stolen += 1
        return -1 if give_back(g, index) or grant_next(g, index) else 0
    if not insists(g, index) or not stuck(g, index, word):
        return 0
    # A fence may wait for mirrors: the holder, which may have waited for them, too, gets that time.
    step_bytes(g)
    if activity_word(g, index) != word:
        return 0
    if (lock_manager_fence(g, inside, FENCE_LEASE)
            or it.holder == RNVM_SHARED and give_back(g, index)):
        return -1
    return grant_next(g, index)


cdef int locks_tick(lock_manager *g) noexcept nogil:
    cdef uint32_t i = 0, index, waiting
    while i < g.waiting:
        index = g.waiters[i].index
        waiting = g.waiting
        if revoke(g, index):
            return -1
        if g.waiting == waiting:
            i += 1
    return 0


# Fencing


cdef void free_shared(lock_manager *g, uint32_t index) noexcept nogil:
    """Free a shared lock whose last user is gone.

    Readers need not check any more whether something is still to be applied.
    """
    cdef bint revoked = g.locks[index].revoked
    show(g, index, RNVM_STATUS_REVOKE, g.locks[index].epoch)
    rfp_fence_full()
    if user(g, index, activity_word(g, index)) == NOBODY:
        free(g, index)
    elif not revoked:
        show(g, index, RNVM_STATUS_REVOKE, 0)


cdef int lock_manager_fence(lock_manager *g, uint32_t session, uint32_t reason) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t epoch = g.p.sessions[session].epoch
    if g.p.sessions[session].state != RNVM_ATTACHED:
        return 0
    step_bytes(g)              # room for what is left in its two rings
    # The new epoch is durable and visible, then a full fence: records that the session acknowledges
    # from now on were written before.  Scan its rings only then; records that are whole count.
    if session_fence(g.p, session):
        return -1
    rfp_store64_release(&g.each[session].ticket, 0)
    if g.cut_off != NULL:
        g.cut_off(g.owner, session)
        g.each[session].quiet = True
    if session_set_fence_point(g.p, session):
        return -1
    lock_manager_replay(g)
    stop_waiting(g, session)
    record_fence_point(g, session)
    for i in range(g.p.g.names):
        if g.locks[i].holder == session:
            free(g, i)
        elif g.locks[i].holder == RNVM_SHARED and rnvm_lock_session(activity_word(g, i)) == session:
            free_shared(g, i)
    locks_publish(g)
    g.fenced += 1
    event_put(&g.events, EVENT_FENCED, session, epoch, g.each[session].process, reason)
    return 0

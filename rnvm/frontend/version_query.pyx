"""A query of a multi-version structure: one read of one version, which no writer disturbs.

Why the check of versions suffices
----------------------------------
Let v be the version of the root that a query has read.  A node X that is reachable from there was
written by a transaction w <= v.  Its memory is used again only by a transaction after v, because X
belongs to version v; a node that is written there then has a greater version.  Free memory keeps
its bytes.  So a READ of X finds X, or a node of a version above v, or bytes that are no node of
this structure, of this type, at this address.  It finds no bytes from before w: the READ begins
when memory contains version v or a later one (the root is the last node of its transaction that is
applied), or the overlay completes it to v.

    structure acquired, or lock kept    query under the lock: the newest version, pending or not
    otherwise, again only if memory was used again under the reader:
        read the status line; pull the holder's log      as every query: state k contains
                                                         everything acknowledged before
        publish that version k is in use                 at most every 10 ms
        read the root, each half by itself
            log records laid over                        the newest half up to k: the overlay would
                                                         lay older bytes over newer nodes
            otherwise                                    the newest half
        run the structure's function                     each node: header.version <= v
        no second look at the sequence                   only: the session is still ours

A snapshot reads its version without status line, log and lock: when it was opened, everything up to
it was applied.

Snapshots of several structures are of one moment: the back-end, which applies transactions one
after the other, answers one call with all their versions.  Reading the roots and then comparing
sequences would not end while writers are busy.
"""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_now
from rnvm.format.layout cimport RNVM_PARTS_MAX, rnvm_transaction_of
from rnvm.format.messages cimport RNVM_ABSENT, RNVM_GOOD, RNVM_MOMENT, RNVM_QUEUED
from rnvm.format.version cimport rnvm_version, rnvm_version_whole
from rnvm.frontend.node_cache cimport cache_trim
from rnvm.frontend.operation cimport transaction_commit
from rnvm.frontend.query cimport (
    RESTARTS_MAX, query_await_state, query_have_applied, query_run, query_run_and_release,
    query_under_lock)
from rnvm.frontend.promise cimport promise_note_line
from rnvm.frontend.remote cimport remote_call, remote_wait, session_fail
from rnvm.frontend.state cimport LIVENESS_INTERVAL_NS, frontend, instance
from rnvm.frontend.status cimport AGAIN, GONE, LATE, LOST, NO_MEMORY, OK, TOO_OLD, fault
from rnvm.frontend.status_line cimport session_validate, status_line, status_read
from rnvm.frontend.version_root cimport read_applied, read_newest, version_find
from rnvm.frontend.version_use cimport (
    version_is_kept, version_keep, version_keep_published, version_publish, version_publish_now,
    version_release, version_renew, version_unpublish, versions_reserve)
from rnvm.frontend.writer_lock cimport lock_acquire_kept

cdef enum:
    SNAPSHOT_TRIES = 3         # of a query of a snapshot, before its version counts as damaged

cdef int query_newest(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                      void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t state = 0
    cdef uint32_t restarts = 0
    cdef bint fetched
    cdef int status, result
    if s.entered:
        return query_under_lock(s, function, context)
    status = lock_acquire_kept(s)
    if status != OK:
        return status
    if s.holds:
        s.entered = True
        return query_run_and_release(s, function, context)
    while restarts < RESTARTS_MAX:
        status = query_await_state(s, &state)
        if status == AGAIN:
            break                       # only the holder of the lock may execute the pending ones
        if status == OK:
            status = version_publish(s, rnvm_transaction_of(state))
        if status != OK:
            return status
        if state != s.seen:
            s.seen = state
            s.generation += 1
        result = OK
        fetched = state != s.newest_of
        if fetched:
            result = read_newest(s, rnvm_transaction_of(state), &s.newest)
            if result != OK and result != AGAIN:
                return result
            s.newest_of = state if result == OK else 0
        if result == OK:
            s.version = s.newest.version
            result = query_run(s, function, context)
            s.version = 0
        if result >= 0:
            status = session_still_valid(s) if fetched or s.fetched else OK
            if status == OK and fetched and s.newest.version > rnvm_transaction_of(state):
                status = promise_note_line(s)   # the root is later than the line
            cache_trim(fe)
            return result if status == OK else status
        if fe.link.error:
            return fe.link.error
        if result == LATE or result == NO_MEMORY:
            return result
        s.newest_of = 0                 # memory was used again: begin with the newest root
        restarts += 1
        fe.stats.restarts += 1
    return query_under_lock(s, function, context)


cdef int session_still_valid(instance *s) noexcept nogil:
    """Whether the bytes that were fetched are those of our session's back-end."""
    cdef frontend *fe = s.fe
    if fe.link.mapped:
        return session_validate(fe)
    if fe.link.polls_liveness and rfp_now() - fe.link.alive_ns > LIVENESS_INTERVAL_NS:
        return session_validate(fe)     # sequences restart when a back-end recovers
    return OK


# Snapshots


cdef int check_root(instance *s, void *context) noexcept nogil:
    cdef rnvm_version found
    return version_find(s, &found)


cdef int keep_from(instance *s, uint64_t sequence, uint64_t *earlier) noexcept nogil:
    """Keep a version that is not later than the snapshot's, before its root is read."""
    cdef int status
    if not versions_reserve(s):
        return NO_MEMORY
    if s.kept_count:
        # An earlier one that was given up must not name the version of all in the word.
        status = version_renew(s, False)
        if status != OK:
            return status
    earlier[0] = rnvm_transaction_of(sequence)
    version_keep(s, earlier[0])
    status = version_publish_now(s, earlier[0])
    if status != OK:
        version_release(s, earlier[0])
    return status


cdef int snapshot_open(instance *s, rnvm_version *at) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef status_line seen
    cdef uint64_t pause = 0, earlier
    cdef uint32_t restarts = 0
    cdef int status = transaction_commit(fe) if s.touched else OK
    if status == OK:
        status = status_read(s, &seen)
    if status != OK:
        return status
    status = keep_from(s, seen.sequence, &earlier)
    if status != OK:
        return status
    while status == OK:
        status = status_read(s, &seen)
        if status == OK and (seen.orphans or restarts == RESTARTS_MAX):
            status = query_under_lock(s, check_root, NULL)
            restarts = 0
            continue
        if status == OK and seen.holder:
            status = query_have_applied(s, &seen)
        if status == OK and not seen.sequence & 1:
            status = read_applied(s, rnvm_transaction_of(seen.sequence), at)
            if status == OK:
                status = session_still_valid(s)
                if status == OK:
                    status = promise_note_line(s)
                break
            restarts += 1               # its half may be damaged
        if status == OK or status == AGAIN:
            status = remote_wait(fe, &pause)
    version_release(s, earlier)
    if status == OK:
        version_keep(s, at.version)
    elif not fe.link.error:
        version_unpublish(s)
    return status


cdef int keep_earlier(instance *s, uint64_t *earlier) noexcept nogil:
    """Keeps and publishes a version that is not later than the one that will be read."""
    cdef status_line seen
    cdef uint64_t pause = 0
    cdef int status = status_read(s, &seen)
    while status == OK and seen.orphans:
        status = query_under_lock(s, check_root, NULL)      # which executes them
        if status == OK:
            status = remote_wait(s.fe, &pause)
        if status == OK:
            status = status_read(s, &seen)
    if status != OK:
        return status
    return keep_from(s, seen.sequence, earlier)


cdef int call_moment(frontend *fe, instance **all, uint32_t count,
                     rnvm_version *at) noexcept nogil:
    """The versions at one moment.  AGAIN: operations of a dead writer must be executed first."""
    cdef uint64_t[RNVM_PARTS_MAX] wanted
    cdef uint32_t i, got = 0
    cdef uint32_t length = <uint32_t> (count * sizeof(rnvm_version))
    cdef int status
    for i in range(count):
        wanted[i] = all[i].id
    status = remote_call(fe, RNVM_MOMENT, wanted, <uint32_t> (count * sizeof(uint64_t)), at, length,
                         &got)
    if status != OK:
        return status
    if fe.link.status == RNVM_QUEUED:
        return AGAIN
    if fe.link.status == RNVM_ABSENT:
        return GONE
    if fe.link.status != RNVM_GOOD or got != length:
        return session_fail(fe, LOST)
    for i in range(count):
        if not at[i].version or not rnvm_version_whole(fe.g.seed, all[i].root, &at[i]):
            return session_fail(fe, LOST)
    return OK


cdef int snapshots_open(frontend *fe, instance **all, uint32_t count,
                        rnvm_version *at) noexcept nogil:
    cdef uint64_t[RNVM_PARTS_MAX] earlier
    cdef uint64_t pause = 0
    cdef uint32_t i, kept
    cdef bint again = False
    cdef int status = transaction_commit(fe) if fe.write_set.record_bytes else OK
    while status == OK:
        kept = 0
        while status == OK and kept < count:
            status = keep_earlier(all[kept], &earlier[kept])
            kept += status == OK
        if status == OK:
            status = call_moment(fe, all, count, at)
        if status == OK or status == GONE:
            status = roots_whole(all, count, at, earlier, status == GONE, again)
            again = status == AGAIN
        for i in range(kept):
            version_release(all[i], earlier[i])
        if status == OK:
            for i in range(count):
                # Each has room: an earlier version has just left its place.
                version_keep(all[i], at[i].version)
            for i in range(count):
                if status == OK:
                    status = promise_note_line(all[i])
            if status != OK:
                snapshots_give_back(all, count, at)
            return status
        for i in range(kept):
            if not fe.link.error:
                version_unpublish(all[i])
        if status == AGAIN:
            status = remote_wait(fe, &pause)
    return status


cdef int roots_whole(instance **all, uint32_t count, const rnvm_version *at,
                     const uint64_t *earlier, bint absent, bint again) noexcept nogil:
    """Whether the versions found are the newest ones: a half of a root may be damaged, or both.

    absent: one of the structures had none; again: they were not, and all roots seemed whole.
    """
    cdef uint32_t i
    cdef int status, found = OK
    for i in range(count):
        if absent or at[i].version < earlier[i]:
            status = query_under_lock(all[i], check_root, NULL)
            if status < 0:
                all[0].fault_at, all[0].fault = all[i].fault_at, all[i].fault
                return status
            found = AGAIN
    if found == AGAIN and again:
        # This front-end has the damaged root in its cache, with all of its bytes.
        return fault(all[0], all[0].root, b"a version in its root, or in another one, is damaged")
    return found


cdef void snapshots_give_back(instance **all, uint32_t count,
                              const rnvm_version *at) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        version_release(all[i], at[i].version)
        if not all[i].fe.link.error:
            version_unpublish(all[i])


cdef int query_snapshot(instance *s, const rnvm_version *at,
                        int (*function)(instance *s, void *context) noexcept nogil,
                        void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint32_t tries
    cdef int result = OK, status = version_keep_published(s)
    if status != OK:
        return status
    if not version_is_kept(s, at.version):
        # It was given up before: since then this session may have changed its nodes in place, and
        # what is not written yet has no new version.
        return TOO_OLD
    for tries in range(SNAPSHOT_TRIES):
        s.at = at
        s.version = at.version
        result = query_run(s, function, context)
        s.at = NULL
        s.version = 0
        if fe.link.error:
            return fe.link.error
        if result >= 0 and s.fetched:
            status = session_still_valid(s)
            if status != OK:
                result = status
        if result != AGAIN:
            break
    if result == AGAIN:
        # Its memory was used again, or is damaged: a query of the structure itself shows that.
        # Younger snapshots must not be given up together with this one.
        version_release(s, at.version)
        status = version_unpublish(s)
        result = TOO_OLD if status == OK else status
    cache_trim(fe)
    return result

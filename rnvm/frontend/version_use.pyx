"""Publish the versions in use, and ask for the oldest one.

Only memory depends on this.  Readers check the version of each node (version_query.pyx), so a word
that was published too late, or given up, costs a restart or a SnapshotTooOld and never a wrong
answer.

A word and the root.  A reader stores its word, then reads the root.  The back-end reads the number
n of the last transaction applied, then all words; the oldest retained version is the least of
them.  A full fence is between the two steps of each.  If the back-end misses a word, the word was
stored later, and the root after it: the reader's version is at least n.  Otherwise the oldest
retained version is at most the word's, which is at most the reader's.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from rfp.core.core cimport rfp_fence_full, rfp_now, rfp_store64_release
from rfp.fabric.fabric cimport WRITE, work_request
from rnvm.format.messages cimport RNVM_ABSENT, RNVM_GOOD, RNVM_RETAINED, rnvm_number, rnvm_retain
from rnvm.format.version cimport rnvm_uses
from rnvm.frontend.remote cimport remote_call, remote_transfers, session_fail
from rnvm.frontend.state cimport frontend, instance, kept_version
from rnvm.frontend.status cimport GONE, LOST, OK
from rnvm.frontend.status_line cimport status_alone

cdef enum:
    PUBLISH_INTERVAL_NS = 10000000
    TURN_SHIFT = 20            # ns of a turn, as a power of two
    USE_OFFSET = 1024          # in the landing, behind the lines of other structures


cdef uint64_t NOT_KEPT = ~<uint64_t> 0
cdef bint publishes = True


def _skip_publishing(bint skipped):
    """Publish no versions, for tests only."""
    global publishes
    publishes = not skipped


cdef int version_publish(instance *s, uint64_t version) noexcept nogil:
    if rfp_now() - s.published_ns < PUBLISH_INTERVAL_NS:
        return OK
    return version_publish_now(s, version)


cdef int version_publish_now(instance *s, uint64_t version) noexcept nogil:
    cdef uint64_t now = rfp_now(), oldest = oldest_kept(s, now)
    s.published_ns = now
    return publish(s, rnvm_uses(min(version, oldest), now >> TURN_SHIFT, oldest != NOT_KEPT))


cdef int version_unpublish(instance *s) noexcept nogil:
    cdef uint64_t now = rfp_now(), oldest = oldest_kept(s, now)
    if oldest != NOT_KEPT:
        s.published_ns = now
        return publish(s, rnvm_uses(oldest, now >> TURN_SHIFT, True))
    s.published_ns = 0                          # the next query publishes its version at once
    return publish(s, 0) if s.published else OK


cdef int version_keep_published(instance *s) noexcept nogil:
    if rfp_now() - s.published_ns < PUBLISH_INTERVAL_NS:
        return OK
    return version_unpublish(s)


cdef uint64_t oldest_kept(const instance *s, uint64_t now) noexcept nogil:
    """The oldest version of this session's open snapshots."""
    cdef uint64_t oldest = NOT_KEPT
    cdef uint32_t i
    for i in range(s.kept_count):
        # The back-end has given the others up, and with them all that the same word would protect.
        if now - s.kept[i].opened_ns < s.fe.session.snapshot_ns \
                and s.kept[i].version >= s.retained:
            oldest = min(oldest, s.kept[i].version)
    return oldest


cdef int publish(instance *s, uint64_t word) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef work_request work
    cdef uint64_t at = 8 * (<uint64_t> fe.g.names + s.index)
    s.published = word
    if not publishes or s.replaced:
        return OK                               # the word is of the later structure
    if fe.link.mapped:
        rfp_store64_release(fe.activity.words.base + at, word)
        rfp_fence_full()
        return OK
    work.opcode = WRITE
    work.local = fe.link.buffer
    work.local_offset = fe.link.landing_at + USE_OFFSET
    work.remote = fe.activity.words
    work.remote_offset = at
    work.length = 8
    memcpy(fe.link.buffer.base + work.local_offset, &word, 8)
    fe.stats.writes += 1
    return remote_transfers(fe, &work, 1, fe.link.deadline_ns)


cdef bint versions_reserve(instance *s) noexcept nogil:
    cdef uint32_t room = 2 * s.kept_count + 4
    cdef kept_version *grown
    if s.kept_count < s.kept_room:
        return True
    grown = <kept_version *> realloc(s.kept, room * sizeof(kept_version))
    if grown == NULL:
        return False
    s.kept = grown
    s.kept_room = room
    return True


cdef void version_keep(instance *s, uint64_t version) noexcept nogil:
    s.kept[s.kept_count] = kept_version(version, rfp_now())
    s.kept_count += 1


cdef bint version_is_kept(const instance *s, uint64_t version) noexcept nogil:
    cdef uint32_t i
    for i in range(s.kept_count):
        if s.kept[i].version == version:
            return True
    return False


cdef void version_release(instance *s, uint64_t version) noexcept nogil:
    cdef uint32_t i
    for i in range(s.kept_count):
        if s.kept[i].version == version:
            s.kept_count -= 1
            s.kept[i] = s.kept[s.kept_count]
            return


cdef uint64_t version_frozen_at(const instance *s) noexcept nogil:
    cdef uint64_t newest = 0
    cdef uint32_t i
    if not status_alone(s):
        return s.number
    for i in range(s.kept_count):
        newest = max(newest, s.kept[i].version)
    return newest


cdef int version_renew(instance *s, bint give_up) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_retain question
    cdef rnvm_number answer
    cdef uint32_t got = 0
    # The caller is in no query: only its open snapshots keep something.
    cdef int status = version_unpublish(s)
    if status != OK:
        return status
    question.structure = s.id
    question.give_up = give_up
    status = remote_call(fe, RNVM_RETAINED, &question, sizeof(question), &answer, sizeof(answer),
                         &got)
    if status != OK:
        return status
    if fe.link.status == RNVM_ABSENT:
        return GONE
    if fe.link.status != RNVM_GOOD or got != sizeof(answer):
        return session_fail(fe, LOST)
    s.retained = answer.number
    return OK

"""Find the oldest version of a structure that a session uses, and versions of one moment.

Each session publishes a word for each structure (rnvm/format/version.h), beside its activity word.
rnvm/frontend/version_use.pyx shows why the number of the last transaction is read before the words.
A word is not trusted for ever: its session may be stopped.

Versions of one moment need no agreement: this thread alone applies transactions, so between two of
them all structures are whole.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from rfp.core.core cimport rfp_fence_full, rfp_load64_acquire, rfp_now
from rfp.protocol.server.service cimport request, response
from rnvm.backend.lock_manager cimport (
    lock_manager_catch_up, lock_manager_replay, locks_publish,
)
from rnvm.backend.rpc_handlers cimport index_of
from rnvm.backend.state cimport backend, fail, reply, version_use
from rnvm.format.layout cimport RNVM_PARTS_MAX, rnvm_name, rnvm_name_at, rnvm_offset
from rnvm.format.messages cimport (
    RNVM_ABSENT, RNVM_BAD_REQUEST, RNVM_QUEUED, rnvm_number, rnvm_retain,
)
from rnvm.format.node cimport rnvm_slabs
from rnvm.format.version cimport (
    RNVM_USES_SNAPSHOT, rnvm_uses_version, rnvm_version, rnvm_version_newest, rnvm_versions,
)
from rnvm.pool.replay cimport pool_settled

cdef enum:
    QUERY_NS = 300000000       # for which a word without a snapshot counts after its last change
    MOMENT_TRIES = 100         # before other requests have their turn


cdef uint64_t NO_VERSION = ~<uint64_t> 0


cdef uint64_t word_of(const backend *s, uint32_t index, uint32_t session) noexcept nogil:
    """Return the word of a session for a structure; 0: it uses no version."""
    cdef const char *words = s.g.each[session].activity
    if words == NULL or not s.g.each[session].attached:
        return 0
    return rfp_load64_acquire(words + 8 * (<uint64_t> s.g.p.g.names + index))


cdef void note(version_use *use, uint64_t word, uint64_t epoch, uint64_t now) noexcept nogil:
    """Note since when a session has used the version that its word names."""
    cdef bint same = use.epoch == epoch and use.word == word
    if use.epoch == epoch and word & use.word & RNVM_USES_SNAPSHOT:
        same = rnvm_uses_version(use.word) == rnvm_uses_version(word)
    if not same:
        use.since = now
        use.given_up = False
    use.word = word
    use.epoch = epoch


cdef uint64_t oldest(backend *s, uint32_t index, uint64_t now) noexcept nogil:
    """Return the oldest version in use; NO_VERSION: there is none."""
    cdef version_use *use
    cdef uint64_t found = NO_VERSION, word
    cdef uint32_t i
    for i in range(s.g.p.g.sessions):
        word = word_of(s, index, i)
        use = &s.uses[index][i]
        if not word:
            use.word = 0                   # the same version may be used again, from then on
            continue
        note(use, word, s.g.p.sessions[i].epoch, now)
        if not use.given_up and now - use.since <= (
                s.snapshot_ns if word & RNVM_USES_SNAPSHOT else <uint64_t> QUERY_NS):
            found = min(found, rnvm_uses_version(word))
    return found


cdef void give_up(backend *s, uint32_t index, uint64_t version) noexcept nogil:
    """Keep nothing any more for the sessions that use this version or an earlier one."""
    cdef uint32_t i
    for i in range(s.g.p.g.sessions):
        if s.uses[index][i].word and rnvm_uses_version(s.uses[index][i].word) <= version:
            s.uses[index][i].given_up = True


cdef void call_retained(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_retain question
    cdef rnvm_number done
    cdef int64_t index
    cdef uint64_t applied, found, now = rfp_now()
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    index = index_of(s, question.structure)
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    if s.uses[index] == NULL:
        s.uses[index] = <version_use *> calloc(s.g.p.g.sessions, sizeof(version_use))
    if s.uses[index] == NULL or question.give_up and lock_manager_catch_up(&s.g):
        fail(s, answer)
        return
    # What the caller has replaced counts as soon as it is applied.
    lock_manager_replay(&s.g)
    locks_publish(&s.g)
    # Before the words: a session whose word is missed here reads this version or a later one.
    applied = s.g.p.structures[index].number
    rfp_fence_full()
    found = oldest(s, <uint32_t> index, now)
    if question.give_up and found < applied:
        give_up(s, <uint32_t> index, found)
        found = oldest(s, <uint32_t> index, now)
    done.number = min(applied, found)
    reply(answer, &done, sizeof(done))


cdef int newest_version(backend *s, uint32_t index, rnvm_version *found) noexcept nogil:
    """Copy the newest version in the pool.  Below 0: there is none."""
    cdef const rnvm_name *entry = <const rnvm_name *> (
        s.g.p.m.base + rnvm_name_at(&s.g.p.g, index))
    cdef uint64_t at = rnvm_offset(entry.root)
    cdef rnvm_versions root
    cdef int which
    if at > s.g.p.g.size or s.g.p.g.size - at < sizeof(rnvm_slabs) + sizeof(root):
        return -1
    memcpy(&root, s.g.p.m.base + at + sizeof(rnvm_slabs), sizeof(root))
    which = rnvm_version_newest(s.g.p.g.seed, entry.root + sizeof(rnvm_slabs), root.halves,
                                NO_VERSION)
    if which >= 0:
        found[0] = root.halves[which]
    return which


cdef bint caught_up(backend *s, response *answer) noexcept nogil:
    """Apply all that was acknowledged before, of every session.

    The rings are collected one after the other, and a session that maps its rings acknowledges its
    records itself: one that was collected late may follow from one that was stored meanwhile in a
    ring that was collected early.  So all rings are polled again, until none has anything new.
    """
    cdef uint32_t i, tries
    cdef bint news
    for tries in range(MOMENT_TRIES):
        if lock_manager_catch_up(&s.g):
            fail(s, answer)
            return False
        news = False
        for i in range(s.g.p.g.sessions):
            if s.g.p.operations[i].epoch and not news:
                news = not pool_settled(s.g.p, i)
        if not news:
            return True
    answer.retry_later = True                   # other requests have their turn
    return False


cdef void call_moment(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_version[RNVM_PARTS_MAX] found
    cdef uint64_t[RNVM_PARTS_MAX] wanted
    cdef uint32_t count = asked.length // sizeof(uint64_t), i
    cdef int64_t index
    if (not 1 <= count <= RNVM_PARTS_MAX or asked.length != count * sizeof(uint64_t)
            or count * sizeof(rnvm_version) > answer.capacity):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(wanted, asked.payload, asked.length)
    if not caught_up(s, answer):
        return
    for i in range(count):
        index = index_of(s, wanted[i])
        if index < 0 or newest_version(s, <uint32_t> index, &found[i]) < 0:
            answer.status = RNVM_ABSENT
            return
        if s.g.locks[index].orphans > s.g.p.structures[index].covers:
            answer.status = RNVM_QUEUED
            return
    reply(answer, found, <uint32_t> (count * sizeof(rnvm_version)))

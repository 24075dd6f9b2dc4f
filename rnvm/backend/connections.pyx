"""Attach, detach and free sessions; identify processes, as pids are used again."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from rfp.core.core cimport rfp_store64
from rfp.core.system cimport getrandom
from rnvm.backend.events cimport FENCE_DETACHED, FENCE_DISCONNECTED, FENCE_RETURNED
from rnvm.backend.lock_manager cimport UNNAMED, client_session, lock_manager_fence
from rnvm.backend.mirrors cimport mirrors_left
from rnvm.backend.openings cimport openings_attached
from rnvm.backend.promises cimport promises_refuse
from rnvm.backend.state cimport backend_checkpoint, backend_locks, fail, reply
from rnvm.format.layout cimport RNVM_ATTACHED, RNVM_FENCED, RNVM_FREE, rnvm_session, rnvm_session_at
from rnvm.format.messages cimport (
    RNVM_BAD_REQUEST, RNVM_DIRECT, RNVM_LAST, RNVM_LOCK_WORDS, RNVM_MAPS, RNVM_MESSAGES,
    RNVM_NO_SESSION_LEFT, RNVM_NOT_ATTACHED, RNVM_OTHER_POOL, RNVM_OTHER_VERSION, RNVM_TOO_MANY,
    RNVM_REPLICATES, RNVM_WAITS, RNVM_WAITS_REPLICATED, rnvm_attach, rnvm_attached,
)
from rnvm.pool.sessions cimport NO_SESSION, session_attach, session_release

from rfp.core.process import gone, identity


cdef enum:
    SPARED = 8  # one of every 8 sessions is never given to a process that has all the others


cdef void client_began(void *context, service_session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> calloc(1, sizeof(client))
    connection.state = c
    if c != NULL:
        c.session = -1
        c.peer = connection.process
        # The activity words, then the words of versions in use.
        if connection.staging_length >= 16 * <uint64_t> s.g.p.g.names:
            c.activity = connection.staging


cdef bint client_present(backend *s, const client *c) noexcept nogil:
    return (c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch
            and s.g.p.sessions[c.session].state == RNVM_ATTACHED)


cdef void client_ended(void *context, service_session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> connection.state
    connection.state = NULL
    if c == NULL:
        return
    mirrors_left(&s.mirrors, c)
    if c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch:
        s.g.each[c.session].attached = False
        s.g.each[c.session].activity = NULL
        if not s.stopped and lock_manager_fence(&s.g, <uint32_t> c.session, FENCE_DISCONNECTED):
            s.stopped = True
        if not c.used:
            s.g.each[c.session].quiet = True    # the front-end gave up while it connected
        backend_locks(s)
    free(c)


cdef uint32_t in_state(const backend *s, uint32_t state) noexcept nogil:
    """Return how many sessions are in this state."""
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += s.g.p.sessions[i].state == state
    return count


cdef uint32_t kept_by(const backend *s, uint64_t process) noexcept nogil:
    """Return how many sessions this process has, or blocks for others because it still runs."""
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += (s.g.p.sessions[i].state != RNVM_FREE and not s.g.each[i].quiet
                  and s.g.each[i].process == process)
    return count


cdef bint was_its_own(const backend *s, const rnvm_attach *question,
                      uint64_t process) noexcept nogil:
    """Return whether the session that a front-end names was its own.

    Tickets from before this back-end began are unknown: then the same process is enough.
    """
    cdef const client_session *each = &s.g.each[question.previous]
    if each.proof:
        return question.ticket == each.proof
    return (s.g.p.sessions[question.previous].state == RNVM_FENCED and process
            and process != UNNAMED and each.process == process)


cdef void epochs_begin(backend *s) noexcept nogil:
    """Let no two primaries give out the same epoch of a session.

    Outcomes are asked for by session and epoch: another front-end's must not be the answer.
    """
    cdef uint64_t first = s.mirrors.epoch << 32
    cdef uint32_t i
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FREE and s.g.p.sessions[i].epoch < first:
            s.g.p.sessions[i].epoch = first


cdef void client_attach(backend *s, const request *asked, response *answer,
                        client *c) noexcept nogil:
    cdef rnvm_attach question
    cdef rnvm_attached done
    cdef client_session *each
    cdef rnvm_session *session
    cdef int64_t index
    cdef uint64_t ticket = 0, process = 0
    cdef bint direct
    cdef uint32_t front_ends = max(s.g.p.g.sessions - 1, <uint32_t> 1)
    cdef char[16] any_pool
    memset(any_pool, 0, sizeof(any_pool))
    if asked.length != sizeof(question) or client_present(s, c):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch:
        # it was fenced; this connection has a new session from here on
        s.g.each[c.session].attached = False
        s.g.each[c.session].activity = NULL
    if question.version != RNVM_MESSAGES:
        answer.status = RNVM_OTHER_VERSION
        answer.result = RNVM_MESSAGES
        return
    if (memcmp(question.pool, any_pool, sizeof(any_pool))
            and memcmp(question.pool, s.uuid, sizeof(s.uuid))):
        answer.status = RNVM_OTHER_POOL
        return
    c.promised = s.flags & RNVM_REPLICATES and question.flags & RNVM_WAITS_REPLICATED
    if promises_refuse(s, c, answer):
        return
    if s.g.cut_off == NULL:  # else: no process of this host, and nothing to wait for
        process = identity_of(c.peer)
    if (question.ticket and question.previous < s.g.p.g.sessions
            and was_its_own(s, &question, process)):
        # The front-end states that it no longer writes to its old rings.
        if lock_manager_fence(&s.g, question.previous, FENCE_RETURNED):
            fail(s, answer)
            return
        s.g.each[question.previous].quiet = True
        clients_sweep(s)
    # A dead front-end's session stays until another front-end has executed its operations.  For
    # that one there is one session more than front-ends.  It logs no operations, so it is free
    # again as soon as its front-end is gone, in every case.
    if in_state(s, RNVM_ATTACHED) >= front_ends:
        answer.status = RNVM_NO_SESSION_LEFT
        return
    # A program that never closes its front-ends must not keep all other processes out.
    if process and kept_by(s, process) >= front_ends - front_ends // SPARED:
        answer.status = RNVM_TOO_MANY
        answer.result = front_ends - front_ends // SPARED
        return
    if in_state(s, RNVM_FREE) < 2:
        clients_sweep(s)
    if s.mirrors.policy:
        epochs_begin(s)
    index = session_attach(s.g.p, process)
    if index == NO_SESSION:
        answer.status = RNVM_NO_SESSION_LEFT
        return
    if index < 0:
        fail(s, answer)
        return
    # Before any peer can read that this session holds a lock.  A front-end that maps a log in
    # persistent memory makes the log durable without us.
    session = <rnvm_session *> (s.g.p.m.base + rnvm_session_at(&s.g.p.g, <uint32_t> index))
    direct = question.flags & RNVM_MAPS and s.flags & RNVM_DIRECT and not c.promised
    rfp_store64(&session.awaits, question.flags & RNVM_WAITS and not direct)
    each = &s.g.each[index]
    each.activity = c.activity
    each.process = process
    each.attached = True
    each.maps = question.flags & RNVM_MAPS != 0
    each.quiet = False
    while getrandom(&ticket, sizeof(ticket), 0) != sizeof(ticket) or ticket <= RNVM_LOCK_WORDS:
        pass
    rfp_store64(&each.ticket, ticket)
    each.proof = ticket
    c.session = index
    c.used = False
    c.leaving_until = 0
    c.epoch = s.g.p.sessions[index].epoch
    openings_attached(c)
    done.session = <uint32_t> index
    done.flags = s.flags if in_state(s, RNVM_FREE) else s.flags | RNVM_LAST
    done.epoch = c.epoch
    done.operations = s.g.p.operations[index].tail
    done.memory = s.g.p.memory[index].tail
    done.lease = s.g.lease
    done.snapshot = s.snapshot_ns
    done.size = s.g.p.g.size
    done.ticket = ticket
    memcpy(done.pool, s.uuid, sizeof(s.uuid))
    reply(answer, &done, sizeof(done))


cdef void client_detach(backend *s, response *answer, client *c) noexcept nogil:
    if c.session < 0 or s.g.p.sessions[c.session].epoch != c.epoch:
        answer.status = RNVM_NOT_ATTACHED
        return
    if lock_manager_fence(&s.g, <uint32_t> c.session, FENCE_DETACHED):
        fail(s, answer)
        return
    s.g.each[c.session].quiet = True
    s.g.each[c.session].attached = False
    s.g.each[c.session].activity = NULL
    c.session = -1
    clients_sweep(s)
    backend_locks(s)


cdef uint64_t identity_of(uint32_t number) noexcept with gil:
    """Return the identity of a process of this host; UNNAMED if it is not known."""
    try:
        return identity(number) if number else UNNAMED
    except Exception:
        return UNNAMED


cdef bint has_ended(uint64_t process) noexcept with gil:
    """Return whether the process with this identity has ended."""
    try:
        return process != UNNAMED and gone(process)
    except Exception:
        return False


cdef void clients_sweep(backend *s) noexcept nogil:
    cdef uint32_t i
    cdef bint due = False
    s.swept = s.g.now
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED:
            if not s.g.each[i].quiet and not s.g.each[i].attached and \
                    has_ended(s.g.each[i].process):
                s.g.each[i].quiet = True
            due |= s.g.each[i].quiet
    if not due or s.stopped or backend_checkpoint(s):
        return
    for i in range(s.g.p.g.sessions):
        if (s.g.p.sessions[i].state == RNVM_FENCED and s.g.each[i].quiet
                and session_release(s.g.p, i) < 0):
            s.stopped = True
            return

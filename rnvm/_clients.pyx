# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connections of front-ends (the contract is in _clients.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *bytes, size_t n, unsigned int flags)

from rfp._core cimport rfp_store64
from rnvm._backend cimport backend_checkpoint, backend_locks, fail, reply
from rnvm._guests cimport guest, guest_fence
from rnvm._layout cimport RNVM_ATTACHED, RNVM_FENCED, RNVM_FREE, rnvm_session, rnvm_session_at
from rnvm._messages cimport (
    RNVM_BAD_REQUEST, RNVM_DIRECT, RNVM_LAST, RNVM_LOCK_WORDS, RNVM_MAPS, RNVM_NO_SESSION_LEFT, RNVM_WAITS, rnvm_attach,
    rnvm_attached)
from rnvm.pool._sessions cimport NO_SESSION, session_attach, session_release


cdef void client_began(void *context, session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> calloc(1, sizeof(client))
    connection.state = c
    if c != NULL:
        c.session = -1
        c.desk = connection.staging if connection.staging_length >= 8 * <uint64_t> s.g.p.g.names else NULL


cdef bint client_present(backend *s, const client *c) noexcept nogil:
    return c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch and s.g.p.sessions[c.session].state == RNVM_ATTACHED


cdef void client_ended(void *context, session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> connection.state
    connection.state = NULL
    if c == NULL:
        return
    if c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch:
        s.g.each[c.session].attached = False
        s.g.each[c.session].desk = NULL
        if not s.stopped and guest_fence(&s.g, <uint32_t> c.session):
            s.stopped = True
        backend_locks(s)
    free(c)


cdef uint32_t in_state(const backend *s, uint32_t state) noexcept nogil:
    """How many sessions are."""
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += s.g.p.sessions[i].state == state
    return count


cdef void client_attach(backend *s, const request *asked, response *answer, client *c) noexcept nogil:
    cdef rnvm_attach question
    cdef rnvm_attached done
    cdef guest *each
    cdef int64_t index
    cdef uint64_t ticket = 0
    if asked.length != sizeof(question) or client_present(s, c):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if question.previous_epoch and question.previous < s.g.p.g.sessions \
            and s.g.p.sessions[question.previous].epoch == question.previous_epoch:
        # It says that its old rings are no longer written.
        if guest_fence(&s.g, question.previous):
            fail(s, answer)
            return
        s.g.each[question.previous].quiet = True
        clients_sweep(s)
    # A dead front-end's session stays until another front-end has executed its operations.  For that one there is a session more
    # than front-ends.  It logs no operations, so it is free again as soon as its front-end is gone, whatever happens.
    if in_state(s, RNVM_ATTACHED) >= max(s.g.p.g.sessions - 1, <uint32_t> 1):
        answer.status = RNVM_NO_SESSION_LEFT
        return
    if s.g.cut_off != NULL:
        question.process = 0                    # no process of this host, and nothing of it has to be waited for
    if in_state(s, RNVM_FREE) < 2:
        clients_sweep(s)
    index = session_attach(s.g.p, question.process)
    if index == NO_SESSION:
        answer.status = RNVM_NO_SESSION_LEFT
        return
    if index < 0:
        fail(s, answer)
        return
    # Before anybody can read that it holds a lock.  Who maps a log that is itself persistent makes it durable without us.
    rfp_store64(&(<rnvm_session *> (s.g.p.m.base + rnvm_session_at(&s.g.p.g, <uint32_t> index))).awaits,
                question.flags & RNVM_WAITS and not (question.flags & RNVM_MAPS and s.flags & RNVM_DIRECT))
    each = &s.g.each[index]
    each.desk = c.desk
    each.process = question.process
    each.attached = True
    each.quiet = False
    while getrandom(&ticket, sizeof(ticket), 0) != sizeof(ticket) or ticket <= RNVM_LOCK_WORDS:
        pass
    rfp_store64(&each.ticket, ticket)
    c.session = index
    c.process = question.process
    c.epoch = s.g.p.sessions[index].epoch
    done.session = <uint32_t> index
    done.flags = s.flags if in_state(s, RNVM_FREE) else s.flags | RNVM_LAST
    done.epoch = c.epoch
    done.operations = s.g.p.operations[index].tail
    done.memory = s.g.p.memory[index].tail
    done.lease = s.g.lease
    done.size = s.g.p.g.size
    done.ticket = ticket
    reply(answer, &done, sizeof(done))


cdef void client_detach(backend *s, response *answer, client *c) noexcept nogil:
    if guest_fence(&s.g, <uint32_t> c.session):
        fail(s, answer)
        return
    s.g.each[c.session].quiet = True
    s.g.each[c.session].attached = False
    s.g.each[c.session].desk = NULL
    c.session = -1
    clients_sweep(s)
    backend_locks(s)


cdef bint gone(uint64_t process) noexcept with gil:
    """Whether the process that once said this of itself has ended."""
    try:
        with open(f"/proc/{process & 0x3fffff}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[19]) & 0x3ffffffffff != process >> 22
    except (FileNotFoundError, ProcessLookupError):
        return True
    except Exception:
        return False


cdef void clients_sweep(backend *s) noexcept nogil:
    cdef uint32_t i
    cdef bint due = False
    s.swept = s.g.now
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED:
            if not s.g.each[i].quiet and not s.g.each[i].attached and gone(s.g.each[i].process):
                s.g.each[i].quiet = True
            due |= s.g.each[i].quiet
    if not due or s.stopped or backend_checkpoint(s):
        return
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED and s.g.each[i].quiet and session_release(s.g.p, i) < 0:
            s.stopped = True
            return

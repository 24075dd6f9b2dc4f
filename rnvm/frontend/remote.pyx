# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""READs of the pool and calls of the back-end (the contract is in _remote.pxd)."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_copy_in, rfp_fence_acquire, rfp_load32, rfp_now, rfp_pause
from rfp.fabric.fabric cimport READ, local_region, remote_region, work_request
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, TIMED_OUT, client_ring_abandon, client_ring_discard, client_ring_flush,
    client_ring_payload, client_ring_pop, client_ring_response, client_ring_submit,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.client.one_sided cimport client_ring_transfers
from rfp.protocol.client.remote_arena cimport ARENA_HERE, ARENA_MISSING, remote_arena_find
from rfp.protocol.wire cimport RFP_RESPONSE_HEADER, rfp_response_header
from rnvm.format.messages cimport RNVM_NOT_ATTACHED
from rnvm.frontend.status cimport FENCED, LATE, LOST, OK, STOPPED

from rfp.errors import DeadlineExceeded, RfpError

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec *wanted, timespec *left)

cdef enum:
    SLICE = 100000000          # ns between two looks for signals while waiting
    LONGEST_PAUSE = 1000000    # ns


cdef bint interrupted(frontend *fe) noexcept with gil:
    """Whether a signal handler raised; what it raised is kept for the caller."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<object> fe.owner).interrupt(error)
        return True
    return False


cdef int trouble(frontend *fe, int found) noexcept nogil:
    if found == DONE:
        return OK
    if found == TIMED_OUT:
        return LATE
    if found == CLOSED:
        return STOPPED
    fe.trouble = LOST
    return LOST


cdef int remote_transfers(frontend *fe, work_request *works, int n, uint64_t deadline) noexcept nogil:
    return trouble(fe, client_ring_transfers(fe.ring, works, n, deadline))


cdef int attach(frontend *fe, uint64_t offset, uint64_t n) noexcept with gil:
    """A part of the pool that was not looked at before; the back-end registers it for us."""
    try:
        (<object> fe.owner).reach(offset, n)
        return OK
    except DeadlineExceeded:
        return LATE
    except RfpError:
        fe.trouble = LOST
        return LOST
    except BaseException as error:
        (<object> fe.owner).interrupt(error)
        return STOPPED


cdef int remote_place(frontend *fe, uint64_t offset, uint64_t n, remote_region **region, uint64_t *at,
                      uint64_t *size) noexcept nogil:
    cdef int found = remote_arena_find(fe.arena, offset, n, region, at, size)
    if found == ARENA_MISSING:
        found = attach(fe, offset, n)
        if found != OK:
            return found
        found = remote_arena_find(fe.arena, offset, n, region, at, size)
    if found != ARENA_HERE:
        fe.trouble = LOST
        return LOST
    return OK


cdef int remote_read(frontend *fe, uint64_t offset, void *to, uint64_t n) noexcept nogil:
    cdef local_region here
    cdef work_request work
    cdef uint64_t part = 0
    cdef int found
    if fe.trouble:
        return fe.trouble
    fe.reads += 1
    if fe.near:
        if offset > fe.pool.length or n > fe.pool.length - offset:
            fe.trouble = LOST
            return LOST
        rfp_copy_in(to, fe.pool.base + offset, n)
        rfp_fence_acquire()
        return OK
    work.opcode = READ
    if not fe.ring.pair.needs_registration:
        here = local_region(base=<char *> to, length=n, key=0, rights=0)
        work.local = &here
        work.local_offset = 0
        work.remote = fe.pool
        work.remote_offset = offset
        work.length = n
        return remote_transfers(fe, &work, 1, fe.deadline)
    while n:
        found = remote_place(fe, offset, min(n, fe.landing_length), &work.remote, &work.remote_offset, &part)
        if found != OK:
            return found
        work.local = fe.buffer
        work.local_offset = fe.landing
        work.length = part
        found = remote_transfers(fe, &work, 1, fe.deadline)
        if found != OK:
            return found
        memcpy(to, fe.buffer.base + fe.landing, part)
        to = <char *> to + part
        offset += part
        n -= part
    return OK


cdef int remote_call(frontend *fe, uint8_t opcode, const void *question, uint32_t n, void *answer, uint32_t capacity,
                     uint32_t *got) noexcept nogil:
    cdef char *payload
    cdef const rfp_response_header *header
    cdef uint64_t now, until
    cdef int found
    if fe.trouble:
        return fe.trouble
    fe.calls += 1
    payload = client_ring_payload(fe.ring)
    while payload == NULL:
        # All slots wait for the answers of calls that timed out.
        if fe.ring.lost:
            return trouble(fe, fe.ring.lost)
        fe.ring.slot[fe.ring.tail].abandoned = False
        found = client_ring_wait(fe.ring, fe.deadline)
        if found != DONE:
            client_ring_abandon(fe.ring)
            return trouble(fe, found)
        client_ring_discard(fe.ring)
        payload = client_ring_payload(fe.ring)
    if n:                                       # else there may be no question at all
        memcpy(payload, question, n)
    client_ring_submit(fe.ring, opcode, 0, 0, n, 0)
    client_ring_flush(fe.ring)
    while True:
        now = rfp_now()
        until = min(fe.deadline, now + SLICE)
        found = client_ring_wait(fe.ring, until)
        if found != TIMED_OUT:
            break
        if rfp_now() >= fe.deadline or interrupted(fe):
            client_ring_abandon(fe.ring)
            return LATE if rfp_now() >= fe.deadline else STOPPED
    if found != DONE:
        return trouble(fe, found)
    header = client_ring_response(fe.ring)
    fe.refusal = header.status
    if got != NULL:
        got[0] = min(header.length, capacity)
        if got[0]:
            memcpy(answer, <const char *> header + RFP_RESPONSE_HEADER, got[0])
    client_ring_pop(fe.ring)
    if fe.refusal == RNVM_NOT_ATTACHED:
        # Cut off: nothing was done, and what we know of the pool may be of another time.
        fe.trouble = FENCED
        return FENCED
    return OK


cdef int remote_ask(frontend *fe, uint8_t opcode, uint64_t number) noexcept nogil:
    return remote_call(fe, opcode, &number, sizeof(number), NULL, 0, NULL)


cdef int remote_patience(frontend *fe, uint64_t *pause) noexcept nogil:
    cdef timespec wanted
    cdef uint64_t now
    cdef int i
    if pause[0] == 0:
        for i in range(64):
            rfp_pause()
    else:
        wanted.tv_sec = 0
        wanted.tv_nsec = <long> pause[0]
        nanosleep(&wanted, NULL)
    now = rfp_now()
    pause[0] = 1000 if pause[0] == 0 else min(2 * pause[0], <uint64_t> LONGEST_PAUSE)
    if now >= fe.deadline:
        return LATE
    if rfp_load32(fe.ring.closing):
        return STOPPED
    if pause[0] == LONGEST_PAUSE:
        if interrupted(fe):
            return STOPPED
        if not fe.ring.pair.ops.alive(fe.ring.pair):
            fe.trouble = LOST
            return LOST
    return OK

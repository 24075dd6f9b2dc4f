"""Put responses off until they are replicated; refuse changes with too few mirrors."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from rfp.core.core cimport (
    rfp_boot_now, rfp_load64_acquire, rfp_store64, rfp_store64_release,
)
from rfp.protocol.server.service cimport response
from rnvm.backend.connections cimport client
from rnvm.backend.state cimport backend, reply
from rnvm.format.messages cimport *
from rnvm.format.replication cimport RNVM_REPLICATION_LINE, rnvm_replication_line
from rnvm.media.medium cimport medium, medium_operations, replicated
from rnvm.pool.frame_words cimport frame_words_begin, frame_words_end, frame_words_sweep

cdef enum:
    WORDS_PER_TICK = 64        # frame words of structures that one turn examines
    # ns after which a response says that the call is not replicated.  SYNC: the front-end polls
    # then, since a put-off request keeps the worker awake
    PUT_OFF_NS = 5000000000
    PUT_OFF_SYNC_NS = 50000000


cdef bint planted = False


def _plant(bint repeats):
    """Execute a call again and again until all is replicated, for tests only."""
    global planted
    planted = repeats


cdef inline replicated *numbers_of(backend *s) noexcept nogil:
    return s.g.p.m.replication


cdef bint promises_begin(backend *s) noexcept nogil:
    cdef rnvm_replication_line *line = <rnvm_replication_line *> (
        s.g.p.m.base + RNVM_REPLICATION_LINE)
    # On a direct medium they are still those of an earlier start, perhaps in a group.
    rfp_store64(&line.until, 0)
    rfp_store64(&line.clock, 0)
    s.flags |= RNVM_REPLICATES | (RNVM_GROUPED if s.mirrors.policy else 0)
    if not frame_words_begin(s.g.p):
        return False
    promises_tick(s)
    return True


cdef void promises_end(backend *s) noexcept nogil:
    promises_release(s)
    frame_words_end(s.g.p)


cdef void promises_tick(backend *s) noexcept nogil:
    if rfp_load64_acquire(&s.frozen_until) or s.mirrors.policy and not s.mirrors.r.policy:
        freeze(s)
    if s.g.p.frames.shown != NULL:
        frame_words_sweep(s.g.p, WORDS_PER_TICK)


cdef void freeze(backend *s) noexcept nogil:
    """For tests alone: `until` is what the test sets, or goes on."""
    cdef uint64_t until = rfp_load64_acquire(&s.frozen_until)
    s.mirrors.r.policy = not until
    if until:
        s.mirrors.r.until = until
        rfp_store64_release(&(<rnvm_replication_line *> (
            s.g.p.m.base + RNVM_REPLICATION_LINE)).until, until)


# Responses


cdef bint promises_repeated(backend *s, client *c, response *answer) noexcept nogil:
    cdef const replicated *r = numbers_of(s)
    if not c.put_off.frame:
        return False
    if (r != NULL and rfp_load64_acquire(&r.acked) < c.put_off.frame
            and s.g.now - c.put_off.since < c.put_off.most_ns):
        answer.retry_later = True
        return True
    answer.status = c.put_off.status
    answer.length = c.put_off.length
    answer.result = c.put_off.result
    if r == NULL or rfp_load64_acquire(&r.acked) < c.put_off.frame:
        answer.status = RNVM_UNREPLICATED
        answer.length = 0
    c.put_off.frame = 0
    return True


cdef void promises_put_off(backend *s, client *c, uint8_t opcode, response *answer) noexcept nogil:
    cdef const replicated *r = numbers_of(s)
    if (not c.promised or r == NULL or answer.retry_later
            or rfp_load64_acquire(&r.acked) >= r.published):
        return
    if (answer.status == RNVM_FEW_MIRRORS or answer.status == RNVM_NOT_ATTACHED
            or answer.status == RNVM_BAD_REQUEST):
        return                              # nothing was done, and nothing of the pool is told
    if planted:
        answer.retry_later = True
        return
    c.put_off.frame = r.published
    c.put_off.since = s.g.now
    c.put_off.most_ns = PUT_OFF_SYNC_NS if opcode == RNVM_SYNC else <uint64_t> PUT_OFF_NS
    c.put_off.status = answer.status
    c.put_off.length = answer.length
    c.put_off.result = answer.result
    answer.retry_later = True


cdef bint promises_refuse(const backend *s, const client *c, response *answer) noexcept nogil:
    cdef const replicated *r = s.g.p.m.replication
    if not c.promised or r == NULL or r.in_sync >= r.min_mirrors:
        return False
    answer.status = RNVM_FEW_MIRRORS
    answer.result = r.in_sync << 32 | r.min_mirrors
    return True


cdef void call_serving(backend *s, response *answer) noexcept nogil:
    cdef uint64_t now = rfp_boot_now(), until = s.mirrors.r.until
    cdef uint64_t left = until - now if until > now else 0
    reply(answer, &left, sizeof(left))


# The stand-in for a replicator


cdef inline stand_in *stand_in_of(medium *m) noexcept nogil:
    return <stand_in *> m.replication


cdef void held_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    stand_in_of(m).inner.write(m, offset, source, n)


cdef void held_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    stand_in_of(m).inner.write64(m, offset, value)


cdef void held_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    stand_in_of(m).inner.flush(m, offset, n)


cdef int held_drain(medium *m) noexcept nogil:
    rfp_store64_release(&m.replication.published, m.replication.published + 1)
    return stand_in_of(m).inner.drain(m)


cdef medium_operations held_operations
held_operations.write = held_write
held_operations.write64 = held_write64
held_operations.flush = held_flush
held_operations.drain = held_drain


cdef void promises_hold(backend *s) noexcept nogil:
    cdef stand_in *d
    if s.held != NULL:
        return
    d = <stand_in *> calloc(1, sizeof(stand_in))
    if d == NULL:
        return
    d.numbers = s.g.p.m.replication[0]
    d.before = s.g.p.m.replication
    d.inner = s.g.p.m.ops
    s.held = d
    s.g.p.m.replication = &d.numbers
    s.g.p.m.ops = &held_operations


cdef void promises_release(backend *s) noexcept nogil:
    if s.held == NULL:
        return
    s.g.p.m.ops = (<stand_in *> s.held).inner
    s.g.p.m.replication = (<stand_in *> s.held).before
    free(s.held)
    s.held = NULL

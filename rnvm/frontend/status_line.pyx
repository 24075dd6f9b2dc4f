"""A structure's status line, as a front-end reads it."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_load64_acquire, rfp_pause
from rfp.fabric.fabric cimport READ, remote_region, work_request
from rnvm.format.layout cimport (
    RNVM_NAME_LIVE, RNVM_SESSION_LIVE, rnvm_name_at, rnvm_sequence_of, rnvm_session_at)
from rnvm.format.messages cimport (
    RNVM_ALONE, RNVM_STATUS_REVOKE, RNVM_STATUS_SPARE, RNVM_LIVE_FLAGS, RNVM_LIVE_FRAME,
    RNVM_LIVE_HOLDER, RNVM_LIVE_ORPHANS, RNVM_LIVE_REPLAYED, RNVM_LIVE_STRUCTURE, rnvm_locked)
from rnvm.frontend.promise cimport promise_loads_early, promise_note
from rnvm.frontend.remote cimport remote_place, remote_read, remote_transfers, session_fail
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.status cimport FENCED, GONE, OK

cdef enum:
    EARLY_PAUSES = 2000
    FRAME_OFFSET = 1088        # in the landing, behind the word of versions in use


cdef inline uint64_t line_at(const instance *s) noexcept nogil:
    return rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE


cdef inline const char *spare_word(const char *line, int which) noexcept nogil:
    return line + 8 * (RNVM_STATUS_SPARE + which)


cdef int status_read(instance *s, status_line *seen) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef work_request[STATUS_READS] works
    cdef const char *line
    cdef int status, n = 0
    if fe.link.error:
        return fe.link.error
    if fe.link.mapped:
        line = fe.link.pool.base + line_at(s)
        if fe.session.replicated and promise_loads_early():
            note_early(fe, line)
        # In this order: when a revoked lock is taken away, its holder changes first; only then the
        # revocation is cleared.
        seen.revoke = rfp_load64_acquire(line + 8 * RNVM_STATUS_REVOKE)
        seen.holder = rfp_load64_acquire(spare_word(line, RNVM_LIVE_HOLDER))
        seen.replayed = rfp_load64_acquire(spare_word(line, RNVM_LIVE_REPLAYED))
        seen.orphans = rfp_load64_acquire(spare_word(line, RNVM_LIVE_ORPHANS))
        seen.sequence = rfp_load64_acquire(line)
        # A sequence restarts for another structure, and when a new back-end replays logs; the
        # structure's word and the session's epoch change before that.
        seen.structure = rfp_load64_acquire(spare_word(line, RNVM_LIVE_STRUCTURE))
        if fe.session.replicated:
            # After the sequence: the back-end stores this word before an even one.
            if not promise_loads_early():
                promise_note(fe, rfp_load64_acquire(spare_word(line, RNVM_LIVE_FRAME)))
        status = session_validate(fe)
        if status != OK:
            return status
        return OK if seen.structure == s.id else GONE
    status = status_post_reads(s, works, &n)
    if status == OK:
        status = remote_transfers(fe, works, n, fe.link.deadline_ns)
    return status_landed(s, seen) if status == OK else status


cdef void note_early(frontend *fe, const char *line) noexcept nogil:
    """For tests only: the word before the data, which the back-end changes meanwhile."""
    cdef int i
    promise_note(fe, rfp_load64_acquire(spare_word(line, RNVM_LIVE_FRAME)))
    for i in range(EARLY_PAUSES):
        rfp_pause()


cdef int status_post_reads(instance *s, work_request *works, int *n) noexcept nogil:
    """READs in order: status_landed() takes sequence and structure of the second one, and the frame
    word of a third one."""
    cdef frontend *fe = s.fe
    cdef remote_region *region = NULL
    cdef uint64_t place = 0, size = 0
    cdef int status = remote_place(fe, line_at(s), sizeof(status_line), &region, &place, &size)
    cdef int i
    if status != OK:
        return status
    for i in range(2):
        line_read(fe, works + i, region, place, sizeof(status_line) * i)
    n[0] = 2
    if fe.session.replicated:
        line_read(fe, works + 2, region, place, FRAME_OFFSET)
        n[0] = 3
    fe.stats.reads += n[0]
    return OK


cdef inline void line_read(frontend *fe, work_request *work, remote_region *region,
                           uint64_t place, uint64_t landing_offset) noexcept nogil:
    work.opcode = READ
    work.local = fe.link.buffer
    work.local_offset = fe.link.landing_at + landing_offset
    work.remote = region
    work.remote_offset = place
    work.length = sizeof(status_line)


cdef int status_post_read(instance *s, work_request *work, uint64_t landing_offset) noexcept nogil:
    cdef remote_region *region = NULL
    cdef uint64_t place = 0, size = 0
    cdef int status = remote_place(s.fe, line_at(s), sizeof(status_line), &region, &place, &size)
    if status != OK:
        return status
    line_read(s.fe, work, region, place, landing_offset)
    s.fe.stats.reads += 1
    return OK


cdef int status_landed(instance *s, status_line *seen) noexcept nogil:
    cdef const char *landed = s.fe.link.buffer.base + s.fe.link.landing_at
    cdef const status_line *second = <const status_line *> (landed + sizeof(status_line))
    memcpy(seen, landed, sizeof(status_line))
    seen.sequence = second.sequence
    seen.structure = second.structure
    if s.fe.session.replicated:
        promise_note(s.fe, (<const status_line *> (landed + FRAME_OFFSET)).frame)
    return OK if seen.structure == s.id else GONE


cdef bint status_alone(const instance *s) noexcept nogil:
    if not s.fe.link.mapped:
        return False
    return rfp_load64_acquire(spare_word(s.fe.link.pool.base + line_at(s), RNVM_LIVE_FLAGS)) \
        & RNVM_ALONE != 0


cdef int session_validate(frontend *fe) noexcept nogil:
    cdef uint64_t epoch = 0
    cdef uint64_t at = rnvm_session_at(&fe.g, fe.session.number) + RNVM_SESSION_LIVE
    cdef int status = fe.link.error
    if status != OK:
        return status
    if fe.link.mapped:
        epoch = rfp_load64_acquire(fe.link.pool.base + at)
    else:
        status = remote_read(fe, at, &epoch, sizeof(epoch))
    if status == OK and epoch != fe.session.epoch:
        status = session_fail(fe, FENCED)
    return status


cdef bint status_grants(const status_line *seen, uint64_t word) noexcept nogil:
    return seen.holder == word and seen.revoke != word >> 16


cdef void lock_granted(instance *s, const rnvm_locked *locked) noexcept nogil:
    s.holds = True
    s.word = locked.word
    if rnvm_sequence_of(locked.number) != s.seen:
        s.generation += 1
        s.seen = rnvm_sequence_of(locked.number)
    s.number = s.applied = locked.number
    s.operations = locked.operations
    s.covered = locked.covered

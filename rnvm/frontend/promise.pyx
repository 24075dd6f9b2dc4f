"""The wait until what a session has read and written is replicated."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from rfp.core.core cimport rfp_boot_now, rfp_load64_acquire, rfp_now, rfp_pause
from rfp.core.system cimport sched_yield
from rnvm.format.layout cimport RNVM_NAME_LIVE, rnvm_name_at
from rnvm.format.messages cimport (
    RNVM_GOOD, RNVM_LIVE_FRAME, RNVM_SERVING, RNVM_STATUS_SPARE, RNVM_SYNC, RNVM_UNREPLICATED)
from rnvm.format.replication cimport RNVM_REPLICATION_LINE, rnvm_replication_line
from rnvm.frontend.log_writer cimport in_doubt_set, logs_await_frames
from rnvm.frontend.remote cimport (
    link_set_deadline, remote_ask, remote_call, remote_read, remote_wait, session_fail)
from rnvm.frontend.state cimport OPERATION_LOG, REDO_LOG, doubt, frontend, instance
from rnvm.frontend.status cimport FEW_MIRRORS, LATE, LOST, OK, UNREPLICATED

cdef enum:
    POLL_NS_MAX = 30000       # of polling the replication line, before the back-end is asked
    POLL_NS_MIN = 5000
    PAUSES = 16                # between the first polls; a system call between the others
    # A primary whose mirror was lost may answer again that soon; afterwards the group is asked.
    LAPSED_NS = 1000000000
    TRUST_NS = 1000000000      # that a response of RNVM_SERVING may grant, at most
    DRIFT = 1000               # one part of so many: between this clock and the back-end's

cdef uint32_t all_steps = PROMISE_GATE | PROMISE_STATE | PROMISE_OWN | PROMISE_CACHED \
    | PROMISE_ORDER | PROMISE_SERVES | PROMISE_STORED
cdef uint32_t promise_steps = all_steps
cdef int64_t clock_shift = 0
cdef uint64_t misses = 0


def _skip_steps(uint32_t skipped):
    """Answer without these steps, for tests only."""
    global promise_steps
    promise_steps = all_steps & ~skipped


def _shift_clock(double seconds):
    """Use a clock that differs by so many seconds, for tests only."""
    global clock_shift
    clock_shift = <int64_t> (seconds * 1e9)


cdef inline uint64_t boot_now() noexcept nogil:
    return rfp_boot_now() + <uint64_t> clock_shift


cdef bint promise_loads_early() noexcept nogil:
    return not promise_steps & PROMISE_ORDER


cdef void promise_begin(frontend *fe) noexcept nogil:
    memset(&fe.promise, 0, sizeof(fe.promise))
    fe.promise.poll_ns = POLL_NS_MAX


# What was read


cdef void note_state(frontend *fe, uint64_t frame) noexcept nogil:
    if promise_steps & PROMISE_STATE:
        fe.promise.state = frame


cdef int promise_note_line(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t frame = 0, at = rnvm_name_at(&fe.g, s.index) + RNVM_NAME_LIVE \
        + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_FRAME)
    cdef int status = OK
    if not fe.session.replicated:
        return OK
    if fe.link.mapped:
        frame = rfp_load64_acquire(fe.link.pool.base + at)
    else:
        status = remote_read(fe, at, &frame, sizeof(frame))
    if status == OK:
        promise_note(fe, frame)
    return status


cdef void promise_note_own(frontend *fe, uint64_t frame) noexcept nogil:
    fe.promise.stored = False
    if not promise_steps & PROMISE_OWN:
        return
    if not frame:
        fe.promise.unread = True
    elif frame > fe.promise.own:
        fe.promise.own = frame


cdef void promise_wrote(frontend *fe, const doubt *written, bint stored) noexcept nogil:
    fe.promise.records += 1
    fe.promise.stored |= stored and promise_steps & PROMISE_STORED != 0
    if fe.scope.batching and fe.promise.written.written[OPERATION_LOG] \
            and not written.written[OPERATION_LOG]:
        # Changes of the batch: its operations count even if this record does not.
        fe.promise.written.any = True
        fe.promise.written.written[REDO_LOG] = True
        fe.promise.written.lsn[REDO_LOG] = written.lsn[REDO_LOG]
    else:
        fe.promise.written = written[0]


cdef void promise_in_doubt(frontend *fe) noexcept nogil:
    cdef doubt written = fe.promise.written
    # Also if they are replicated: a later primary has them, and only that one may say so.
    written.any = written.written[OPERATION_LOG] or written.written[REDO_LOG]
    in_doubt_set(fe, &written)


# The replication line


cdef int read_line(frontend *fe, rnvm_replication_line *line) noexcept nogil:
    """Loads or READs it.  Near: `acked` is loaded last, and is not older than the rest."""
    cdef const char *at
    cdef int status = fe.link.error
    if status != OK:
        return status
    if fe.link.mapped:
        at = fe.link.pool.base + RNVM_REPLICATION_LINE
        line.in_sync = rfp_load64_acquire(
            &(<const rnvm_replication_line *> at).in_sync)
        line.min_mirrors = rfp_load64_acquire(
            &(<const rnvm_replication_line *> at).min_mirrors)
        line.published = rfp_load64_acquire(
            &(<const rnvm_replication_line *> at).published)
        line.acked = rfp_load64_acquire(
            &(<const rnvm_replication_line *> at).acked)
    else:
        status = remote_read(fe, RNVM_REPLICATION_LINE, line, sizeof(line[0]))
    if status != OK:
        return status
    fe.promise.few_mirrors = line.in_sync < line.min_mirrors
    if line.acked > fe.promise.acked:
        fe.promise.acked = line.acked
    return OK


cdef int promise_reexecuted(frontend *fe) noexcept nogil:
    cdef bint unused
    cdef int status = poll(fe, True, &unused) if fe.session.replicated else OK
    promise_note(fe, fe.promise.own)
    return status


cdef inline bint reached(frontend *fe, bint own) noexcept nogil:
    return fe.promise.state <= fe.promise.acked and (
        not own or fe.promise.own <= fe.promise.acked and not fe.promise.unread
        and not fe.promise.stored)


cdef int poll(frontend *fe, bint own, bint *done) noexcept nogil:
    cdef rnvm_replication_line line
    cdef int status = read_line(fe, &line)
    if status != OK:
        return status
    if fe.promise.unread:
        # Over a network: the frame of the records was published before they were found durable.
        fe.promise.unread = False
        if line.published > fe.promise.own:
            fe.promise.own = line.published
    done[0] = reached(fe, own)
    if done[0] and fe.promise.own <= fe.promise.acked and not fe.promise.stored:
        fe.promise.written.any = False
    return OK


cdef bint from_cache_alone(const frontend *fe) noexcept nogil:
    global misses
    cdef uint64_t before = misses
    misses = fe.cache.misses
    return not promise_steps & PROMISE_CACHED and misses == before


cdef int wait_for_frames(frontend *fe, bint own) noexcept nogil:
    cdef bint done = False
    cdef uint64_t pause = 0, began = rfp_now()
    cdef int polls = 0, status = OK
    if not promise_steps & PROMISE_GATE or from_cache_alone(fe):
        return OK
    if own and fe.promise.stored:
        status = logs_await_frames(fe)
    if status != OK:
        return UNREPLICATED if status == LATE else status
    while True:
        status = poll(fe, own, &done)
        if status != OK:
            return status
        if done:
            fe.promise.poll_ns = POLL_NS_MAX
            return OK
        if not fe.link.mapped or rfp_now() - began > fe.promise.poll_ns:
            break
        polls += 1
        if polls > PAUSES:
            sched_yield()               # a mirror on this host may need this processor
        else:
            rfp_pause()
    fe.promise.poll_ns = max(fe.promise.poll_ns // 2, <uint64_t> POLL_NS_MIN)
    if not fe.promise.few_mirrors:
        status = remote_ask(fe, RNVM_SYNC, 1)
        if status == OK and fe.link.status != RNVM_GOOD and fe.link.status != RNVM_UNREPLICATED:
            return session_fail(fe, LOST)
        if status != OK:
            return UNREPLICATED if status == LATE else status
    while True:
        status = poll(fe, own, &done)
        if status != OK or done:
            return status
        status = remote_wait(fe, &pause)
        if status != OK:
            return UNREPLICATED if status == LATE else status


cdef int await_frames(frontend *fe, bint own) noexcept nogil:
    cdef int status = wait_for_frames(fe, own)
    return promise_serves(fe) if status == OK and fe.session.guarded else status


# Whether the back-end is still the primary of its group


cdef bint trusted(const frontend *fe) noexcept nogil:
    cdef uint64_t until = fe.promise.trusted_until
    if fe.session.reads_until:
        until = rfp_load64_acquire(
            &(<const rnvm_replication_line *> (fe.link.pool.base + RNVM_REPLICATION_LINE)).until)
    return boot_now() < until


cdef int ask_trust(frontend *fe, uint64_t deadline) noexcept nogil:
    """Asks the back-end how long it may answer.

    It computes that after this clock was read: the time here ends before the time there.
    """
    cdef uint64_t own_deadline = fe.link.deadline_ns, sent = boot_now(), left = 0
    cdef uint32_t got = 0
    cdef int status
    link_set_deadline(fe, min(deadline, own_deadline))
    status = remote_call(fe, RNVM_SERVING, NULL, 0, &left, sizeof(left), &got)
    link_set_deadline(fe, own_deadline)
    if status == LATE and rfp_now() < own_deadline:
        return session_fail(fe, LOST)
    if status == OK and (fe.link.status != RNVM_GOOD or got != sizeof(left)):
        return session_fail(fe, LOST)
    if status == OK and left:
        left = min(left, <uint64_t> TRUST_NS)
        fe.promise.trusted_until = max(fe.promise.trusted_until, sent + left - left // DRIFT)
    return status


cdef int promise_serves(frontend *fe) noexcept nogil:
    cdef uint64_t pause = 0, began
    cdef int status = OK
    if not fe.session.guarded or not promise_steps & PROMISE_SERVES or trusted(fe):
        return OK
    began = rfp_now()
    while True:
        if not fe.session.reads_until:
            status = ask_trust(fe, began + LAPSED_NS)
        if status == OK and trusted(fe):
            return OK
        if status == OK:
            # A back-end that was paused, or whose mirror does not answer; or another one is the
            # primary, and what was read here may be old.
            status = remote_wait(fe, &pause)
        if status != OK:
            return UNREPLICATED if status == LATE else status
        if rfp_now() - began > LAPSED_NS:
            return session_fail(fe, LOST)


cdef int promise_allows(frontend *fe) noexcept nogil:
    cdef rnvm_replication_line line
    cdef int status = OK
    if not fe.session.replicated:
        return OK
    if fe.link.mapped or fe.promise.few_mirrors:
        status = read_line(fe, &line)
    if status != OK:
        return status
    return FEW_MIRRORS if fe.promise.few_mirrors else OK


cdef int promise_gone(frontend *fe) noexcept nogil:
    cdef uint64_t pause = 0
    cdef int status = OK
    # The line says so before the drop is in a frame; the back-end answers after the drop, and when
    # all frames up to then are replicated.
    while status == OK and fe.session.replicated and promise_steps & PROMISE_GATE:
        status = remote_ask(fe, RNVM_SYNC, 1)
        if status == OK and fe.link.status == RNVM_GOOD:
            break
        if status == OK and fe.link.status != RNVM_UNREPLICATED:
            return session_fail(fe, LOST)
        if status == OK:
            status = remote_wait(fe, &pause)
    if status == OK and fe.session.guarded:
        return promise_serves(fe)               # the next primary may have it still
    return UNREPLICATED if status == LATE else status

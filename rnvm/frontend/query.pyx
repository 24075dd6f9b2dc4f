"""A query, from the status line to the validation of the nodes that it read.

    structure acquired by a batch or transaction    query under the lock
    writer lock kept from before                    acquire it again: query under the lock
    otherwise, up to RESTARTS_MAX times:
        read the status line
            pending operations of a dead writer     query under the lock, which executes them
            no holder                               the pool contains the state `sequence`
            a holder                                pull its log: the state includes its records.
                                                    If the log cannot show it, the back-end
                                                    applies the records
        sequence odd                                a transaction is being applied: poll again
        sequence differs from the last query's      the next generation: no cached node is current
        run the structure's function                nodes from the cache, or READ
        nothing was fetched                         done: all nodes are of one state
        read the status line again                  sequence <= state: done
                                                    otherwise the nodes fetched may be of different
                                                    states: restart
    afterwards                                      query under the lock
"""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_now, rfp_pause
from rnvm.format.layout cimport rnvm_memory_ring_at, rnvm_record
from rnvm.frontend.byte_buffer cimport buffer_truncate
from rnvm.frontend.cas_lock cimport cas_all_applied
from rnvm.frontend.log_overlay cimport ASK_BACKEND, overlay_clear, overlay_pull
from rnvm.frontend.node_cache cimport cache_trim
from rnvm.frontend.operation cimport structure_acquire
from rnvm.frontend.remote cimport remote_apply_logs, remote_read, remote_wait
from rnvm.frontend.state cimport LIVENESS_INTERVAL_NS, frontend, instance
from rnvm.frontend.status cimport AGAIN, LATE, NO_MEMORY, OK
from rnvm.frontend.status_line cimport session_validate, status_line, status_read
from rnvm.frontend.writer_lock cimport lock_acquire_kept, lock_confirm, lock_release_kept


cdef int query_execute(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                       void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t state = 0
    cdef uint32_t restarts = 0
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
            break
        if status != OK:
            return status
        if state != s.seen:
            s.seen = state
            s.generation += 1
        result = query_run(s, function, context)
        if not s.fetched and result >= 0:
            cache_trim(fe)
            return result
        if fe.link.error:
            return fe.link.error
        if result == LATE or result == NO_MEMORY:
            return result
        status = query_still_in(s, state, result)
        if status == OK:
            cache_trim(fe)
            return result
        if status != AGAIN:
            return status
        s.generation += 1               # the nodes fetched may be of different states
        restarts += 1
        fe.stats.restarts += 1
    return query_under_lock(s, function, context)


# The state before


cdef int query_await_state(instance *s, uint64_t *state) noexcept nogil:
    cdef status_line seen
    cdef uint64_t pause = 0
    cdef uint32_t polls = 0
    cdef int status
    while True:
        status = status_read(s, &seen)
        if status != OK:
            return status
        if seen.orphans:
            return AGAIN                # only the holder of the lock may execute them
        status = find_state(s, &seen, polls != 0 and polls % POLLS == 0, state)
        if status != AGAIN and (status != OK or not state[0] & 1):
            return status
        polls += 1
        rfp_pause()
        if polls % POLLS == 0:
            status = remote_wait(s.fe, &pause)
            if status != OK:
                return status


cdef int find_state(instance *s, status_line *seen, bint impatient,
                    uint64_t *state) noexcept nogil:
    """*state: the sequence of the state that cached and READ nodes must have.

    It includes everything that was acknowledged before.  AGAIN: read the line again.
    """
    cdef int status = OK
    state[0] = seen.sequence
    if not seen.holder:
        overlay_clear(s)
        return OK
    # The holder may have acknowledged operations that are not applied.
    status = overlay_pull(s, seen, state)
    if status == ASK_BACKEND or status == AGAIN and impatient:
        status = query_have_applied(s, seen)
        state[0] = seen.sequence
    return status


cdef int query_have_applied(instance *s, status_line *seen) noexcept nogil:
    cdef bint unapplied = False
    cdef int status = find_unapplied(s, seen, &unapplied)
    if status == OK and unapplied:
        status = remote_apply_logs(s.fe)
    return status_read(s, seen) if status == OK else status


cdef int find_unapplied(instance *s, const status_line *seen, bint *unapplied) noexcept nogil:
    """Whether the holder has written records that are not applied: the header of the next record
    in its ring shows that."""
    cdef frontend *fe = s.fe
    cdef rnvm_record record
    cdef uint64_t lsn = seen.replayed, size = fe.g.memory_ring
    cdef uint64_t session = (seen.holder & 0xffff) - 1
    cdef int status
    cdef bint applied = False
    if session >= fe.g.sessions:        # several front-ends share the lock
        status = cas_all_applied(s, seen, &applied) if fe.cas.words != NULL else OK
        unapplied[0] = not applied
        return status
    status = remote_read(fe, rnvm_memory_ring_at(&fe.g, <uint32_t> session) + lsn % size, &record,
                         sizeof(record))
    unapplied[0] = record.lsn >= lsn and record.lsn - lsn < 4 * size
    return status


# The query


cdef int query_run(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                   void *context) noexcept nogil:
    buffer_truncate(&s.fe.answer, 0)
    s.steps = s.fault_at = 0
    s.fetched = False
    s.error = AGAIN
    return function(s, context)


# The state after


cdef int query_still_in(instance *s, uint64_t state, int result) noexcept nogil:
    """Whether all nodes that the query read are of this state: OK, AGAIN, or a READ's status."""
    cdef frontend *fe = s.fe
    cdef status_line after
    cdef int status = status_read(s, &after)
    if status != OK:
        return status
    if after.sequence > state or result < 0:
        return AGAIN
    if not fe.link.mapped and fe.link.polls_liveness \
            and rfp_now() - fe.link.alive_ns > LIVENESS_INTERVAL_NS:
        return session_validate(fe)     # sequences restart when a back-end recovers
    return OK


# Under the lock


cdef int query_under_lock(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                          void *context) noexcept nogil:
    cdef bint was_entered = s.entered
    cdef int status = structure_acquire(s)
    if status != OK:
        return status
    if not was_entered:
        return query_run_and_release(s, function, context)
    status = lock_confirm(s, query_run(s, function, context))
    cache_trim(s.fe)
    return status


cdef int query_run_and_release(instance *s,
                               int (*function)(instance *s, void *context) noexcept nogil,
                               void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int status = lock_confirm(s, query_run(s, function, context))
    if not fe.scope.transacting:
        # Also in a batch, which has changed nothing here: others would wait for its end, or for the
        # lease.
        s.entered = False
        lock_release_kept(s)
    cache_trim(fe)
    return status

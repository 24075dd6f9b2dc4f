# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How a query sees a state that is whole (the contract is in _queries.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_now, rfp_pause
from rnvm.format.layout cimport rnvm_memory_ring_at, rnvm_record
from rnvm.frontend.status cimport AGAIN, LATE, NO_MEMORY, OK
from rnvm.frontend.node_cache cimport cache_forget
from rnvm.frontend.state cimport WATCH, frontend, instance
from rnvm.frontend.status_line cimport line, line_look, line_session
from rnvm.frontend.log_overlay cimport ASK, overlay_clear, overlay_pull
from rnvm.frontend.remote cimport remote_patience, remote_read
from rnvm.frontend.cas_lock cimport swap_applied
from rnvm.frontend._transaction cimport transactions_apply
from rnvm.frontend._turns cimport turn_enter
from rnvm.frontend.writer_lock cimport lock_confirm, lock_pause, lock_resume

cdef enum:
    RESTARTS = 8               # of a query, before it takes the lock
    SPINS = 1000               # looks at a sequence that is odd


cdef int pending(instance *s, const line *seen, bint *found) noexcept nogil:
    """Whether the holder has written what is not applied yet: the header of the next record in its ring tells."""
    cdef frontend *fe = s.fe
    cdef rnvm_record record
    cdef uint64_t lsn = seen.replayed, size = fe.g.memory_ring
    cdef uint64_t session = (seen.holder & 0xffff) - 1
    cdef int outcome
    cdef bint applied = False
    if session >= fe.g.sessions:                # several have it together
        outcome = swap_applied(s, seen, &applied) if fe.words != NULL else OK
        found[0] = not applied
        return outcome
    outcome = remote_read(fe, rnvm_memory_ring_at(&fe.g, <uint32_t> session) + lsn % size, &record, sizeof(record))
    found[0] = record.lsn >= lsn and record.lsn - lsn < 4 * size
    return outcome


cdef int have_applied(instance *s, line *seen) noexcept nogil:
    """Has the back-end apply what the holder has written, if there is anything; seen: the line behind that."""
    cdef bint waiting = False
    cdef int found = pending(s, seen, &waiting)
    if found == OK and waiting:
        found = transactions_apply(s.fe)
    return line_look(s, seen) if found == OK else found


cdef int run(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    s.fe.answer_length = 0
    s.steps = s.fault_at = 0
    s.fetched = False
    s.error = AGAIN
    return ask(s, context)


cdef int under_lock(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    """A query for which the lock was taken."""
    cdef frontend *fe = s.fe
    cdef int found = lock_confirm(s, run(s, ask, context))
    if not fe.transacting:
        # Also in a batch, which has changed nothing here: others would wait for its end, or for the lease.
        s.entered = False
        lock_pause(s)
    cache_forget(fe)
    return found


cdef int query_alone(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    cdef bint was = s.entered
    cdef int found = turn_enter(s)
    if found != OK:
        return found
    if not was:
        return under_lock(s, ask, context)
    found = lock_confirm(s, run(s, ask, context))
    cache_forget(s.fe)
    return found


cdef int query_ask(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef line seen, after
    cdef uint64_t state
    cdef uint32_t restarts = 0, spins = 0
    cdef uint64_t pause = 0
    cdef int found, outcome
    if s.entered:
        return query_alone(s, ask, context)
    found = lock_resume(s)
    if found != OK:
        return found
    if s.holds:
        s.entered = True
        return under_lock(s, ask, context)
    while restarts < RESTARTS:
        found = line_look(s, &seen)
        if found != OK:
            return found
        if seen.orphans:
            break                               # a dead writer's operations: only who has the lock may execute them
        state = seen.sequence
        if seen.holder:
            # Somebody may have been told already that it is done.
            found = overlay_pull(s, &seen, &state)
            if found == ASK or found == AGAIN and spins and spins % SPINS == 0:
                found = have_applied(s, &seen)
                state = seen.sequence
        else:
            overlay_clear(s)
        if found == AGAIN or found == OK and state & 1:
            spins += 1
            rfp_pause()
            if spins % SPINS == 0:
                found = remote_patience(fe, &pause)
                if found != OK:
                    return found
            continue
        if found != OK:
            return found
        if state != s.seen:
            s.seen = state
            s.generation += 1
        found = run(s, ask, context)
        if not s.fetched and found >= 0:
            cache_forget(fe)
            return found
        if fe.trouble:
            return fe.trouble
        if found == LATE or found == NO_MEMORY:
            return found
        outcome = line_look(s, &after)
        if outcome != OK:
            return outcome
        if after.sequence <= state and found >= 0:
            if not fe.near and fe.watches and rfp_now() - fe.alive > WATCH:
                outcome = line_session(fe)      # sequences begin anew where a back-end recovers
                if outcome != OK:
                    return outcome
            cache_forget(fe)
            return found
        # What was fetched may be of different moments.
        s.generation += 1
        restarts += 1
        fe.restarts += 1
    return query_alone(s, ask, context)

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Turns at a structure: the writer lock, and what others have left to do first (the contract is in _turns.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from rnvm.frontend.status cimport LOST, OK
from rnvm.frontend.write_set cimport changes_undo
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend._orphans cimport orphans_execute
from rnvm.frontend.slab_allocator cimport slabs_begin
from rnvm.frontend._transaction cimport transaction_commit
from rnvm.frontend.writer_lock cimport lock_acquire, lock_keep, lock_pause, lock_release, lock_resume


cdef int turn_enter(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int found
    if s.entered:
        return lock_keep(s)
    found = lock_resume(s)
    if found != OK:
        return found
    if s.holds:
        s.entered = True
        return OK
    if not fe.transacting:
        # Whoever waits for one lock keeps no other that somebody may wait for.
        found = transaction_commit(fe)
        if found != OK:
            return found
        turn_leave(fe)
    found = lock_acquire(s)
    if found != OK:
        return found
    s.entered = True
    if s.covered < s.operations:
        found = orphans_execute(s)
        if found < 0:
            # With the lock kept the next operation would begin without what is left of them, and cover it.
            s.entered = False
            lock_release(s)
            if not fe.transacting:
                turn_leave(fe)
            return found
    return OK


cdef void turn_leave(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    if fe.volume and not fe.trouble:
        # Of acknowledged operations.  Others would change the same nodes, and never see what these have done.
        fe.trouble = LOST
    for i in range(fe.instance_count):
        s = fe.instances[i]
        if s.entered:
            s.entered = False
            lock_pause(s)


cdef int turn_release(frontend *fe) noexcept nogil:
    cdef uint32_t i
    cdef int found = transaction_commit(fe)
    for i in range(fe.instance_count):
        if found == OK:
            fe.instances[i].entered = False
            found = lock_release(fe.instances[i])
    return found


cdef int turn_begin(instance *s, uint64_t blocks) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int found = turn_enter(s)
    if found == OK and s.number == 0:
        fe.operation += 1
        found = slabs_begin(s, blocks)
        if found == OK:
            found = transaction_commit(fe)
        if found != OK and not fe.trouble:
            changes_undo(fe, 0)
    if not fe.batching and not fe.transacting:
        turn_leave(fe)
    return found


cdef bint turn_settle(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.transacting and s.entered:
        return False
    if s.touched and not fe.trouble and transaction_commit(fe) != OK and not fe.trouble:
        fe.trouble = LOST                       # as in turn_leave()
    s.entered = False
    lock_release(s)
    return not s.touched

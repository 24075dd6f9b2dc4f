# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Turns at a structure: the writer lock, and what others have left to do first (the contract is in _turns.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from rnvm.frontend._answers cimport OK
from rnvm.frontend._changes cimport changes_undo
from rnvm.frontend._front cimport frontend, instance
from rnvm.frontend._orphans cimport orphans_execute
from rnvm.frontend._slabs cimport slabs_begin
from rnvm.frontend._transaction cimport transaction_commit
from rnvm.frontend._writer_lock cimport lock_acquire, lock_pause, lock_release, lock_resume


cdef int turn_enter(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int found
    if s.entered:
        return OK
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
            if not fe.transacting:
                turn_leave(fe)
            return found
    return OK


cdef void turn_leave(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    for i in range(fe.instance_count):
        s = fe.instances[i]
        if s.entered:
            s.entered = False
            lock_pause(s)


cdef int turn_release(frontend *fe) noexcept nogil:
    cdef uint32_t i
    cdef int found = OK
    for i in range(fe.instance_count):
        if found == OK:
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
        else:
            changes_undo(fe, 0)
    if not fe.batching and not fe.transacting:
        turn_leave(fe)
    return found


cdef void turn_settle(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if not fe.trouble and s.touched and not fe.transacting:
        transaction_commit(fe)
    s.entered = False
    lock_release(s)

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A front-end's present transaction: operations on the nodes here, one record (the contract is in _transaction.pxd)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from rnvm.format.messages cimport RNVM_APPLY, RNVM_GOOD
from rnvm.frontend.status cimport AGAIN, LOST, OK, TOO_LONG
from rnvm.frontend.write_set cimport changes_keep, changes_record, changes_undo, changes_written
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.log_writer cimport journal_payload, journal_room, journal_settle, journal_wait, journal_write
from rnvm.frontend.status_line cimport line, line_look
from rnvm.frontend.remote cimport remote_ask, remote_patience
from rnvm.frontend.writer_lock cimport lock_confirm, locks_confirm

cdef int transaction_do(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t mark = fe.undo_count
    cdef int found
    fe.operation += 1
    fe.answer_length = 0
    s.steps = s.fault_at = 0
    s.fetched = False
    s.error = AGAIN
    found = s.kind.apply(s, code, bytes, length)
    # What changes something outside a transaction is confirmed by its record.
    if found < 0 or fe.undo_count == mark or fe.transacting:
        found = lock_confirm(s, found)
    if found < 0:
        changes_undo(fe, mark)
    return found


cdef int transaction_write(frontend *fe) noexcept nogil:
    cdef uint16_t parts = 0
    cdef uint32_t length
    cdef int found
    if not fe.volume:
        changes_keep(fe)
        return OK
    length = changes_record(fe, journal_payload(fe, &fe.memory), journal_room(&fe.memory), &parts)
    if not length:
        return TOO_LONG
    found = journal_wait(fe, &fe.memory, length)
    if found == OK:
        found = journal_write(fe, 0, 0, length, parts)
    if found == OK:
        changes_written(fe)
    return found


cdef int transactions_apply(frontend *fe) noexcept nogil:
    cdef int found = remote_ask(fe, RNVM_APPLY, 0)
    if found == OK and fe.refusal != RNVM_GOOD:
        fe.trouble = LOST
    return fe.trouble if fe.trouble else found


cdef int transaction_await(frontend *fe) noexcept nogil:
    cdef line seen
    cdef uint64_t pause
    cdef uint32_t i
    cdef int found
    for i in range(fe.instance_count):
        pause = 0
        while fe.instances[i].applied < fe.instances[i].number:
            found = line_look(fe.instances[i], &seen)
            if found == OK and seen.sequence // 2 < fe.instances[i].number:
                found = transactions_apply(fe)
                if found == OK:
                    found = remote_patience(fe, &pause)
            elif found == OK:
                fe.instances[i].applied = fe.instances[i].number
            if found != OK:
                return found
    return OK


cdef int transaction_commit(frontend *fe) noexcept nogil:
    cdef int found = transaction_write(fe)
    if found == OK and fe.doubt.any:
        found = journal_settle(fe)
    elif found == OK and fe.transacting:
        found = locks_confirm(fe)
    if found == OK and fe.applied:
        transaction_await(fe)                        # it holds, also where nobody can say when it shows
    return found

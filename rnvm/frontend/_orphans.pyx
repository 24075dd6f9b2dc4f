# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Operations that dead writers have left (the contract is in _orphans.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from rnvm.format.layout cimport (
    RNVM_OPERATION, rnvm_longest_record, rnvm_operation_ring_at, rnvm_record, rnvm_record_crc,
    rnvm_record_fits, rnvm_ring_seed,
)
from rnvm.format.messages cimport RNVM_ABSENT, RNVM_GOOD, RNVM_PENDING, rnvm_after, rnvm_pending
from rnvm.frontend.status cimport AGAIN, ALIEN, LOST, NO_MEMORY, OK
from rnvm.frontend.write_set cimport change_touch, changes_undo
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.log_writer cimport journal_settle
from rnvm.frontend.remote cimport remote_call, remote_read
from rnvm.frontend._transaction cimport transaction_do, transaction_write


cdef int orphans_execute(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_after after
    cdef rnvm_pending pending
    cdef uint64_t upto = s.operations, at, seed, capacity = rnvm_longest_record(fe.g.operation_ring)
    cdef uint32_t got = 0
    cdef rnvm_record *record
    cdef bint known
    cdef int found = OK
    cdef char *buffer = <char *> malloc(capacity)
    if buffer == NULL:
        return NO_MEMORY
    record = <rnvm_record *> buffer
    while s.covered < upto:
        after.structure = s.id
        after.number = s.covered
        found = remote_call(fe, RNVM_PENDING, &after, sizeof(after), &pending, sizeof(pending), &got)
        if found != OK:
            break
        if fe.refusal == RNVM_ABSENT:
            s.covered = upto                    # a transaction without operations of its own had the numbers between
            break
        if fe.refusal != RNVM_GOOD or got != sizeof(pending) or pending.session >= fe.g.sessions:
            fe.trouble = LOST
            found = LOST
            break
        at = rnvm_operation_ring_at(&fe.g, pending.session)
        seed = rnvm_ring_seed(fe.g.seed, at)
        found = remote_read(fe, at + pending.lsn % fe.g.operation_ring, buffer, sizeof(rnvm_record))
        if found == OK and (not rnvm_record_fits(record, pending.lsn, pending.epoch,
                                                 fe.g.operation_ring - pending.lsn % fe.g.operation_ring, capacity)
                            or record.kind != RNVM_OPERATION):
            found = AGAIN
        if found == OK:
            found = remote_read(fe, at + pending.lsn % fe.g.operation_ring + sizeof(rnvm_record), record + 1, record.payload)
        if found == OK and (rnvm_record_crc(<uint32_t> seed, record, record + 1) != record.crc
                            or pending.at > record.payload + sizeof(rnvm_record)
                            or pending.length > record.payload + sizeof(rnvm_record) - pending.at):
            found = AGAIN
        if found == AGAIN:
            fe.trouble = LOST
            found = LOST
        if found != OK:
            break
        s.operations = pending.number
        found = transaction_do(s, pending.code, buffer + pending.at, pending.length)
        known = found != ALIEN
        if not known:
            found = OK                          # nobody was told that it is done: it is passed over, and nobody meets it again
        if found >= 0:
            found = change_touch(s)             # the transaction says that it was executed, also where that changed nothing
        if found < 0:
            break
        found = transaction_write(fe)
        if found == OK:
            found = journal_settle(fe)
        if found != OK:
            if not fe.trouble:
                changes_undo(fe, 0)             # nothing was written: it stays to be executed
            break
        s.covered = pending.number
        if known:
            fe.executed_again += 1
        else:
            fe.passed_over += 1
    s.operations = max(s.operations, upto)
    free(buffer)
    return found

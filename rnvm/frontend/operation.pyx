# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How an operation is done and comes to hold (the contract is in _operations.pxd)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rnvm.format.layout cimport RNVM_PARTS_MAX, rnvm_longest_record, rnvm_part, rnvm_record, rnvm_up
from rnvm.frontend.status cimport FULL, OK, TOO_LONG, TOO_MANY
from rnvm.frontend.node_cache cimport cache_forget
from rnvm.frontend.write_set cimport changes_keep, changes_record, changes_undo, changes_written
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.log_writer cimport (
    journal_has_room, journal_hear, journal_payload, journal_room, journal_settle, journal_trust, journal_wait, journal_write)
from rnvm.frontend._transaction cimport transaction_await, transaction_commit, transaction_do, transaction_write
from rnvm.frontend._turns cimport turn_enter, turn_leave


cdef uint32_t make_operation(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """The payload of an operation's record."""
    cdef rnvm_part *part = <rnvm_part *> journal_payload(s.fe, &s.fe.operations)
    cdef char *end = <char *> (part + 1) + length
    memset(part, 0, sizeof(rnvm_part))
    part.structure = s.id
    part.code = code
    part.number = s.operations
    part.length = length
    if length:
        memcpy(part + 1, bytes, length)
    memset(end, 0, rnvm_up(length, 8) - length)
    return <uint32_t> (sizeof(rnvm_part) + rnvm_up(length, 8))


cdef int log_alone(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """In a batch: the operation is durable, what it changed comes later."""
    cdef frontend *fe = s.fe
    cdef uint32_t payload = <uint32_t> (sizeof(rnvm_part) + rnvm_up(length, 8))
    cdef int found
    found = journal_wait(fe, &fe.operations, payload)
    if found != OK:
        return found
    make_operation(s, code, bytes, length)
    found = journal_write(fe, payload, 1, 0, 0)
    if found == OK:
        found = journal_settle(fe)
    return found


cdef int log_both(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """The operation, and what it changed behind it: two WRITEs, one round trip."""
    cdef frontend *fe = s.fe
    cdef uint32_t payload = <uint32_t> (sizeof(rnvm_part) + rnvm_up(length, 8)), memory
    cdef uint16_t parts = 0
    cdef int found
    found = journal_wait(fe, &fe.operations, payload)
    if found != OK:
        return found
    memory = changes_record(fe, journal_payload(fe, &fe.memory), journal_room(&fe.memory), &parts)
    if not memory:
        return TOO_LONG
    found = journal_wait(fe, &fe.memory, memory)
    if found != OK:
        return found
    make_operation(s, code, bytes, length)
    found = journal_write(fe, payload, 1, memory, parts)
    if found == OK:
        changes_written(fe)
        found = journal_settle(fe)
    return found


cdef bint long_batch(frontend *fe) noexcept nogil:
    """Whether a batch must be written now: its record grows long, or its operations fill the ring."""
    if fe.volume * 2 > rnvm_longest_record(fe.memory.size):
        return True
    if (fe.operations.tail - fe.operations.head) * 2 <= fe.operations.size:
        return False
    # Some of that may be free by now.
    return journal_hear(fe) != OK or (fe.operations.tail - fe.operations.head) * 2 > fe.operations.size


cdef int log_operation(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """Makes what was done hold."""
    cdef frontend *fe = s.fe
    cdef int found
    if not fe.oplog:
        found = transaction_write(fe)
        return journal_settle(fe) if found == OK else found
    if not fe.batching:
        return log_both(s, code, bytes, length)
    found = log_alone(s, code, bytes, length)
    if found == OK:
        changes_keep(fe)
        # Should that fail, what comes next in the batch or its end says so.  This operation holds.
        if long_batch(fe):
            transaction_commit(fe)
    return found


cdef inline int beyond_record(const frontend *fe) noexcept nogil:
    """Whether what was changed fits into one record: OK, TOO_LONG or TOO_MANY."""
    if fe.volume > journal_room(&fe.memory):
        return TOO_LONG
    return TOO_MANY if fe.touched > RNVM_PARTS_MAX else OK


cdef bint without_batch(const frontend *fe, int result) noexcept nogil:
    """Whether an operation may succeed when what the batch has changed before it is written."""
    if result == FULL:
        return fe.returned.count != 0           # blocks are granted again behind the transaction that returned them
    return result == TOO_LONG or result == TOO_MANY


cdef int operation_execute(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t mark, operations, before
    cdef int result, found = turn_enter(s)
    if found == OK and fe.batching and not fe.transacting and fe.volume and not journal_has_room(
            fe, &fe.operations, sizeof(rnvm_part) + rnvm_up(length, 8)):
        # The batch's own operations fill the ring, and only what they have changed, once it is written, makes room.
        found = transaction_commit(fe)
    # Whatever that wrote was of other operations.
    journal_trust(fe)
    if found != OK:
        return found
    before = fe.volume
    mark = fe.undo_count
    operations = s.operations
    s.operations += 1
    result = TOO_LONG
    if sizeof(rnvm_record) + sizeof(rnvm_part) + rnvm_up(length, 8) <= rnvm_longest_record(fe.operations.size):
        result = transaction_do(s, code, bytes, length)
    if result >= 0:
        found = beyond_record(fe)
        if found != OK:
            changes_undo(fe, mark)
            result = found
    if result < 0 and before and not fe.transacting and without_batch(fe, result):
        s.operations = operations
        found = transaction_commit(fe)
        if found == OK:
            return operation_execute(s, code, bytes, length)
        journal_trust(fe)
        return found
    if result < 0 or fe.undo_count == mark:
        s.operations = operations               # nothing happened, nothing is logged
    elif not fe.transacting:
        fe.result = result
        found = log_operation(s, code, bytes, length)
        if found == OK and fe.applied:
            transaction_await(fe)
        if found != OK:
            if fe.doubt.any:
                changes_keep(fe)                # it may hold
            else:
                changes_undo(fe, mark)
                s.operations = operations
            result = found
    if not fe.batching and not fe.transacting:
        turn_leave(fe)
    cache_forget(fe)
    return result

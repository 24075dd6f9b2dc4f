"""An operation, in the order of this file:

    acquire     the structure's writer lock; pending operations of dead writers are re-executed
    apply       the structure's function changes nodes in the cache; the write set notes how to
                undo that
    log         operation record and redo record, one WRITE each, in one round trip.  In a batch the
                operation record only; in a transaction none
    commit      in a batch or a transaction, later: one redo record of all changes
    release     the lock is kept, unless other front-ends wait for it

If a step fails before a record is written, the operation is undone.  If it fails afterwards, the
records are in doubt: the session ends, and the next session learns from the back-end whether they
count (session.pyx).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_now

from rnvm.format.layout cimport (
    RNVM_PARTS_MAX, RNVM_OPERATION, rnvm_longest_record, rnvm_operation_ring_at, rnvm_part,
    rnvm_record, rnvm_record_crc, rnvm_record_fits, rnvm_ring_seed, rnvm_transaction_of, rnvm_up)
from rnvm.format.messages cimport (
    RNVM_ABSENT, RNVM_CLOSE, RNVM_GOOD, RNVM_PENDING, rnvm_after, rnvm_pending)
from rnvm.frontend.byte_buffer cimport buffer_truncate
from rnvm.frontend.log_writer cimport (
    in_doubt_clear, log_await_room, log_has_room, log_payload, log_room, logs_await_durable,
    logs_write, operation_log_is_long)
from rnvm.frontend.node_cache cimport cache_trim
from rnvm.frontend.promise cimport promise_allows, promise_reexecuted
from rnvm.frontend.remote cimport (
    link_set_deadline, remote_apply_logs, remote_ask, remote_call, remote_read, remote_wait,
    session_fail)
from rnvm.frontend.slab_allocator cimport slabs_begin
from rnvm.frontend.state cimport OPERATION_LOG, REDO_LOG, frontend, instance
from rnvm.frontend.status cimport AGAIN, ALIEN, FULL, LOST, NO_MEMORY, OK, TOO_LONG, TOO_MANY
from rnvm.frontend.status_line cimport status_line, status_read
from rnvm.frontend.version_root cimport version_touch
from rnvm.frontend.version_use cimport version_frozen_at, version_renew, version_unpublish
from rnvm.frontend.write_set cimport (
    operation_begin, undo_log_clear, write_set_add, write_set_stamp_and_encode, write_set_undo,
    write_set_written)
from rnvm.frontend.writer_lock cimport (
    lock_acquire, lock_acquire_kept, lock_confirm, lock_release, lock_release_kept, lock_validate,
    locks_confirm)


cdef enum:
    SPARE_SHARE = 64           # part of a record that an operation leaves to its re-execution


cdef int operation_execute(instance *s, uint32_t code, const char *bytes,
                           uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t mark, operations, before, spare = 0
    cdef bint last = False
    cdef int result, status = structure_acquire(s)
    if status == OK and fe.scope.batching and not fe.scope.transacting \
            and fe.write_set.record_bytes \
            and not log_has_room(fe, OPERATION_LOG, operation_bytes(length)):
        # The batch's own operations fill the ring; only their changes, once written, free space.
        status = transaction_commit(fe)
    in_doubt_clear(fe)                          # those records belong to other operations
    if status != OK:
        return status
    before = fe.write_set.record_bytes
    mark = fe.write_set.undo_count
    operations = s.operations
    s.operations += 1
    if s.kind.collect != NULL and not fe.scope.transacting:
        # If it is executed again, other nodes may be free: their slabs may take more of the record.
        spare = log_room(fe, REDO_LOG) // SPARE_SHARE
    result = TOO_LONG
    fe.scope.record_bytes = 0
    if sizeof(rnvm_record) + operation_bytes(length) \
            <= rnvm_longest_record(fe.log[OPERATION_LOG].size):
        result = apply_that_fits(s, code, bytes, length, spare)
    while s.kind.collect != NULL and (result == FULL or result == TOO_LONG) \
            and (not before or fe.scope.transacting):
        s.operations = operations
        result = collect_for(s, result)
        in_doubt_clear(fe)
        # The last resort needs no memory for copies; readers may begin again.  In a batch or a
        # transaction a snapshot of this session could read changes that are not written yet.
        last = result == FULL and s.frozen and not fe.scope.sparing and not (
            s.kept_count and (fe.scope.batching or fe.scope.transacting))
        if result != OK and not last:
            break
        mark = fe.write_set.undo_count
        s.operations += 1
        result = apply_that_fits(s, code, bytes, length, spare, last)
        if last:
            break
    if result < 0 and before and not fe.scope.transacting and may_succeed_alone(s, result):
        s.operations = operations
        status = transaction_commit(fe)
        if status == OK:
            return operation_execute(s, code, bytes, length)
        in_doubt_clear(fe)
        return status
    if result < 0 or fe.write_set.undo_count == mark:
        s.operations = operations               # nothing changed, nothing is logged
    elif not fe.scope.transacting:
        fe.scope.result = result
        status = promise_allows(fe)
        if status == OK:
            status = log_operation(s, code, bytes, length)
        if status == OK and fe.session.waits_until_applied:
            await_applied(fe)
        if status != OK:
            if fe.in_doubt.any:
                undo_log_clear(fe)              # it may count
            else:
                write_set_undo(fe, mark)
                s.operations = operations
            result = status
    if not fe.scope.batching and not fe.scope.transacting:
        structures_release(fe)
    cache_trim(fe)
    return result


# Acquire


cdef int structure_acquire(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int status
    if s.entered:
        return lock_validate(s)
    status = lock_acquire_kept(s)
    if status != OK:
        return status
    if s.holds:
        s.entered = True
        return OK
    if not fe.scope.transacting:
        # Never wait inside another structure (deadlock avoidance).  Its lock may be kept: the wait
        # gives it back if other front-ends request it (writer_lock.pyx).
        status = transaction_commit(fe)
        if status != OK:
            return status
        structures_release(fe)
    status = lock_acquire(s)
    if status != OK:
        return status
    s.entered = True
    if s.covered < s.operations:
        status = reexecute_pending(s)
        if status < 0:
            # With the lock kept, the next operation's record would cover the pending operations
            # that are left, and they would be lost.
            s.entered = False
            lock_release(s)
            if not fe.scope.transacting:
                structures_release(fe)
            return status
    return OK


cdef int reexecute_pending(instance *s) noexcept nogil:
    """Executes operations that are durable and that no redo record covers; their writer is dead.

    Each once, before any operation of ours, under the lock; its grant has said which they are.
    """
    cdef frontend *fe = s.fe
    cdef rnvm_pending pending
    cdef uint64_t upto = s.operations
    cdef int status = OK
    cdef char *record = <char *> malloc(rnvm_longest_record(fe.g.operation_ring))
    if record == NULL:
        return NO_MEMORY
    while status == OK and s.covered < upto:
        status = find_pending(s, &pending)
        if status == AGAIN:
            # A transaction without operations of its own had the numbers in between.
            s.covered = upto
            status = OK
            break
        if status == OK:
            status = read_pending(fe, &pending, <rnvm_record *> record)
        if status == OK:
            status = reexecute(s, &pending, record)
    s.operations = max(s.operations, upto)
    free(record)
    return status


cdef int find_pending(instance *s, rnvm_pending *pending) noexcept nogil:
    """The first pending operation after those that are covered; AGAIN: there is none."""
    cdef frontend *fe = s.fe
    cdef rnvm_after after
    cdef uint32_t got = 0
    cdef int status
    after.structure = s.id
    after.number = s.covered
    status = remote_call(fe, RNVM_PENDING, &after, sizeof(after), pending, sizeof(rnvm_pending),
                         &got)
    if status != OK:
        return status
    if fe.link.status == RNVM_ABSENT:
        return AGAIN
    if fe.link.status != RNVM_GOOD or got != sizeof(rnvm_pending) \
            or pending.session >= fe.g.sessions:
        return session_fail(fe, LOST)
    return OK


cdef int read_pending(frontend *fe, const rnvm_pending *pending,
                      rnvm_record *record) noexcept nogil:
    """Reads the record of a pending operation from its writer's operation log."""
    cdef uint64_t capacity = rnvm_longest_record(fe.g.operation_ring)
    cdef uint64_t ring = rnvm_operation_ring_at(&fe.g, pending.session)
    cdef uint64_t place = pending.lsn % fe.g.operation_ring, bytes
    cdef uint32_t seed = rnvm_ring_seed(fe.g.seed, ring)
    cdef int status = remote_read(fe, ring + place, record, sizeof(rnvm_record))
    if status != OK:
        return status
    if not rnvm_record_fits(record, pending.lsn, pending.epoch, fe.g.operation_ring - place,
                            capacity) or record.kind != RNVM_OPERATION:
        return session_fail(fe, LOST)
    status = remote_read(fe, ring + place + sizeof(rnvm_record), record + 1, record.payload)
    if status != OK:
        return status
    bytes = record.payload + sizeof(rnvm_record)
    if rnvm_record_crc(seed, record, record + 1) != record.crc or pending.at > bytes \
            or pending.length > bytes - pending.at:
        return session_fail(fe, LOST)
    return OK


cdef int reexecute(instance *s, const rnvm_pending *pending, const char *record) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef bint known
    cdef int status
    s.operations = pending.number
    status = apply_that_fits(s, pending.code, record + pending.at, pending.length, 0)
    while s.kind.collect != NULL and (status == FULL or status == TOO_LONG):
        s.operations = pending.number - 1       # the record of a collection does not cover it
        status = collect_for(s, status)
        s.operations = pending.number
        if status != OK:
            break
        status = apply_that_fits(s, pending.code, record + pending.at, pending.length, 0)
    if (status == FULL or status == TOO_LONG) and s.frozen:
        # Its writer may have been alone, and have needed no room for copies.
        status = apply_that_fits(s, pending.code, record + pending.at, pending.length, 0, True)
    known = status != ALIEN
    if not known:
        status = OK                             # it was never acknowledged: pass over it for good
    if status >= 0:
        # The redo record covers it, also if it changes nothing.
        status = write_set_add(s)
    if status >= 0 and s.kind.collect != NULL:
        status = version_touch(s)
    if status < 0:
        return status
    status = write_redo_record(fe)
    if status == OK:
        status = logs_await_durable(fe)
    if status != OK:
        if not fe.link.error:
            write_set_undo(fe, 0)               # nothing was written: the operation stays pending
        return status
    s.covered = pending.number
    status = promise_reexecuted(fe)
    if status != OK:
        return status
    if known:
        fe.stats.reexecuted += 1
    else:
        fe.stats.passed_over += 1
    return OK


# Collect


cdef int collect_for(instance *s, int lacking) noexcept nogil:
    """Frees listed nodes, so that an operation finds blocks (FULL) or room in a record (TOO_LONG).

    OK: apply it again.  Otherwise the same status, or that of a failure.
    """
    cdef int result
    if lacking == FULL:
        return collect_retired(s)
    # Apply frees nodes on its way, which takes a part of the record.
    if s.fe.scope.transacting and s.fe.write_set.record_bytes:
        return lacking
    result = collect_once(s)
    return lacking if result == OK else min(result, OK)


cdef int collect_retired(instance *s) noexcept nogil:
    """Blocks have run short: frees nodes of a multi-version structure that no reader uses.

    Then those of the oldest versions in use: their readers are given up.  FULL: there are none.
    """
    cdef frontend *fe = s.fe
    cdef uint64_t retained = s.retained
    cdef uint32_t attempt
    cdef int result, status
    for attempt in range(2):
        if attempt and (fe.scope.sparing or not may_help(s)):
            break
        status = version_renew(s, attempt != 0)
        if status != OK:
            return status
        if s.retained > retained:
            return OK                           # apply can use the memory of more nodes
        if fe.write_set.record_bytes:
            continue                            # of a transaction: written at its end
        result = collect_once(s)
        if result != OK:
            return min(result, OK)
    return FULL


cdef bint may_help(instance *s) noexcept nogil:
    """Whether the memory of earlier versions may contain the blocks that were lacking.

    Otherwise one long value would end all snapshots, and not be stored either.
    """
    operation_begin(s.fe)
    s.steps = 0
    s.error = AGAIN
    return s.fe.space.lacking <= 1 or s.kind.lists_row(s, s.fe.space.lacking, s.fe.g.block)


cdef int collect_once(instance *s) noexcept nogil:
    """Frees as many listed nodes as one record takes.  Above 0: there were some."""
    cdef frontend *fe = s.fe
    cdef uint64_t mark = fe.write_set.undo_count
    cdef int result, status
    operation_begin(fe)
    s.steps = s.fault_at = 0
    s.error = AGAIN
    result = s.kind.collect(s)
    if result >= 0 and fe.write_set.undo_count != mark and version_touch(s) != OK:
        result = s.error
    if result < 0:
        write_set_undo(fe, mark)
        return result
    if fe.write_set.undo_count == mark:
        return OK
    status = write_redo_record(fe)
    if status == OK:
        status = logs_await_durable(fe)
    if status != OK and not fe.in_doubt.any and not fe.link.error:
        write_set_undo(fe, mark)
    return 1 if status == OK else status


cdef int structure_collect(instance *s, uint64_t until) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t deadline = fe.link.deadline_ns
    cdef int result = transaction_commit(fe), freed = OK
    if result == OK:
        # Only the wait for the lock: a record must not be in doubt because of this limit.
        link_set_deadline(fe, min(until, deadline))
        result = structure_acquire(s)
        link_set_deadline(fe, deadline)
    if result != OK:
        return result
    result = 1
    while result > 0 and (not freed or rfp_now() < until):
        result = collect_once(s)
        freed = max(freed, result)
    in_doubt_clear(fe)
    structures_release(fe)
    cache_trim(fe)
    return freed if result >= OK else result


# Apply


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length,
               bint in_place=False) noexcept nogil:
    """Runs the structure's function: its result; below 0 all its changes are undone."""
    cdef frontend *fe = s.fe
    cdef uint64_t mark = fe.write_set.undo_count
    cdef int result
    operation_begin(fe)
    buffer_truncate(&fe.answer, 0)
    s.steps = s.fault_at = 0
    s.fetched = False
    s.error = AGAIN
    if s.kind.collect != NULL:
        s.frozen = 0 if in_place else version_frozen_at(s)
    result = s.kind.apply(s, code, bytes, length)
    if result >= 0 and s.kind.collect != NULL and fe.write_set.undo_count != mark \
            and version_touch(s) != OK:
        result = s.error
    # Changes outside a transaction are confirmed by their record.
    if result < 0 or fe.write_set.undo_count == mark or fe.scope.transacting:
        result = lock_confirm(s, result)
    if result < 0:
        write_set_undo(fe, mark)
    return result


cdef int apply_that_fits(instance *s, uint32_t code, const char *bytes,
                         uint32_t length, uint64_t spare,
                         bint in_place=False) noexcept nogil:
    """The same; TOO_LONG or TOO_MANY: all changes together do not fit into one record.

    spare: bytes of the record that must be left.
    """
    cdef frontend *fe = s.fe
    cdef uint64_t mark = fe.write_set.undo_count
    cdef int status, result = apply(s, code, bytes, length, in_place)
    if result < 0:
        return result
    status = fits_one_record(fe, spare)
    if status != OK:
        fe.scope.record_bytes = fe.write_set.record_bytes if status == TOO_LONG else 0
        write_set_undo(fe, mark)
    return result if status == OK else status


cdef inline int fits_one_record(const frontend *fe, uint64_t spare) noexcept nogil:
    """Whether the write set fits into one redo record: OK, TOO_LONG or TOO_MANY."""
    if fe.write_set.record_bytes + spare > log_room(fe, REDO_LOG):
        return TOO_LONG
    return TOO_MANY if fe.write_set.structures > RNVM_PARTS_MAX else OK


cdef bint may_succeed_alone(const instance *s, int result) noexcept nogil:
    """Whether an operation may succeed once the earlier changes of the batch are written."""
    if result == FULL:
        # Their blocks can be granted again then, or retired nodes be collected.
        return s.fe.write_set.returned.count != 0 or s.kind.collect != NULL
    return result == TOO_LONG or result == TOO_MANY


# Log


cdef inline uint32_t operation_bytes(uint32_t length) noexcept nogil:
    """The payload of an operation's record."""
    return <uint32_t> (sizeof(rnvm_part) + rnvm_up(length, 8))


cdef int log_operation(instance *s, uint32_t code, const char *bytes,
                       uint32_t length) noexcept nogil:
    """Writes the records that make the operation count."""
    cdef frontend *fe = s.fe
    cdef int status
    if not fe.session.logs_operations:
        status = write_redo_record(fe)
        return logs_await_durable(fe) if status == OK else status
    if not fe.scope.batching:
        return log_both(s, code, bytes, length)
    status = log_alone(s, code, bytes, length)
    if status == OK:
        undo_log_clear(fe)
        # A failure is reported by the batch's next operation or its end: this operation counts.
        if batch_is_long(fe):
            transaction_commit(fe)
    return status


cdef int log_both(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """The operation record, then the redo record: two WRITEs, one round trip."""
    cdef frontend *fe = s.fe
    cdef uint32_t redo_bytes
    cdef uint16_t parts = 0
    cdef int status = log_await_room(fe, OPERATION_LOG, operation_bytes(length))
    if status != OK:
        return status
    redo_bytes = write_set_stamp_and_encode(fe, log_payload(fe, REDO_LOG), log_room(fe, REDO_LOG),
                                            &parts)
    if not redo_bytes:
        return TOO_LONG
    status = log_await_room(fe, REDO_LOG, redo_bytes)
    if status != OK:
        return status
    encode_operation(s, code, bytes, length)
    status = logs_write(fe, operation_bytes(length), 1, redo_bytes, parts)
    if status == OK:
        write_set_written(fe)
        status = logs_await_durable(fe)
    return status


cdef int log_alone(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """In a batch: the operation record now, its changes later."""
    cdef frontend *fe = s.fe
    cdef int status = log_await_room(fe, OPERATION_LOG, operation_bytes(length))
    if status != OK:
        return status
    encode_operation(s, code, bytes, length)
    status = logs_write(fe, operation_bytes(length), 1, 0, 0)
    if status == OK:
        status = logs_await_durable(fe)
    return status


cdef void encode_operation(instance *s, uint32_t code, const char *bytes,
                           uint32_t length) noexcept nogil:
    cdef rnvm_part *part = <rnvm_part *> log_payload(s.fe, OPERATION_LOG)
    cdef char *end = <char *> (part + 1) + length
    memset(part, 0, sizeof(rnvm_part))
    part.structure = s.id
    part.code = code
    part.number = s.operations
    part.length = length
    if length:
        memcpy(part + 1, bytes, length)
    memset(end, 0, rnvm_up(length, 8) - length)


cdef bint batch_is_long(frontend *fe) noexcept nogil:
    """Whether a batch must be written now: its redo record grows long, or its operations fill the
    ring."""
    return fe.write_set.record_bytes * 2 > rnvm_longest_record(fe.log[REDO_LOG].size) \
        or operation_log_is_long(fe)


# Commit


cdef int write_redo_record(frontend *fe) noexcept nogil:
    """The whole write set as one record."""
    cdef uint16_t parts = 0
    cdef uint32_t length
    cdef int status
    if not fe.write_set.record_bytes:
        undo_log_clear(fe)
        return OK
    length = write_set_stamp_and_encode(fe, log_payload(fe, REDO_LOG), log_room(fe, REDO_LOG),
                                        &parts)
    if not length:
        return TOO_LONG
    status = log_await_room(fe, REDO_LOG, length)
    if status == OK:
        status = logs_write(fe, 0, 0, length, parts)
    if status == OK:
        write_set_written(fe)
    return status


cdef int transaction_commit(frontend *fe) noexcept nogil:
    cdef int status = write_redo_record(fe)
    if status == OK and fe.in_doubt.any:
        status = logs_await_durable(fe)
    elif status == OK and fe.scope.transacting:
        status = locks_confirm(fe)
    if status == OK and fe.session.waits_until_applied:
        await_applied(fe)               # the record counts, even if this cannot learn when it shows
    return status


cdef int await_applied(frontend *fe) noexcept nogil:
    """For a front-end without a cache: waits until the back-end has applied its records."""
    cdef instance *s
    cdef status_line seen
    cdef uint64_t pause
    cdef uint32_t i
    cdef int status
    for i in range(fe.open.count):
        s = fe.open.items[i]
        pause = 0
        while s.applied < s.number:
            status = status_read(s, &seen)
            if status == OK and rnvm_transaction_of(seen.sequence) < s.number:
                status = remote_apply_logs(fe)
                if status == OK:
                    status = remote_wait(fe, &pause)
            elif status == OK:
                s.applied = s.number
            if status != OK:
                return status
    return OK


# Release


cdef void structures_release(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    if fe.write_set.record_bytes and not fe.link.error:
        # Changes of acknowledged operations are not written.  Others would change the same nodes
        # and never see them.
        session_fail(fe, LOST)
    for i in range(fe.open.count):
        s = fe.open.items[i]
        if s.entered:
            s.entered = False
            lock_release_kept(s)


cdef int locks_return(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    cdef int status = transaction_commit(fe)
    for i in range(fe.open.count):
        if status == OK:
            s = fe.open.items[i]
            s.entered = False
            status = lock_release(s)
    return status


# The first and the last of a structure


cdef int structure_begin(instance *s, uint64_t blocks) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int status = structure_acquire(s)
    if status == OK and s.number == 0:
        operation_begin(fe)
        status = slabs_begin(s, blocks)
        if status == OK and s.kind.collect != NULL:
            status = version_touch(s)
        if status == OK:
            status = transaction_commit(fe)
        if status != OK and not fe.link.error:
            write_set_undo(fe, 0)
    if not fe.scope.batching and not fe.scope.transacting:
        structures_release(fe)
    return status


cdef bint structure_close(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if fe.scope.transacting and s.entered:
        return False
    if s.touched and not fe.link.error and transaction_commit(fe) != OK and not fe.link.error:
        session_fail(fe, LOST)          # as in structures_release()
    s.entered = False
    lock_release(s)
    if s.touched:
        return False
    if s.kind.collect != NULL and s.id and not fe.link.error and not is_open_again(s):
        # Its snapshots had it as their source: none of them is used any more.
        s.kept_count = 0
        version_unpublish(s)
        remote_ask(fe, RNVM_CLOSE, s.id)
    return True


cdef bint is_open_again(const instance *s) noexcept nogil:
    """Whether this session has another instance of the same structure."""
    cdef const instance *other
    cdef uint32_t i
    for i in range(s.fe.open.count):
        other = s.fe.open.items[i]
        if other != s and other.id == s.id:
            return True
    return False

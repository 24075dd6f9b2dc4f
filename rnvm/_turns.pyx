# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How operations and queries begin and end (the contract is in _turns.pxd)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from rfp._core cimport rfp_fence_full, rfp_load64, rfp_load64_acquire, rfp_now, rfp_pause, rfp_store64_release
from rfp._fabric cimport READ, WRITE, local_region, remote_region, work_request
from rfp.protocol._client_ring cimport DONE, TIMED_OUT
from rfp.protocol._transfers cimport client_ring_transfers
from rnvm._cache cimport cache_forget
from rnvm._changes cimport change_touch, changes_keep, changes_record, changes_undo, changes_written
from rnvm._front cimport frontend, instance
from rnvm._journal cimport (
    journal_hear, journal_payload, journal_room, journal_settle, journal_trust, journal_wait, journal_write)
from rnvm._layout cimport (
    RNVM_NAME_LIVE, RNVM_OPERATION, rnvm_memory_ring_at, rnvm_name_at, rnvm_operation_ring_at, rnvm_part,
    rnvm_record, rnvm_record_crc, rnvm_record_fits, rnvm_ring_seed, rnvm_up, rnvm_longest_record)
from rnvm._messages cimport *
from rnvm._remote cimport remote_ask, remote_call, remote_patience, remote_place, remote_read
from rnvm._slabs cimport slabs_begin
from rnvm._structure cimport AGAIN, DAMAGED, FENCED, LATE, LOST, NO_MEMORY, OK, TOO_LONG

cdef enum:
    REVOKE = 1                 # words of a structure's line
    SPARE = 2
    LOOKS = 128                # whether a lock was granted, before it is asked for again
    RESTARTS = 8               # of a query, before it takes the lock
    HEED = 200000              # ns between two looks whether somebody else wants a lock, over a network
    SPINS = 1000               # looks at a sequence that is odd


cdef struct line:              # of live words, as layout.h has it
    uint64_t sequence
    uint64_t revoke
    uint64_t holder
    uint64_t replayed
    uint64_t orphans
    uint64_t rest[3]


cdef inline uint64_t line_at(const instance *s) noexcept nogil:
    return rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE


cdef int look(instance *s, line *seen) noexcept nogil:
    """The structure's line, its sequence last: it is not older than what the other words say."""
    cdef frontend *fe = s.fe
    cdef local_region here
    cdef work_request[2] works
    cdef remote_region *region = NULL
    cdef uint64_t place = 0, size = 0
    cdef const char *at
    cdef int found, i
    if fe.trouble:
        return fe.trouble
    if fe.near:
        at = fe.pool.base + line_at(s)
        seen.revoke = rfp_load64_acquire(at + 8 * REVOKE)
        seen.holder = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_HOLDER))
        seen.replayed = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_REPLAYED))
        seen.orphans = rfp_load64_acquire(at + 8 * (SPARE + RNVM_LIVE_ORPHANS))
        seen.sequence = rfp_load64_acquire(at)
        return OK
    # Two READs in order, one round trip: the other words of the first, the sequence of the second.
    fe.reads += 2
    found = remote_place(fe, line_at(s), sizeof(line), &region, &place, &size)
    if found != OK:
        return found
    here = fe.buffer[0]
    for i in range(2):
        works[i].opcode = READ
        works[i].local = &here
        works[i].local_offset = fe.landing + 64 * i
        works[i].remote = region
        works[i].remote_offset = place
        works[i].length = sizeof(line)
    found = client_ring_transfers(fe.ring, works, 2, fe.deadline)
    if found != DONE:
        if found == TIMED_OUT:
            return LATE
        fe.trouble = LOST
        return LOST
    memcpy(seen, fe.buffer.base + fe.landing, sizeof(line))
    memcpy(&seen.sequence, fe.buffer.base + fe.landing + 64, sizeof(uint64_t))
    return OK


# Locks


cdef int say(instance *s, uint64_t inside) noexcept nogil:
    """Tells the back-end whether we are inside an operation of this structure."""
    cdef frontend *fe = s.fe
    cdef work_request work
    cdef int found
    fe.turns += 2
    inside |= fe.turns
    if fe.near:
        rfp_store64_release(fe.desk.base + 8 * <uint64_t> s.index, inside)
        return OK
    work.opcode = WRITE
    work.local = fe.buffer
    work.local_offset = fe.landing + 128
    work.remote = fe.desk
    work.remote_offset = 8 * <uint64_t> s.index
    work.length = 8
    memcpy(fe.buffer.base + work.local_offset, &inside, 8)
    fe.writes += 1
    found = client_ring_transfers(fe.ring, &work, 1, fe.deadline)
    if found == DONE:
        return OK
    if found == TIMED_OUT:
        return LATE
    fe.trouble = LOST
    return LOST


cdef bint still_ours(instance *s) noexcept nogil:
    """After say(): whether the lock is ours, and will be until we say that we are out."""
    cdef const char *at = s.fe.pool.base + line_at(s)
    rfp_fence_full()
    # In this order: once a lock was asked back and taken, its holder changes first, and only then nobody asks for it any more.
    return rfp_load64_acquire(at + 8 * REVOKE) != s.word >> 16 and rfp_load64(at + 8 * (SPARE + RNVM_LIVE_HOLDER)) == s.word


cdef void take_over(instance *s, const rnvm_locked *locked) noexcept nogil:
    """The lock was granted: what others did meanwhile shows."""
    s.holds = True
    s.word = locked.word
    if 2 * locked.number != s.seen:
        s.generation += 1
        s.seen = 2 * locked.number
    s.number = s.applied = locked.number
    s.operations = locked.operations
    s.covered = locked.covered


cdef int acquire(instance *s) noexcept nogil:
    """The writer lock; granted at once, or when its holder is outside and those before us had it."""
    cdef frontend *fe = s.fe
    cdef rnvm_locked locked
    cdef line seen
    cdef uint64_t pause, asked, id = s.id
    cdef uint32_t got = 0, looks
    cdef int found
    s.holds = False
    while True:
        asked = rfp_now()
        found = remote_call(fe, RNVM_ACQUIRE, &id, sizeof(id), &locked, sizeof(locked), &got)
        if found != OK:
            return found
        if fe.refusal == RNVM_GOOD and got == sizeof(locked):
            found = say(s, 1)
            if found != OK:
                return found
            s.word = locked.word
            if not fe.near:
                # Asked for back before we said that we are inside?
                found = look(s, &seen)
                if found != OK:
                    return found
                if seen.holder == s.word and seen.revoke != s.word >> 16:
                    s.looked = asked
                    take_over(s, &locked)
                    return OK
            elif still_ours(s):
                take_over(s, &locked)
                return OK
            say(s, 0)
            continue
        if fe.refusal != RNVM_QUEUED:
            fe.trouble = LOST
            return LOST
        pause = 0
        for looks in range(LOOKS):
            found = look(s, &seen)
            if found != OK:
                break
            if seen.holder and (seen.holder & 0xffff) == fe.session + 1:
                break
            found = remote_patience(fe, &pause)
            if found != OK:
                break
        if found != OK:
            if not fe.trouble:
                remote_ask(fe, RNVM_LEAVE, s.id)
            return found


cdef int run_again(instance *s) noexcept nogil:
    """Operations of a dead writer that are durable and in no transaction: each once, before anything of ours."""
    cdef frontend *fe = s.fe
    cdef rnvm_after after
    cdef rnvm_pending pending
    cdef uint64_t upto = s.operations, at, seed, capacity = rnvm_longest_record(fe.g.operation_ring)
    cdef uint32_t got = 0
    cdef rnvm_record *record
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
            break                               # a transaction without operations of its own had the numbers between
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
        found = do(s, pending.code, buffer + pending.at, pending.length)
        if found >= 0:
            found = change_touch(s)             # the transaction says that it was executed, also where that changed nothing
        if found < 0:
            break
        found = write_transaction(fe)
        if found == OK:
            found = journal_settle(fe)
        if found != OK:
            break
        s.covered = pending.number
        fe.executed_again += 1
    s.operations = max(s.operations, upto)
    free(buffer)
    return found


cdef int heed(instance *s) noexcept nogil:
    """Over a network we say that we are inside for as long as we have the lock.  Here it goes back, if somebody waits for it."""
    cdef line seen
    cdef uint64_t now = rfp_now()
    cdef int found = look(s, &seen)
    if found != OK:
        return found
    s.looked = now
    if seen.holder == s.word and seen.revoke != s.word >> 16:
        return OK
    s.holds = False
    found = say(s, 0)
    return remote_ask(s.fe, RNVM_LEAVE, s.id) if found == OK else found


cdef int look_now_and_then(instance *s) noexcept nogil:
    """Over a network: s.holds is right for half a lease, since the lock is not taken away before a whole one has passed after we
    last saw that nobody wants it."""
    return heed(s) if rfp_now() - s.looked > s.fe.lease // 2 else OK


cdef int enter(instance *s) noexcept nogil:
    """The writer lock for what follows."""
    cdef frontend *fe = s.fe
    cdef int found
    if s.entered:
        return OK
    if fe.trouble:
        return fe.trouble
    if s.holds and not fe.near:
        found = look_now_and_then(s)
        if found != OK:
            return found
        if s.holds:
            s.entered = True
            return OK
    if s.holds:
        say(s, 1)
        if still_ours(s):
            s.entered = True
            return OK
        say(s, 0)
    if not fe.transacting:
        # Whoever waits for one lock keeps no other that somebody may wait for.
        found = turn_commit(fe)
        if found != OK:
            return found
        turn_leave(fe)
    found = acquire(s)
    if found != OK:
        return found
    s.entered = True
    if s.covered < s.operations:
        found = run_again(s)
        if found < 0:
            if not fe.transacting:
                turn_leave(fe)
            return found
    return OK


cdef int turn_enter(instance *s) noexcept nogil:
    return enter(s)


cdef void turn_leave(frontend *fe) noexcept nogil:
    """What was entered is left: the locks are kept, unless others wait for them."""
    cdef instance *s
    cdef uint32_t i
    for i in range(fe.instance_count):
        s = fe.instances[i]
        if not s.entered:
            continue
        s.entered = False
        if fe.trouble:
            continue
        if not fe.sticky:
            s.holds = False
            say(s, 0)
            remote_ask(fe, RNVM_LEAVE, s.id)
        elif fe.near:
            say(s, 0)
        elif rfp_now() - s.looked > HEED:
            heed(s)


cdef int turn_release(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    cdef int found = OK
    for i in range(fe.instance_count):
        s = fe.instances[i]
        if s.holds and not fe.trouble and found == OK:
            s.holds = False
            found = say(s, 0)
            if found == OK:
                found = remote_ask(fe, RNVM_LEAVE, s.id)
    return found


# Operations


cdef int do(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    """One operation on the nodes here: what apply answered; below 0 nothing of it is left."""
    cdef frontend *fe = s.fe
    cdef uint64_t mark = fe.undo_count
    cdef int found
    fe.operation += 1
    fe.answer_length = 0
    s.steps = 0
    s.fetched = False
    s.error = AGAIN
    found = s.kind.apply(s, code, bytes, length)
    if found < 0:
        changes_undo(fe, mark)
        return settled(s, found)
    return found


cdef int write_transaction(frontend *fe) noexcept nogil:
    """What was changed, as one record of the memory log."""
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


cdef int have_applied(frontend *fe) noexcept nogil:
    """What is whole in anybody's log is applied when this returns OK."""
    cdef int found = remote_ask(fe, RNVM_APPLY, 0)
    if found == OK and fe.refusal != RNVM_GOOD:
        fe.trouble = LOST
    return fe.trouble if fe.trouble else found


cdef int wait_applied(frontend *fe) noexcept nogil:
    """Without anything kept here: until the back-end has applied what was written."""
    cdef line seen
    cdef uint64_t pause
    cdef uint32_t i
    cdef int found
    for i in range(fe.instance_count):
        pause = 0
        while fe.instances[i].applied < fe.instances[i].number:
            found = look(fe.instances[i], &seen)
            if found == OK and seen.sequence // 2 < fe.instances[i].number:
                found = have_applied(fe)
                if found == OK:
                    found = remote_patience(fe, &pause)
            elif found == OK:
                fe.instances[i].applied = fe.instances[i].number
            if found != OK:
                return found
    return OK


cdef int turn_commit(frontend *fe) noexcept nogil:
    cdef int found = write_transaction(fe)
    if found == OK and fe.doubt.any:
        found = journal_settle(fe)
    if found == OK and fe.applied:
        wait_applied(fe)                        # it holds, also where nobody can say when it shows
    return found


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
    # On a disk a second record is a second page to write, and alone the transaction's says as much.
    if not fe.oplog or not fe.direct and not fe.batching:
        found = write_transaction(fe)
        return journal_settle(fe) if found == OK else found
    if not fe.batching:
        return log_both(s, code, bytes, length)
    found = log_alone(s, code, bytes, length)
    if found == OK:
        changes_keep(fe)
        # Should that fail, what comes next in the batch or its end says so.  This operation holds.
        if long_batch(fe):
            turn_commit(fe)
    return found


cdef int turn_execute(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t mark, operations, before
    cdef int result, found = enter(s)
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
        result = do(s, code, bytes, length)
    if result >= 0 and fe.volume > journal_room(&fe.memory):
        changes_undo(fe, mark)
        result = TOO_LONG
    if result == TOO_LONG and before and not fe.transacting:
        # Once more without what the batch has changed before.
        s.operations = operations
        found = turn_commit(fe)
        if found == OK:
            return turn_execute(s, code, bytes, length)
        journal_trust(fe)
        return found
    if result < 0 or fe.undo_count == mark:
        s.operations = operations               # nothing happened, nothing is logged
    elif not fe.transacting:
        fe.result = result
        found = log_operation(s, code, bytes, length)
        if found == OK and fe.applied:
            wait_applied(fe)
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


# Queries


cdef int pending(instance *s, const line *seen, bint *found) noexcept nogil:
    """Whether the holder has written what is not applied yet: the header of the next record in its ring tells."""
    cdef frontend *fe = s.fe
    cdef rnvm_record record
    cdef uint64_t lsn = seen.replayed, size = fe.g.memory_ring
    cdef uint64_t session = (seen.holder & 0xffff) - 1
    cdef int outcome
    if session >= fe.g.sessions:
        found[0] = True
        return OK
    outcome = remote_read(fe, rnvm_memory_ring_at(&fe.g, <uint32_t> session) + lsn % size, &record, sizeof(record))
    found[0] = record.lsn >= lsn and record.lsn - lsn < 4 * size
    return outcome


cdef int run(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    s.fe.answer_length = 0
    s.steps = 0
    s.fetched = False
    s.error = AGAIN
    return ask(s, context)


cdef int settled(instance *s, int found) noexcept nogil:
    """What came of reading under the lock.  Who was stopped for longer than a lease may have lost it meanwhile: then what was
    fetched is of different moments."""
    cdef frontend *fe = s.fe
    cdef line seen
    cdef int outcome
    if found != AGAIN and (not s.fetched or not fe.near and rfp_now() - s.looked <= fe.lease):
        return found
    outcome = look(s, &seen)
    if outcome == OK and seen.holder != s.word:
        outcome = fe.trouble = FENCED
    if outcome != OK:
        return outcome
    return DAMAGED if found == AGAIN else found


cdef int turn_alone(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef bint was = s.entered
    cdef int found = enter(s)
    if found != OK:
        return found
    found = settled(s, run(s, ask, context))
    if not was and not fe.batching and not fe.transacting:
        turn_leave(fe)
        cache_forget(fe)
    return found


cdef int turn_query(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef line seen, after
    cdef bint waiting = False
    cdef uint32_t restarts = 0, spins = 0
    cdef uint64_t pause = 0
    cdef int found
    if s.entered:
        return turn_alone(s, ask, context)
    if s.holds and not fe.near:
        found = look_now_and_then(s)
        if found != OK:
            return found
        if s.holds:
            return turn_alone(s, ask, context)
    if s.holds:
        say(s, 1)
        if still_ours(s):
            s.entered = True
            found = settled(s, run(s, ask, context))
            if not fe.batching and not fe.transacting:
                turn_leave(fe)
                cache_forget(fe)
            return found
        say(s, 0)
        s.holds = False
    while restarts < RESTARTS:
        found = look(s, &seen)
        if found != OK:
            return found
        if seen.orphans:
            break                               # a dead writer's operations: only who has the lock may execute them
        if seen.sequence & 1:
            spins += 1
            rfp_pause()
            if spins % SPINS == 0:
                found = remote_patience(fe, &pause)
                if found != OK:
                    return found
            continue
        if seen.holder:
            found = pending(s, &seen, &waiting)
            if found == OK and waiting:
                # Somebody may have been told already that it is done.
                found = have_applied(fe)
            if found == OK:
                found = look(s, &seen)
            if found != OK:
                return found
            if seen.sequence & 1:
                continue
        if seen.sequence != s.seen:
            s.seen = seen.sequence
            s.generation += 1
        found = run(s, ask, context)
        if not s.fetched and found >= 0:
            cache_forget(fe)
            return found
        if fe.trouble:
            return fe.trouble
        if found == LATE or found == NO_MEMORY:
            return found
        if look(s, &after) != OK:
            return fe.trouble if fe.trouble else LATE
        if after.sequence == seen.sequence and found >= 0:
            cache_forget(fe)
            return found
        # What was fetched may be of different moments.
        s.generation += 1
        restarts += 1
        fe.restarts += 1
    return turn_alone(s, ask, context)


cdef int turn_begin(instance *s, uint64_t blocks) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef int found = enter(s)
    if found == OK and s.number == 0:
        fe.operation += 1
        found = slabs_begin(s, blocks)
        if found == OK:
            found = turn_commit(fe)
        else:
            changes_undo(fe, 0)
    if not fe.batching and not fe.transacting:
        turn_leave(fe)
    return found


cdef void turn_settle(instance *s) noexcept nogil:
    cdef frontend *fe = s.fe
    if not fe.trouble and s.touched and not fe.transacting:
        turn_commit(fe)
    s.entered = False
    if s.holds and not fe.trouble:
        s.holds = False
        if say(s, 0) == OK:
            remote_ask(fe, RNVM_LEAVE, s.id)

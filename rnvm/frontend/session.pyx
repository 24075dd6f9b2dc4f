# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A front-end's session at its back-end: begun, lost, begun anew (the contract is in _attachment.pxd)."""

import time

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_now
from rfp.fabric.fabric cimport REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE
from rfp.fabric.shm.region cimport ShmFabric
from rfp.protocol.client.client_base cimport born, seconds_of
from rfp.protocol.client.client_ring cimport FETCH
from rnvm.format.layout cimport (
    RNVM_HEADERS, RNVM_MAJOR, RNVM_PAGE, RNVM_PARTS_MAX, rnvm_geometry_of, rnvm_header,
    rnvm_longest_record, rnvm_memory_ring_at, rnvm_operation_ring_at, rnvm_ring_seed,
    rnvm_session_at, rnvm_up,
)
from rnvm.format.messages cimport *
from rnvm.frontend.status cimport AGAIN, DAMAGED, FENCED, FULL, GONE, LATE, LOST, NO_MEMORY, OK, STOPPED, TOO_LONG, TOO_MANY
from rnvm.frontend._baton cimport Baton
from rnvm.frontend.node_cache cimport cache_clear
from rnvm.frontend.write_set cimport changes_abandon, changes_undo
from rnvm.frontend.state cimport WATCH, doubt, instance, journal
from rnvm.frontend.log_writer cimport journal_trust
from rnvm.frontend.log_overlay cimport overlay_clear, overlay_free
from rnvm.frontend.remote cimport remote_call, remote_read
from rnvm.frontend._transaction cimport transaction_commit
from rnvm.frontend._turns cimport turn_leave, turn_settle
from rnvm.media.pool_header cimport header_whole

from rfp.core.forks import notice
from rfp.errors import (
    CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, NotFound,
    OutcomeUnknown, OutOfMemory, QuotaExceeded, StorageFailed, StructureDamaged, TooLarge, WrongKind)

cdef enum:
    LANDING = 65536            # bytes that one READ brings at most where memory must be registered

# Whoever begins a call so long (seconds) after the back-end was seen alive sees a state that is not older than its death.  A new
# back-end waits longer than that before it serves.
DEATH = 2 * WATCH / 1e9

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.1
FIRST_ATTEMPT = 1.0            # seconds that one to connect again may take; twice as much after each that took them all


def unknown(address):
    return OutcomeUnknown(f"the session at {address} was lost after all had been written",
                          hint="it may or may not have happened: look, then decide")


@cython.no_gc_clear                     # structures still need it when they go
cdef class Attachment:
    """What a front-end and its back-end have between them, and how each call begins and ends."""

    def __cinit__(self, *arguments, **options):
        memset(&self.c, 0, sizeof(self.c))
        self.c.owner = <void *> self
        self.baton = Baton.__new__(Baton)
        self.is_closed = True

    def __dealloc__(self):
        cdef uint32_t i
        cache_clear(&self.c, NULL)
        for i in range(self.c.instance_count):
            overlay_free(self.c.instances[i])
            free(self.c.instances[i])
        free(self.c.buckets)
        free(self.c.nodes)
        free(self.c.undone)
        free(self.c.before)
        free(self.c.taken.items)
        free(self.c.returned.items)
        free(self.c.granted.items)
        free(self.c.answer)
        free(self.c.instances)

    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer, uint32_t capacity,
                  uint32_t *got) noexcept:
        """Without the GIL: the back-end may be in this very process."""
        cdef int found
        with nogil:
            found = remote_call(&self.c, opcode, question, n, answer, capacity, got)
        return found

    # The session

    cdef int begin(self, uint64_t deadline) except -1:
        """A session at the back-end."""
        cdef rnvm_attach question
        cdef rnvm_attached answer
        cdef uint32_t got = 0
        cdef int found
        self.link = self.opener(deadline)
        self.channel = self.link.attach(deadline)
        self.c.ring = self.channel.c.rings[0]
        self.c.ring.paradigm = FETCH
        self.c.trouble = 0
        self.c.near = type(self.link.fabric) is ShmFabric and not self.channel.rings[0].pair.emulated
        self.c.desk = self.channel.c.staging
        memset(&question, 0, sizeof(question))
        question.version = RNVM_MESSAGES
        memcpy(question.pool, self.uuid, sizeof(self.uuid))
        question.previous = self.previous
        question.ticket = self.ticket
        question.flags = (RNVM_WAITS if self.c.persistent else 0) | (RNVM_MAPS if self.c.near else 0)
        found = self.call(RNVM_ATTACH, &question, sizeof(question), &answer, sizeof(answer), &got)
        self.raise_for(found)
        if self.c.refusal == RNVM_STOPPED:
            raise StorageFailed("the pool's medium has failed or its file was removed, and its back-end has stopped",
                                hint="look at both, then start the back-end again: it recovers the pool")
        if self.c.refusal == RNVM_NO_SESSION_LEFT:
            raise QuotaExceeded("all front-ends that this pool was made for are connected", hint="rnvm create --front-ends")
        if self.c.refusal == RNVM_TOO_MANY:
            raise QuotaExceeded("this process has as many front-ends of this pool as one process may have",
                                hint="close some; or a pool for more of them: rnvm create --front-ends")
        if self.c.refusal == RNVM_OTHER_POOL:
            raise HandshakeFailed(f"{self.address} serves another pool now than the one that this front-end was connected to",
                                  hint="connect again, if that pool is the one that is wanted")
        if self.c.refusal == RNVM_OTHER_VERSION:
            raise HandshakeFailed("the back-end speaks another version of the pool's messages",
                                  hint="are both of the same release?")
        if self.c.refusal != RNVM_GOOD or got != sizeof(answer) or self.c.desk == NULL:
            raise HandshakeFailed("the back-end does not answer as one", hint="are both of the same release?")
        # Should what follows fail, the next attempt gives this session back.
        self.previous = self.c.session = answer.session
        self.ticket = answer.ticket
        memcpy(self.uuid, answer.pool, sizeof(self.uuid))
        self.c.epoch = answer.epoch
        self.c.lease = answer.lease
        self.c.oplog = self.oplog and answer.flags & RNVM_LAST == 0
        self.c.direct = answer.flags & RNVM_DIRECT != 0
        # Nothing that it maps shows that the back-end is dead: of a copy of a file nothing changes any more, and the file itself
        # may have been replaced.  A device refuses to READ what has gone.
        self.c.watches = not self.c.ring.pair.needs_registration
        self.c.alive = rfp_now()
        self.c.flushed = answer.flags & RNVM_FLUSHED != 0
        self.forgetful = answer.flags & RNVM_FORGETFUL
        self.pool = self.link.arenas[0]
        if self.pool is None:
            raise HandshakeFailed("the back-end shares no pool", hint="are both of the same release?")
        self.link.map_chunks(0, 0, 1, deadline)
        self.logs = self.link.memory(answer.ticket, REMOTE_WRITE, deadline, files=True)
        self.c.arena = &self.pool.c
        self.c.pool = self.pool.c.chunks[0]
        self.c.logs = &self.logs.c
        if self.swapping:
            self.words = self.link.memory(RNVM_LOCK_WORDS, REMOTE_ATOMIC | REMOTE_READ, deadline)
            self.c.words = &self.words.c
        self.take_geometry(answer.size)
        self.begin_journal(&self.c.operations, rnvm_operation_ring_at(&self.c.g, answer.session), 0, self.c.g.operation_ring,
                           answer.operations)
        self.begin_journal(&self.c.memory, rnvm_memory_ring_at(&self.c.g, answer.session), self.c.g.operation_ring,
                           self.c.g.memory_ring,
                           answer.memory)
        return 0

    cdef int begin_patiently(self) except -1:
        """The first session: a back-end that is being started, or started again, may be there before the deadline."""
        cdef double pause = FIRST_PAUSE
        reason = None
        while True:
            try:
                return self.begin(self.c.deadline)
            except DeadlineExceeded:
                if reason is None:
                    raise
                raise reason from None          # says more than that the last attempt had little time left
            except (ConnectionFailed, QuotaExceeded) as error:
                self.end()
                reason = error
                # One session or the other may be given back by then; this process's own are not by waiting.
                if isinstance(error, HandshakeFailed) or isinstance(error, QuotaExceeded) and self.c.refusal == RNVM_TOO_MANY \
                        or not self.reconnect or (<double> self.c.deadline - <double> rfp_now()) / 1e9 <= pause:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def reach(self, uint64_t offset, uint64_t length):
        """Attaches what is missing of a range of the pool, within the time of the call under way."""
        self.link.map_chunks(0, offset, length, self.c.deadline)

    cdef int take_geometry(self, uint64_t size) except -1:
        """Where everything stands in the pool, by its own header, and our buffer for records."""
        cdef rnvm_header header
        cdef uint64_t longest, each
        cdef int found
        self.c.near, near = False, self.c.near
        # Before there is a geometry nothing says what READs may reach: the region's own bounds do.
        self.c.landing = 0
        self.c.landing_length = RNVM_PAGE
        self.buffer = self.link.fabric.register(RNVM_PAGE, 0)
        self.c.buffer = &self.buffer.c
        with nogil:
            found = remote_read(&self.c, RNVM_HEADERS, &header, sizeof(header))
            if found == OK and not header_whole(&header):
                found = remote_read(&self.c, RNVM_HEADERS + RNVM_PAGE, &header, sizeof(header))
        self.raise_for(found)
        if not header_whole(&header) or header.major != RNVM_MAJOR or not rnvm_geometry_of(&header, size, &self.c.g) \
                or self.pool.c.length < size or self.logs.c.length != self.c.g.rings \
                or self.words is not None and self.words.c.length < 8 * <uint64_t> self.c.g.names \
                or self.c.pool.length < (size if near else rnvm_session_at(&self.c.g, self.c.g.sessions)):
            raise HandshakeFailed("the back-end's pool is not one that this version understands",
                                  hint="are both of the same release?")
        self.buffer.close()
        self.c.near = near
        self.c.operations.staging = 0
        each = rnvm_up(rnvm_longest_record(self.c.g.operation_ring) + 64, 64)
        self.c.memory.staging = each
        longest = each + rnvm_up(rnvm_longest_record(self.c.g.memory_ring) + 64, 64)
        self.c.landing = longest
        self.c.landing_length = LANDING
        self.buffer = self.link.fabric.register(longest + LANDING, 0)
        self.c.buffer = &self.buffer.c
        return 0

    cdef int begin_journal(self, journal *j, uint64_t at, uint64_t offset, uint64_t size, uint64_t tail) except -1:
        j.at = at
        j.offset = offset
        j.size = size
        j.seed = rnvm_ring_seed(self.c.g.seed, at)
        j.head = j.durable = j.tail = tail
        return 0

    cdef int end(self) except -1:
        """Gives everything of the connection back."""
        self.c.trouble = self.c.trouble or LOST
        if self.link is not None:
            self.link.close()
            self.link = None
        if self.buffer is not None:
            self.buffer.close()
            self.buffer = None
        return 0

    cdef int forget_session(self) except -1:
        """Nothing that was known of the pool holds any more."""
        cdef instance *s
        cdef uint32_t i
        changes_abandon(&self.c)
        journal_trust(&self.c)
        cache_clear(&self.c, NULL)
        self.c.granted.count = 0
        for i in range(self.c.instance_count):
            s = self.c.instances[i]
            s.holds = s.entered = False
            s.generation += 1
            s.seen = 1                          # no sequence that is ever looked for
            overlay_clear(s)
            s.number = s.applied = s.operations = s.covered = s.word = s.left = 0
        return 0

    cdef int connect_again(self) except -1:
        """A new session, before the deadline of the call; structures are found again by their names."""
        cdef uint64_t deadline = self.c.deadline
        cdef double pause = FIRST_PAUSE, attempt = FIRST_ATTEMPT
        if not self.reconnect:
            raise ConnectionFailed(f"the session at {self.address} was lost", hint="connect again, or use reconnect=True")
        reason = None
        self.broken = self.c.transacting
        self.forget_session()
        self.end()
        while True:
            if self.is_closed:
                raise Closed("this front-end was closed")
            try:
                self.begin(min(deadline, rfp_now() + <uint64_t> (attempt * 1e9)))
                if self.is_closed:
                    raise Closed("this front-end was closed")
                for structure in list(self.structures.values()):
                    try:
                        structure._reopen()
                    except (NotFound, WrongKind):
                        pass                    # it was dropped: that concerns only who uses it, whose calls say so
                return 0
            except (ConnectionFailed, DeadlineExceeded, QuotaExceeded, StorageFailed) as error:
                self.end()
                if isinstance(error, HandshakeFailed):
                    raise
                if isinstance(error, DeadlineExceeded):
                    attempt *= 2                # what is there may be slow
                if reason is None or not isinstance(error, DeadlineExceeded):
                    reason = error              # says more than that the last attempt had little time left
                if (<double> deadline - <double> rfp_now()) / 1e9 <= pause:
                    raise ConnectionFailed(f"the session at {self.address} was lost, and not made anew before the deadline: "
                                           f"{reason}",
                                           hint="give the call more timeout; is the back-end running?") from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    cdef int unless_lost(self) except -1:
        """In the handler of a ConnectionFailed of what can be asked again: raises it, unless a new session may help."""
        if not self.c.trouble or rfp_now() >= self.c.deadline:
            raise

    cdef int outcome(self, uint32_t session, uint64_t epoch, uint64_t ticket, const doubt *written) except -1:
        """Whether what an earlier session of ours wrote last counts; if it does not, it never will.

        An operation whose record counts is done, also where that of what it changed does not: it is executed again.
        """
        cdef rnvm_outcome question
        cdef int ring, found
        memset(&question, 0, sizeof(question))
        question.session = session
        question.epoch = epoch
        question.ticket = ticket
        for ring in range(2):
            if not written.written[ring]:
                continue
            question.ring = ring
            question.lsn = written.lsn[ring]
            found = self.call(RNVM_OUTCOME, &question, sizeof(question), NULL, 0, NULL)
            if found == OK and self.c.refusal == RNVM_GOOD:
                return True
            if found != OK or self.c.refusal != RNVM_ABSENT:
                raise unknown(self.address)
        return False

    def interrupt(self, error):
        """What a signal handler raised while a call waits: the call raises it."""
        self.interruption = error

    # Calls

    cdef int enter(self, object timeout) except -1:
        cdef double seconds = self.timeout
        cdef uint64_t now = rfp_now()
        if timeout is not None:
            seconds = seconds_of(timeout)
        if not born[0]:
            notice()
        if self.is_forked:
            raise Forked("this front-end belongs to the parent process", hint="connect again in the child; or use 'spawn'")
        if self.is_closed:
            raise Closed("this front-end was closed")
        if self.baton.holder and self.baton.holder == <uint64_t> PyThread_get_thread_ident():
            raise CallerError("this thread is inside another call of this front-end",
                              hint="a signal handler, a finalizer or a codec must not use the front-end that it interrupts")
        if not self.baton.take(seconds):
            if self.baton.keeper:
                raise DeadlineExceeded("another thread has a batch or a transaction of this front-end under way",
                                       hint="end it, give the call more timeout, or connect once for each thread")
            raise DeadlineExceeded("another thread is using this front-end",
                                   hint="give the call more timeout, or connect once for each thread")
        if self.is_closed:
            self.leave()
            raise Closed("this front-end was closed")
        self.c.deadline = now + <uint64_t> (seconds * 1e9)
        if self.baton.orphaned:
            try:
                self.end_orphans()
            except BaseException:
                self.leave()
                raise
        if self.c.watches and now > self.c.alive + WATCH and not self.c.trouble:
            self.c.alive = now
            if not self.c.ring.pair.ops.alive(self.c.ring.pair):
                self.c.trouble = LOST
        return 0

    cdef void leave(self) noexcept:
        if not self.is_forked:                  # the session is the parent's
            if self.c.gone:
                self.reap()
            if self.is_closed:
                self.finish()
        self.baton.give()

    cdef int ready(self) except -1:
        if self.c.trouble:
            if self.c.transacting:
                self.broken = True
                raise ConnectionFailed(f"the session at {self.address} was lost during a transaction: nothing of it was done",
                                       hint="do the transaction again")
            self.connect_again()
        return 0

    cdef int raise_for(self, int found) except -1:
        """What an answer below 0 means."""
        if found >= 0:
            return 0
        if found == STOPPED:
            if self.interruption is not None:
                raised, self.interruption = self.interruption, None
                raise raised
            raise Closed("this front-end was closed")
        if found == LATE:
            raise DeadlineExceeded(f"the back-end at {self.address} did not answer in time",
                                   hint="a change may still happen; is the back-end stopped, or does somebody keep a lock?")
        if found == FULL:
            if self.c.lacking > 1:
                raise OutOfMemory(f"no {self.c.lacking} blocks in a row ({self.c.lacking * self.c.g.block} bytes) are free in "
                                  "the pool", hint="free something, use smaller values, or grow the pool: rnvm grow")
            raise OutOfMemory("no block is free in the pool", hint="free something, or grow the pool: rnvm grow")
        if found == TOO_LONG and self.c.transacting:
            raise TooLarge("with this operation the transaction does not fit into one record of the memory log",
                           hint=f"{rnvm_longest_record(self.c.memory.size)} bytes at most here: do it in several transactions, "
                                "or make the pool with larger logs (rnvm create --memory-log)")
        if found == TOO_LONG:
            raise TooLarge("an operation does not fit into the pool's logs",
                           hint=f"half of a ring at most: {min(self.c.operations.size, self.c.memory.size) // 2} bytes here; "
                                "make the pool with larger ones (rnvm create --operation-log, --memory-log)")
        if found == TOO_MANY:
            raise TooLarge(f"a transaction changes {RNVM_PARTS_MAX} structures at most",
                           hint="do it in several transactions, or in a batch")
        if found == NO_MEMORY:
            raise MemoryError()
        if found == GONE:
            raise NotFound("the structure was dropped", hint="open it anew: that makes a new one")
        raise ConnectionFailed(f"the session at {self.address} was lost", hint="is the back-end running?")

    cdef int again(self, instance *s, int found, bint operation) except -1:
        cdef doubt written = self.c.doubt
        cdef uint32_t session = self.c.session
        cdef uint64_t epoch = self.c.epoch
        cdef uint64_t ticket = self.ticket
        cdef int result = self.c.result
        if found == DAMAGED or found == AGAIN:
            what = s.fault.decode() if s.fault != NULL else "a node is not what leads to it says"
            where, s.fault = s.fault_at, NULL
            raise StructureDamaged(f"the structure is damaged{f' at {where:#x}' if where else ''}: {what}", hint="rnvm check")
        if found != LOST and found != FENCED:
            self.raise_for(found)
        try:
            self.ready()
        except ConnectionFailed as error:
            if operation and written.any:
                raise unknown(self.address) from error
            raise
        if operation and self.outcome(session, epoch, ticket, &written):
            self.settled = result
            return 1
        return 0

    cdef void reap(self) noexcept:
        """Forgets the instances whose objects are no more."""
        cdef instance *s
        cdef uint32_t i = 0
        cdef bint settled
        while i < self.c.instance_count:
            s = self.c.instances[i]
            settled = False
            if s.gone:
                with nogil:
                    settled = turn_settle(s)
            if not settled:
                i += 1
                continue
            cache_clear(&self.c, s)
            self.c.gone -= 1
            self.c.instance_count -= 1
            self.c.instances[i] = self.c.instances[self.c.instance_count]
            overlay_free(s)
            free(s)

    cdef int end_transaction(self) except -1:
        changes_undo(&self.c, 0)
        for each in self.open_transaction.structures:
            each._unmark()
        self.c.transacting = False
        self.open_transaction = None
        self.baton.keep(self.c.batching)
        with nogil:
            turn_leave(&self.c)
        return 0

    cdef int end_orphans(self) except -1:
        self.baton.orphaned = False
        if self.open_transaction is not None:
            self.end_transaction()
        if self.open_batch is not None:
            with nogil:
                transaction_commit(&self.c)
                turn_leave(&self.c)
            if self.c.trouble:
                self.end()                      # what could not be written others execute, at once
            self.c.batching = False
            self.open_batch = None
        self.baton.keep(False)
        return 0

    cdef int finish(self) except -1:
        """Nobody will be inside any more."""
        if self.has_ended:
            return 0
        self.has_ended = True
        if self.channel is not None and not self.channel.c.closing:
            if self.c.transacting:
                changes_undo(&self.c, 0)
            elif not self.c.trouble:
                with nogil:
                    transaction_commit(&self.c)     # where that fails, others execute the operations
            # Also where the session was fenced: nobody gets its rings before we say that we are through with them.
            # (In the child of a fork the session is the parent's.)
            if self.link is not None and not self.is_forked and not self.c.ring.lost:
                self.c.trouble = 0
                self.call(RNVM_DETACH, NULL, 0, NULL, 0, NULL)
        self.open_batch = self.open_transaction = None
        self.baton.keep(False)
        self.forget_session()
        self.end()
        close = getattr(self.opener, "close", None)
        if close is not None:
            close()
        return 0

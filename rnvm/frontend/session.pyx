"""A front-end's session at its back-end: begun, lost, replaced by the next one.

A call
------
    acquire_call      the fair lock, the deadline, a poll whether the back-end is alive
    ensure_session    connects again if the session was lost
    the work          without the GIL; a status below 0 is an error
    raise_or_retry    raises, or the session was lost: connects again and asks the back-end whether
                      the operation counts (HOLDS), or it must be done once more (CALL_AGAIN)
    release_call      closes structures whose objects are gone, then the fair lock
"""

import time
import weakref
from collections import deque
from threading import Lock, local

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_now
from rfp.fabric.fabric cimport REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE
from rfp.fabric.shm.region cimport ShmFabric
from rfp.protocol.client.client_base cimport born, seconds_of
from rfp.protocol.client.client_ring cimport FETCH
from rnvm.format.layout cimport (
    RNVM_ALIGN, RNVM_HEADERS, RNVM_MAJOR, RNVM_PARTS_MAX, RNVM_PAGE, rnvm_geometry,
    rnvm_geometry_of, rnvm_header, rnvm_longest_record, rnvm_session_at, rnvm_up)
from rnvm.format.messages cimport *
from rnvm.frontend.byte_buffer cimport buffer_free
from rnvm.frontend.cas_lock cimport cas_open
from rnvm.frontend.log_overlay cimport overlay_clear, overlay_free
from rnvm.frontend.log_writer cimport in_doubt_clear, logs_init, logs_open
from rnvm.frontend.moment cimport moment_begin_again, moment_end
from rnvm.frontend.node_cache cimport cache_clear, cache_free
from rnvm.frontend.operation cimport (
    scope_set_batching, scope_set_transacting, structure_close, structures_release,
    transaction_commit)
from rnvm.frontend.promise cimport (
    promise_await, promise_begin, promise_in_doubt, promise_serves)
from rnvm.frontend.read_set cimport read_set_free
from rnvm.frontend.remote cimport (
    link_clear_error, link_open, link_poll_liveness, link_set_alive, link_set_buffer,
    link_set_deadline, link_set_geometry, link_set_mapped, link_set_owner, link_set_pool,
    remote_call, remote_read, session_fail)
from rnvm.frontend.state cimport (
    LIVENESS_INTERVAL_NS, OPERATION_LOG, REDO_LOG, doubt, instance)
from rnvm.frontend.status cimport (
    AGAIN, CONFLICT, DAMAGED, FENCED, FEW_MIRRORS, FULL, GONE, LATE, LOST, NO_MEMORY, OK, STOPPED,
    TOO_LONG, TOO_MANY, TOO_OLD, UNREPLICATED)
from rnvm.frontend.version_use cimport version_release, version_unpublish
from rnvm.frontend.write_set cimport write_set_abandon, write_set_free, write_set_undo
from rnvm.frontend.writer_lock cimport activity_open
from rnvm.media.pool_header cimport header_whole

from rfp.errors import (
    CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, NotFound,
    NotReplicated, OutcomeUnknown, OutOfMemory, QuotaExceeded, ReadConflict, RfpError,
    SnapshotTooOld,
    StorageFailed, StructureDamaged, TooLarge, Unsupported, WrongKind)
from rfp.core.forks import notice

cdef enum:
    # of an attempt to connect again: with less time left when it failed, it has used it up
    ATTEMPT_NS_LEFT = 10000000
    LANDING_BYTES = 65536      # of one READ, at most, if memory must be registered

# A call that begins so long (seconds) after the back-end was last known to be alive cannot see a
# state from before its death.  A new back-end waits longer than that before it serves.
DEATH_NOTICE_S = 2 * LIVENESS_INTERVAL_NS / 1e9

GOODBYE_S = 0.5                # for what is still written when something is closed
SESSION_PAUSE_S_MIN, SESSION_PAUSE_S_MAX = 0.001, 0.1
ATTEMPT_S_MIN = 1.0            # for an attempt to connect again; doubled after each that used it up

SAME_RELEASE = "check that both are of the same release"


def unknown(address):
    return OutcomeUnknown(
        f"the session at {address} was lost after all records had been written",
        hint="the change may or may not have happened: read the structure, then decide")


def few_mirrors():
    return NotReplicated(
        "fewer mirrors are in sync than the pool's changes require: nothing was done",
        hint="start a mirror, or wait until it is level: rnvm status")


# The fair lock


class Life:
    """Dies with its thread.  A thread's number does not show that: the next thread may get it."""


class Lives(local):
    def __init__(self):
        self.life = Life()


lives = Lives()


cdef class Waiter:
    cdef uint64_t thread
    cdef object door           # locked until it is the thread's turn
    cdef bint called


cdef class FairLock:
    """First come, first served.

    Release hands ownership to the longest-waiting thread.  Without that, a thread that calls again
    at once would still have the GIL, and the waiters would hardly ever find the lock free.
    """

    def __cinit__(self):
        self.waiting = deque()

    cdef bint acquire(self, double seconds) except -1:
        cdef uint64_t me = <uint64_t> PyThread_get_thread_ident()
        cdef Waiter waiter
        if not self.holder and (not self.owner or self.owner == me):
            self.holder = me
            return True
        waiter = Waiter.__new__(Waiter)
        waiter.thread = me
        waiter.door = Lock()
        waiter.door.acquire()
        self.waiting.append(waiter)
        if not self.holder:                     # a finalizer has had it since the test above
            self.hand_over()
        try:
            waiter.door.acquire(timeout=seconds)
        except BaseException:
            if waiter.called:
                self.release()
            else:
                self.waiting.remove(waiter)
            raise
        # It may have been called after the time-out.
        if not waiter.called:
            self.waiting.remove(waiter)
        return waiter.called

    cdef void release(self) noexcept:
        self.holder = 0
        if self.waiting:
            self.hand_over()

    cdef void hand_over(self) noexcept:
        """Lets the first waiter in that may enter."""
        cdef Waiter each
        cdef Py_ssize_t i
        # Nothing here may allocate an object that the garbage collector tracks (an iterator over
        # the deque would be one): a finalizer, or another thread meanwhile, would find the lock
        # free: two inside.
        for i in range(<Py_ssize_t> len(self.waiting)):
            each = self.waiting[i]
            if not self.owner or each.thread == self.owner:
                del self.waiting[i]
                self.holder = each.thread
                each.called = True
                each.door.release()
                return

    cdef int reserve(self, bint reserved) except -1:
        cdef uint64_t me = <uint64_t> PyThread_get_thread_ident()
        self.life = weakref.ref(lives.life, self.owner_ended) if reserved else None
        self.owner = me if reserved else 0
        return 0

    def owner_ended(self, life):
        """The owner's thread ends: called in that thread, at any moment for the others."""
        if life is self.life:
            self.abandon()

    cdef void abandon(self) noexcept:
        self.life = None
        self.owner = 0
        self.abandoned = True
        if not self.holder and self.waiting:
            self.hand_over()


# The session


@cython.no_gc_clear                     # structures still need it when they are deallocated
cdef class Session:
    """The state that a front-end and its back-end share, and how each call begins and ends."""

    def __cinit__(self, *arguments, **options):
        memset(&self.c, 0, sizeof(self.c))
        link_set_owner(&self.c, <void *> self)
        logs_init(&self.c)
        self.lock = FairLock.__new__(FairLock)
        self.sleepers = []
        self.collected = {}
        self.lapsed = []
        self.is_closed = True

    def __dealloc__(self):
        cdef uint32_t i
        cache_free(&self.c)
        for i in range(self.c.open.count):
            overlay_free(self.c.open.items[i])
            free(self.c.open.items[i].kept)
            free(self.c.open.items[i])
        free(self.c.open.items)
        write_set_free(&self.c)
        read_set_free(&self.c)
        buffer_free(&self.c.answer)

    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer,
                  uint32_t capacity, uint32_t *got) noexcept:
        """Without the GIL: the back-end may be in this very process."""
        cdef int status
        with nogil:
            status = remote_call(&self.c, opcode, question, n, answer, capacity, got)
        return status

    cdef int set_terms(self, str durability, bint sticky, bint waits_until_applied) except -1:
        self.c.session.persistent = durability != "volatile"
        self.c.session.replicated = durability == "replicated"
        self.c.session.sticky = sticky
        self.c.session.waits_until_applied = waits_until_applied
        return 0

    # Beginning it

    cdef int begin(self, uint64_t deadline) except -1:
        """Attaches to the back-end."""
        cdef rnvm_attach question
        cdef rnvm_attached answer
        cdef uint32_t got = 0
        self.c.session.grouped = self.c.session.guarded = False     # not known yet
        self.link = self.opener(deadline)
        self.channel = self.link.attach(deadline)
        self.channel.c.rings[0].paradigm = FETCH
        # A mapped pool shows nothing when the back-end is dead: a copy of a file simply does not
        # change any more, and the file itself may have been replaced.  A device fails the READ.
        link_open(&self.c, self.channel.c.rings[0],
                  type(self.link.fabric) is ShmFabric and not self.channel.rings[0].pair.emulated,
                  not self.channel.c.rings[0].pair.needs_registration)
        activity_open(&self.c, self.channel.c.staging)
        memset(&question, 0, sizeof(question))
        question.version = RNVM_MESSAGES
        memcpy(question.pool, self.uuid, sizeof(self.uuid))
        question.previous = self.previous
        question.ticket = self.ticket
        question.flags = (RNVM_WAITS if self.c.session.persistent else 0) \
            | (RNVM_MAPS if self.c.link.mapped else 0) \
            | (RNVM_WAITS_REPLICATED if self.c.session.replicated else 0)
        self.raise_for(self.call(RNVM_ATTACH, &question, sizeof(question), &answer, sizeof(answer),
                                 &got))
        self.raise_refused()
        if self.c.link.status != RNVM_GOOD or got != sizeof(answer) \
                or self.c.activity.words == NULL:
            raise HandshakeFailed("invalid response from the back-end to attach (protocol error)",
                                  hint=SAME_RELEASE)
        # If the rest fails, the next attempt gives this session back.
        self.previous = self.c.session.number = answer.session
        self.ticket = answer.ticket
        memcpy(self.uuid, answer.pool, sizeof(self.uuid))
        self.c.session.epoch = answer.epoch
        if self.c.session.replicated and not answer.flags & RNVM_REPLICATES:
            raise Unsupported("this back-end accepts no mirrors",
                              hint='use durability="persistent"')
        promise_begin(&self.c)
        self.c.session.lease_ns = answer.lease
        self.c.session.snapshot_ns = answer.snapshot
        self.c.session.logs_operations = self.wants_operation_log and answer.flags & RNVM_LAST == 0
        self.c.session.direct = answer.flags & RNVM_DIRECT != 0
        self.c.session.flushes = answer.flags & RNVM_FLUSHED != 0
        self.forgetful = answer.flags & RNVM_FORGETFUL
        link_set_alive(&self.c, rfp_now())
        self.pool = self.link.arenas[0]
        if self.pool is None:
            raise HandshakeFailed("the back-end shares no pool", hint=SAME_RELEASE)
        self.link.map_chunks(0, 0, 1, deadline)
        self.logs = self.link.memory(answer.ticket, REMOTE_WRITE, deadline, files=True)
        link_set_pool(&self.c, &self.pool.c, self.pool.c.chunks[0])
        if self.uses_cas:
            self.words = self.link.memory(RNVM_LOCK_WORDS, REMOTE_ATOMIC | REMOTE_READ, deadline)
            cas_open(&self.c, &self.words.c)
        self.read_geometry(answer.size)
        self.open_logs(answer.operations, answer.memory)
        self.c.session.grouped = answer.flags & RNVM_GROUPED != 0
        self.c.session.guarded = self.c.session.grouped and self.c.session.persistent
        # In another time namespace this process' clock is another one.
        self.c.session.reads_until = self.c.link.mapped and self.link.same_clock
        return 0

    cdef int raise_refused(self) except -1:
        """Raises the error of an attach call's status, unless it is good or unknown."""
        cdef uint32_t status = self.c.link.status
        if status == RNVM_STOPPED:
            raise StorageFailed(
                "the back-end has stopped: the pool's medium failed or its file was removed",
                hint="check both, then restart the back-end: it recovers the pool")
        if status == RNVM_NO_SESSION_LEFT:
            raise QuotaExceeded("all front-ends that this pool was made for are connected",
                                hint="create the pool with more: rnvm create --front-ends")
        if status == RNVM_TOO_MANY:
            raise QuotaExceeded(
                "this process has as many front-ends of this pool as one process may have",
                hint="close some, or create the pool with more: rnvm create --front-ends")
        if status == RNVM_FEW_MIRRORS or status == RNVM_UNREPLICATED:
            raise few_mirrors()
        if status == RNVM_OTHER_POOL:
            raise HandshakeFailed(
                f"{self.address} serves another pool now than the one this front-end connected to",
                hint="connect again to use that pool")
        if status == RNVM_OTHER_VERSION:
            raise HandshakeFailed("the back-end uses another version of the pool's messages",
                                  hint=SAME_RELEASE)
        return 0

    cdef int begin_patiently(self) except -1:
        """The first session: waits for a back-end that is being started or restarted."""
        cdef double pause = SESSION_PAUSE_S_MIN
        reason = None
        while True:
            try:
                return self.begin(self.c.link.deadline_ns)
            except DeadlineExceeded:
                if reason is None:
                    raise
                raise reason from None          # more informative than the last attempt's time-out
            except (ConnectionFailed, QuotaExceeded, NotReplicated) as error:
                self.end()
                if reason is not None and type(error) is ConnectionFailed \
                        and self.seconds_left(self.c.link.deadline_ns) <= 0:
                    raise reason from None      # this attempt had no time left
                reason = error
                # Another process may give a session back in the meantime; this one's own sessions
                # are not given back by waiting.
                if isinstance(error, HandshakeFailed) or not self.reconnect \
                        or isinstance(error, QuotaExceeded) \
                        and self.c.link.status == RNVM_TOO_MANY \
                        or self.seconds_left(self.c.link.deadline_ns) <= pause:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, SESSION_PAUSE_S_MAX)

    cdef double seconds_left(self, uint64_t deadline):
        return (<double> deadline - <double> rfp_now()) / 1e9

    def reach(self, uint64_t offset, uint64_t length):
        """Attaches the missing chunks of a range of the pool, before the present deadline."""
        self.link.map_chunks(0, offset, length, self.c.link.deadline_ns)

    cdef int read_geometry(self, uint64_t size) except -1:
        """Reads the pool's header: where everything is."""
        cdef rnvm_header header
        cdef rnvm_geometry g
        cdef bint mapped
        cdef int status
        # Before the geometry is known, only the region's own bounds limit READs: no plain loads.
        mapped = link_set_mapped(&self.c, False)
        self.buffer = self.link.fabric.register(RNVM_PAGE, 0)
        link_set_buffer(&self.c, &self.buffer.c, 0, RNVM_PAGE)
        with nogil:
            status = remote_read(&self.c, RNVM_HEADERS, &header, sizeof(header))
            if status == OK and not header_whole(&header):
                status = remote_read(&self.c, RNVM_HEADERS + RNVM_PAGE, &header, sizeof(header))
        self.raise_for(status)
        if not header_whole(&header) or header.major != RNVM_MAJOR \
                or not rnvm_geometry_of(&header, size, &g) or self.pool.c.length < size \
                or self.logs.c.length != g.rings or self.words is not None \
                and self.words.c.length < 8 * <uint64_t> g.names \
                or self.c.link.pool.length < (size if mapped else rnvm_session_at(&g, g.sessions)):
            raise HandshakeFailed("the back-end's pool has another layout than this version reads",
                                  hint=SAME_RELEASE)
        link_set_geometry(&self.c, &g)
        self.buffer.close()
        link_set_mapped(&self.c, mapped)
        return 0

    cdef int open_logs(self, uint64_t operations_tail, uint64_t redo_tail) except -1:
        """Registers the buffer: records in the making, then the landing."""
        cdef uint64_t landing = logs_open(&self.c, &self.logs.c, operations_tail, redo_tail)
        self.buffer = self.link.fabric.register(landing + LANDING_BYTES, 0)
        link_set_buffer(&self.c, &self.buffer.c, landing, LANDING_BYTES)
        return 0

    # Losing it

    cdef int end(self) except -1:
        """Closes the connection."""
        if not self.c.link.error:
            session_fail(&self.c, LOST)
        if self.link is not None:
            self.link.close()
            self.link = None
        if self.buffer is not None:
            self.buffer.close()
            self.buffer = None
        return 0

    cdef int forget_session(self) except -1:
        """Discards all that was known of the pool."""
        cdef instance *s
        cdef uint32_t i
        write_set_abandon(&self.c)
        in_doubt_clear(&self.c)
        cache_clear(&self.c, NULL)
        self.collected.clear()
        self.found_nothing_ns = 0
        for i in range(self.c.open.count):
            s = self.c.open.items[i]
            s.holds = s.entered = False
            s.generation += 1
            s.seen = 1                          # no query's state has an odd sequence
            overlay_clear(s)
            s.number = s.applied = s.operations = s.covered = s.word = s.left = 0
            # Its snapshots have ended: there may be a new back-end, which keeps nothing for them.
            s.newest_of = s.published_ns = s.published = s.written = s.retained = s.renew_at = 0
            s.kept_count = 0
        self.lapsed.clear()
        return 0

    cdef int connect_again(self) except -1:
        """Begins the next session before the call's deadline; finds structures by their names."""
        cdef uint64_t deadline = self.c.link.deadline_ns, until
        cdef double pause = SESSION_PAUSE_S_MIN, attempt = ATTEMPT_S_MIN
        if not self.reconnect:
            raise ConnectionFailed(f"the session at {self.address} was lost",
                                   hint="connect again, or set reconnect=True")
        reason = None
        self.keep_unconfirmed()
        self.broken = self.c.scope.transacting
        self.forget_session()
        self.end()
        while True:
            if self.is_closed:
                raise Closed("this front-end was closed")
            try:
                until = min(deadline, rfp_now() + <uint64_t> (attempt * 1e9))
                self.begin(until)
                if self.is_closed:
                    raise Closed("this front-end was closed")
                for structure in list(self.structures.values()):
                    try:
                        structure._reopen()
                    except (NotFound, WrongKind):
                        pass                    # it was dropped: only calls on it raise that
                self.confirm_written()
                return 0
            except (ConnectionFailed, DeadlineExceeded, QuotaExceeded, StorageFailed,
                    NotReplicated) as error:
                if isinstance(error, OutcomeUnknown):
                    raise
                self.end()
                if isinstance(error, HandshakeFailed):
                    raise
                if isinstance(error, DeadlineExceeded) \
                        or rfp_now() + ATTEMPT_NS_LEFT >= until:
                    attempt *= 2                # the back-end, or the coordinator, may be slow
                if reason is None or not isinstance(error, DeadlineExceeded):
                    reason = error              # more informative than the last time-out
                if self.seconds_left(deadline) <= pause:
                    raise ConnectionFailed(
                        f"the session at {self.address} was lost, and no new one could be made "
                        f"before the deadline: {reason}",
                        hint="increase the call's timeout; check that the back-end is running"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, SESSION_PAUSE_S_MAX)

    cdef int raise_unless_lost(self) except -1:
        """In the handler of a ConnectionFailed of a call that may be repeated: raises it again,
        unless a new session may help."""
        if not self.c.link.error or rfp_now() >= self.c.link.deadline_ns:
            raise

    cdef bint records_count(self, uint32_t session, uint64_t epoch, uint64_t ticket,
                            const doubt *written) except -1:
        """Whether the last records of an earlier session count; if they do not, they never will.

        An operation whose record counts is done, even if its redo record does not count: it is
        executed again.
        """
        cdef rnvm_outcome question
        cdef int ring, status
        memset(&question, 0, sizeof(question))
        question.session = session
        question.epoch = epoch
        question.ticket = ticket
        for ring in range(2):
            if not written.written[ring]:
                continue
            question.ring = ring
            question.lsn = written.lsn[ring]
            status = self.call(RNVM_OUTCOME, &question, sizeof(question), NULL, 0, NULL)
            if status == OK and self.c.link.status == RNVM_GOOD:
                return True
            if status != OK or self.c.link.status != RNVM_ABSENT:
                raise unknown(self.address)
        return False

    cdef int keep_unconfirmed(self) except -1:
        """The session is lost: keeps what must be confirmed, through all attempts to connect."""
        cdef doubt last = self.c.promise.written
        if not self.c.session.replicated:
            last.any = self.c.session.guarded and (last.written[OPERATION_LOG]
                                                   or last.written[REDO_LOG])
        if last.any and not self.unconfirmed.any:
            self.unconfirmed = last
            self.unconfirmed_session = self.c.session.number
            self.unconfirmed_epoch = self.c.session.epoch
            self.unconfirmed_ticket = self.ticket
        return 0

    cdef int confirm_written(self) except -1:
        cdef doubt written = self.unconfirmed
        cdef bint counts = True
        if not written.any:
            return 0
        try:
            counts = self.records_count(self.unconfirmed_session, self.unconfirmed_epoch,
                                        self.unconfirmed_ticket, &written)
        except OutcomeUnknown:
            if self.c.link.error:
                self.raise_for(LOST)            # the next session is asked again
            # Also if the new primary does not know the session: then it has nothing of it.
            self.unconfirmed.any = False
            raise
        self.unconfirmed.any = False
        if not counts and not self.c.session.replicated:
            raise OutcomeUnknown(
                f"changes that were acknowledged as persistent at {self.address} are gone: another "
                "back-end became the primary, and did not have them",
                hint='read the structures, then decide; durability="replicated" prevents that')
        if not counts:
            raise OutcomeUnknown(
                f"the session at {self.address} was lost, and changes that were not replicated yet "
                "are gone", hint="read the structures, then decide")
        return 0

    # Replication

    cdef int raise_unless_serving(self) except -1:
        cdef int status
        with nogil:
            status = promise_serves(&self.c)
        return self.raise_for(status)

    cdef object not_in_time(self, bint wrote):
        if not self.c.session.replicated:
            return DeadlineExceeded(
                f"timed out waiting until {self.address} is known to be the group's primary still",
                hint="increase the timeout, or run rnvm group status")
        if not wrote:
            return DeadlineExceeded(
                "timed out waiting until what was read is replicated",
                hint="run rnvm status: it shows which mirrors are in sync")
        cdef int status
        with nogil:
            status = promise_serves(&self.c)    # at the deadline: without a wait
        if status != OK:
            return OutcomeUnknown(
                "timed out waiting for the mirrors, and another back-end may be the primary now: "
                "the change may or may not hold for the group",
                hint="read the structure, then decide; run rnvm group status")
        if self.c.promise.few_mirrors:
            return OutcomeUnknown(
                "fewer mirrors are in sync than required: the change holds at the primary, and "
                "will hold for the group when a mirror is back",
                hint="run rnvm status: it shows which mirrors are in sync")
        return DeadlineExceeded(
            "timed out waiting for the mirrors: the change holds at the primary, and will hold for "
            "the group when a mirror has it",
            hint="increase the timeout, or run rnvm status: it shows how far the mirrors are")

    cdef int unreplicated(self, instance *s, int waited, bint wrote) except CALL_RAISED:
        cdef int unused = 0
        if waited == UNREPLICATED:
            raise self.not_in_time(wrote)
        if wrote:
            promise_in_doubt(&self.c)
        return self.raise_or_retry(s, waited, wrote, &unused)

    cdef int await_replicated(self) except? -1:
        cdef int status
        cdef bint wrote = self.c.promise.written.any
        with nogil:
            status = promise_await(&self.c, True)
        if status == UNREPLICATED:
            raise self.not_in_time(wrote)
        if status != OK and status != LOST and status != FENCED:
            self.raise_for(status)
        return status

    def interrupt(self, error):
        """Keeps the error of a signal handler during a wait: the call raises it."""
        self.interruption = error

    # Calls

    cdef int acquire_call(self, object timeout) except -1:
        cdef double seconds = self.timeout
        cdef uint64_t now = rfp_now()
        if timeout is not None:
            seconds = seconds_of(timeout)
        if not born[0]:
            notice()
        if self.is_forked:
            raise Forked("this front-end belongs to the parent process",
                         hint="connect again in the child, or use 'spawn'")
        if self.is_closed:
            raise Closed("this front-end was closed")
        if self.lock.holder and self.lock.holder == <uint64_t> PyThread_get_thread_ident():
            raise CallerError("this thread is inside another call of this front-end",
                              hint="do not use the front-end in a signal handler, a finalizer or a "
                                   "codec that interrupts it")
        if not self.lock.acquire(seconds):
            if self.lock.owner:
                raise DeadlineExceeded(
                    "timed out waiting for another thread's batch or transaction of this front-end",
                    hint="end it, increase the timeout, or connect once for each thread")
            raise DeadlineExceeded("timed out waiting for another thread that uses this front-end",
                                   hint="increase the timeout, or connect once for each thread")
        if self.is_closed:
            self.release_call()
            raise Closed("this front-end was closed")
        link_set_deadline(&self.c, now + <uint64_t> (seconds * 1e9))
        if self.lock.abandoned:
            try:
                self.end_abandoned()
            except BaseException:
                self.release_call()
                raise
        link_poll_liveness(&self.c, now)
        return 0

    cdef void release_call(self) noexcept:
        if not self.is_forked:                  # the session is the parent's
            if self.c.open.gone:
                self.close_gone()
            if self.lapsed:
                self.end_lapsed()
            if self.is_closed:
                self.finish()
        self.lock.release()

    cdef int ensure_session(self) except -1:
        if self.c.link.error:
            if self.c.moment.is_open and not moment_begin_again(&self.c):
                raise ConnectionFailed(
                    f"the session at {self.address} was lost during a read transaction",
                    hint="repeat the transaction")
            if self.c.scope.transacting:
                self.broken = True
                raise ConnectionFailed(
                    f"the session at {self.address} was lost during a transaction: nothing of it "
                    "was done", hint="repeat the transaction")
            self.connect_again()
        return 0

    cdef int raise_for(self, int status) except -1:
        """Raises the error for a status below 0."""
        if status >= 0:
            return 0
        if status == STOPPED:
            if self.interruption is not None:
                raised, self.interruption = self.interruption, None
                raise raised
            raise Closed("this front-end was closed")
        if status == LATE:
            raise DeadlineExceeded(
                f"timed out waiting for a response from the back-end at {self.address}",
                hint="a change may still happen; check whether the back-end is stopped, or another "
                     "front-end keeps a lock")
        if status == FULL:
            blocks, block = self.c.space.lacking, self.c.g.block
            # Other structures' locks cannot be acquired within a transaction, in any order.
            hint = "repeat the transaction, which begins with freeing nodes of earlier versions; " \
                if self.c.scope.transacting else ""
            if blocks > 1:
                raise OutOfMemory(
                    f"no {blocks} blocks in a row ({blocks * block} bytes) are free in the pool",
                    hint=f"{hint}free something, close snapshots, use smaller values, or grow the "
                         "pool: rnvm grow")
            raise OutOfMemory("no block is free in the pool",
                              hint=f"{hint}free something, close snapshots, or grow the pool: "
                                   "rnvm grow")
        if status == TOO_LONG and self.c.scope.transacting:
            longest = rnvm_longest_record(self.c.log[REDO_LOG].size)
            needed = self.c.scope.record_bytes
            enough = f" {2 * rnvm_up(needed, RNVM_ALIGN) >> 10}KiB" if needed else ""
            raise TooLarge(
                "with this operation the transaction does not fit into one record of the memory "
                f"log, of at most {longest} bytes"
                + (f": it would take {needed} bytes" if needed else ""),
                hint="use several transactions, or create the pool with larger logs: rnvm create "
                     f"--memory-log{enough}")
        if status == TOO_LONG:
            smaller = min(self.c.log[OPERATION_LOG].size, self.c.log[REDO_LOG].size)
            raise TooLarge(
                f"an operation must fit into half of each of the pool's logs: {smaller // 2} bytes",
                hint="use smaller values, or create the pool with larger logs: rnvm create "
                     "--operation-log, --memory-log")
        if status == TOO_MANY:
            raise TooLarge(f"a transaction may change at most {RNVM_PARTS_MAX} structures",
                           hint="use several transactions, or a batch")
        if status == NO_MEMORY:
            raise MemoryError()
        if status == FEW_MIRRORS:
            raise few_mirrors()
        if status == UNREPLICATED:
            raise self.not_in_time(False)
        if status == CONFLICT:
            raise ReadConflict(
                "data that this read transaction has read was changed meanwhile",
                hint="repeat the transaction, or use fe.read(), which repeats it")
        if status == GONE:
            raise NotFound("the structure was dropped", hint="open it again to make a new one")
        if status == TOO_OLD:
            raise SnapshotTooOld(
                "the snapshot was given up, and its memory was used again",
                hint="take a new one; see Backend(snapshot_lifetime=)")
        raise ConnectionFailed(f"the session at {self.address} was lost",
                               hint="check that the back-end is running")

    cdef int raise_or_retry(self, instance *s, int status, bint operation,
                            int *result) except CALL_RAISED:
        cdef doubt written = self.c.in_doubt
        cdef uint32_t session = self.c.session.number
        cdef uint64_t epoch = self.c.session.epoch
        cdef uint64_t ticket = self.ticket
        cdef int applied = self.c.scope.result
        if status == DAMAGED or status == AGAIN:
            what = s.fault.decode() if s.fault != NULL \
                else "a node is not the one that its pointer names"
            where, s.fault = s.fault_at, NULL
            raise StructureDamaged(
                f"the structure is damaged{f' at {where:#x}' if where else ''}: {what}",
                hint="run rnvm check")
        if status != LOST and status != FENCED:
            self.raise_for(status)
        try:
            self.ensure_session()
        except (Closed, OutcomeUnknown):
            raise
        except RfpError as error:
            if operation and written.any:
                raise unknown(self.address) from error
            raise
        if operation and self.records_count(session, epoch, ticket, &written):
            with nogil:
                status = promise_serves(&self.c)
            if status != OK:
                raise unknown(self.address)
            result[0] = applied
            return HOLDS
        return CALL_AGAIN

    # Open instances

    cdef int add_instance(self, instance *s) except -1:
        cdef uint32_t i
        cdef instance **grown = <instance **> realloc(
            self.c.open.items, (self.c.open.count + 1) * sizeof(instance *))
        if grown == NULL:
            raise MemoryError()
        self.c.open.items = grown
        for i in range(self.c.open.count):
            grown[i].replaced |= grown[i].index == s.index
        grown[self.c.open.count] = s
        self.c.open.count += 1
        return 0

    cdef bint mark_gone(self, instance *s) noexcept:
        """The structure has no object any more.  False: it is not open here."""
        cdef uint32_t i
        for i in range(self.c.open.count):
            if self.c.open.items[i] == s:
                s.gone = True
                self.c.open.gone += 1
                return True
        return False

    cdef void close_gone(self) noexcept:
        """Closes the instances whose objects are gone."""
        cdef instance *s
        cdef uint32_t i = 0
        cdef bint closed
        while i < self.c.open.count:
            s = self.c.open.items[i]
            closed = False
            if s.gone:
                with nogil:
                    closed = structure_close(s)
            if not closed:
                i += 1
                continue
            cache_clear(&self.c, s)
            self.c.open.gone -= 1
            self.c.open.count -= 1
            self.c.open.items[i] = self.c.open.items[self.c.open.count]
            overlay_free(s)
            free(s.kept)
            free(s)

    cdef void end_snapshot(self, instance *s, uint64_t version, uint64_t ticket) noexcept:
        if not born[0]:
            notice()
        if self.is_closed or self.is_forked or ticket != self.ticket:
            return                              # its session has ended, or is the parent's
        self.lapsed.append((s.id, version))
        # Another thread's transaction may be open: nothing of it changes.
        if not self.lock.holder:
            self.lock.holder = <uint64_t> PyThread_get_thread_ident()
            link_set_deadline(&self.c, rfp_now() + <uint64_t> (GOODBYE_S * 1e9))
            self.release_call()

    cdef void end_lapsed(self) noexcept:
        cdef instance *s
        cdef uint32_t i
        # The call's deadline may be over.
        link_set_deadline(&self.c, rfp_now() + <uint64_t> (GOODBYE_S * 1e9))
        while self.lapsed and not self.c.link.error:
            id, version = self.lapsed.pop()
            for i in range(self.c.open.count):
                s = self.c.open.items[i]
                if s.id == <uint32_t> id and not s.gone:
                    version_release(s, version)
                    self.found_nothing_ns = 0   # there may be something to free now
                    with nogil:
                        version_unpublish(s)    # if it fails, the next query publishes

    # The end of the open batch or transaction

    cdef int discard_transaction(self) except -1:
        write_set_undo(&self.c, 0)
        for each in self.open_transaction.structures:
            each._unmark()
        moment_end(&self.c)
        scope_set_transacting(&self.c, False)
        self.open_transaction = None
        self.lock.reserve(self.c.scope.batching)
        with nogil:
            structures_release(&self.c)
        return 0

    cdef int end_abandoned(self) except -1:
        self.lock.abandoned = False
        if self.open_transaction is not None:
            self.discard_transaction()
        if self.open_batch is not None:
            with nogil:
                transaction_commit(&self.c)
                structures_release(&self.c)
            if self.c.link.error:
                self.end()              # other front-ends execute the unwritten operations at once
            scope_set_batching(&self.c, False)
            self.open_batch = None
        self.lock.reserve(False)
        return 0

    cdef int finish(self) except -1:
        """Ends the session for good: no thread will be inside any more."""
        if self.has_ended:
            return 0
        self.has_ended = True
        if self.channel is not None and not self.channel.c.closing:
            if self.c.scope.transacting:
                write_set_undo(&self.c, 0)
            elif not self.c.link.error:
                with nogil:
                    transaction_commit(&self.c)     # if it fails, others execute the operations
            # Also if the session was fenced: its rings are not reused before we detach.  (In the
            # child of a fork the session is the parent's.)
            if self.link is not None and not self.is_forked and not self.c.link.ring.lost:
                link_clear_error(&self.c)
                self.call(RNVM_DETACH, NULL, 0, NULL, 0, NULL)
        moment_end(&self.c)
        self.open_batch = self.open_transaction = None
        self.lock.reserve(False)
        self.forget_session()
        self.end()
        close = getattr(self.opener, "close", None)
        if close is not None:
            close()
        return 0

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The front-end: a session at a back-end (the contract is in _frontend.pxd; docs/rnvm.md says what it promises)."""

import atexit
import os
import secrets
import time
import weakref

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from rfp._core cimport rfp_now
from rfp._fabric cimport REMOTE_WRITE
from rfp._shm cimport ShmFabric
from rfp.protocol._client_ring cimport FETCH
from rnvm._baton cimport Baton
from rnvm._cache cimport cache_clear, cache_forget
from rnvm._changes cimport changes_abandon, changes_undo
from rnvm._format cimport header_whole
from rnvm._front cimport doubt, instance, journal
from rnvm._journal cimport journal_trust
from rnvm._layout cimport (
    RNVM_HEADERS, RNVM_MAJOR, RNVM_PAGE, rnvm_geometry_of, rnvm_header, rnvm_longest_record, rnvm_memory_ring_at,
    rnvm_operation_ring_at, rnvm_ring_seed, rnvm_session_at, rnvm_structure_index, rnvm_up)
from rnvm._messages cimport *
from rnvm._node cimport rnvm_slabs
from rnvm._remote cimport remote_call, remote_read
from rnvm._structure cimport AGAIN, DAMAGED, FENCED, FULL, LATE, LOST, NO_MEMORY, OK, STOPPED, TOO_LONG
from rnvm._transaction cimport transaction_commit
from rnvm._turns cimport turn_begin, turn_leave, turn_release, turn_settle

from rfp.errors import (
    AlreadyExists, CallerError, Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, InvalidArgument, NotFound,
    OutcomeUnknown,
    OutOfMemory, QuotaExceeded, StorageFailed, StructureDamaged, TooLarge, WrongKind)
from rnvm._structure import codec_name

cdef enum:
    LANDING = 65536            # bytes that one READ brings at most where memory must be registered
    LIVE = 256                 # for lines of live words
    OPENING = 300              # bytes of a call that opens a structure
    LISTING = 1 << 20
    FIRST_LINGER = 1000        # ns

LONGEST_TIME = 1e9             # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.1
DURABILITIES = ("volatile", "persistent", "replicated")
GOODBYE = 0.5                  # seconds for what close() still has to say

handles = weakref.WeakSet()


def process_identity():
    """This process, told from one that has its number later: pid | start time << 22."""
    with open("/proc/self/stat", "rb") as file:
        started = int(file.read().rsplit(b")", 1)[1].split()[19])
    return os.getpid() & 0x3fffff | (started & 0x3ffffffffff) << 22


def unknown(address):
    return OutcomeUnknown(f"the session at {address} was lost after all had been written",
                          hint="it may or may not have happened: look, then decide")


class Batch:
    """What `FrontEnd.batch()` gives: operations in it are durable one by one and seen by others together."""

    def __init__(self, fe):
        self.fe = fe

    def __enter__(self):
        self.fe._begin_batch()
        return self.fe

    def __exit__(self, kind, error, trace):
        self.fe._end_batch()


class Transaction:
    """What `FrontEnd.transaction()` gives: all of it or nothing."""

    def __init__(self, fe, structures, timeout):
        self.fe, self.structures, self.timeout = fe, structures, timeout

    def __enter__(self):
        self.fe._begin_transaction(self.structures, self.timeout)
        return self.fe

    def __exit__(self, kind, error, trace):
        self.fe._end_transaction(kind is None)


@cython.no_gc_clear                     # its structures still need it when they go
cdef class FrontEnd:
    """A session at a back-end, in which structures are opened; made by `rnvm.connect`.

    Usable from several threads, which take turns.  Closing it gives its locks back; what it did stays.
    """

    def __cinit__(self, *arguments, **options):
        memset(&self.c, 0, sizeof(self.c))
        self.is_closed = True

    def __init__(self, opener, *, str durability="persistent", double timeout=5.0, bint reconnect=True, uint64_t cache=64 << 20,
                 bint oplog=True, str lock="sticky"):
        if durability not in DURABILITIES:
            raise InvalidArgument(f"durability={durability!r}", hint=", ".join(DURABILITIES))
        if not 0 < timeout < LONGEST_TIME:
            raise InvalidArgument(f"timeout={timeout!r} is not a time",
                                  hint=f"seconds, more than 0 and less than {LONGEST_TIME:.0e}")
        self.opener = opener
        self.address = opener.address
        self.timeout = timeout
        self.reconnect = reconnect
        self.durability = durability
        self.structures = weakref.WeakValueDictionary()
        self.baton = Baton.__new__(Baton)
        self.members = ()
        self.c.owner = <void *> self
        self.c.persistent = durability != "volatile"
        self.c.oplog = oplog
        self.c.sticky = lock == "sticky"
        self.c.applied = cache == 0 and not oplog
        self.c.budget = cache
        self.c.linger = FIRST_LINGER
        self.c.looks = 1
        self.c.random = secrets.randbits(64) | 1
        self.c.deadline = rfp_now() + <uint64_t> (timeout * 1e9)
        self.is_closed = False
        try:
            self.begin(self.c.deadline)
        except BaseException:
            self.is_closed = True
            self.end()
            raise
        handles.add(self)

    def __dealloc__(self):
        cdef uint32_t i
        cache_clear(&self.c, NULL)
        for i in range(self.c.instance_count):
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

    def __del__(self):
        self.close()

    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer, uint32_t capacity,
                  uint32_t *got) noexcept:
        """Without the GIL: the back-end may be in this very process."""
        cdef int found
        with nogil:
            found = remote_call(&self.c, opcode, question, n, answer, capacity, got)
        return found

    # Connections

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
        question.process = process_identity()
        question.previous = self.previous
        question.previous_epoch = self.previous_epoch
        found = self.call(RNVM_ATTACH, &question, sizeof(question), &answer, sizeof(answer), &got)
        self.raise_for(found)
        if self.c.refusal == RNVM_STOPPED:
            raise StorageFailed("the pool's medium has failed, and its back-end has stopped",
                                hint="look at the device, then start the back-end again: it recovers the pool")
        if self.c.refusal == RNVM_NO_SESSION_LEFT:
            raise QuotaExceeded("all front-ends that this pool was made for are connected", hint="rnvm create --front-ends")
        if self.c.refusal != RNVM_GOOD or got != sizeof(answer) or self.c.desk == NULL:
            raise HandshakeFailed("the back-end does not answer as one", hint="are both of the same release?")
        self.c.session = answer.session
        self.c.epoch = answer.epoch
        self.c.lease = answer.lease
        self.c.direct = answer.flags & RNVM_DIRECT != 0
        self.c.flushed = answer.flags & RNVM_FLUSHED != 0
        self.forgetful = answer.flags & RNVM_FORGETFUL
        self.pool = self.link.arenas[0]
        if self.pool is None:
            raise HandshakeFailed("the back-end shares no pool", hint="are both of the same release?")
        self.link.reach(0, 0, 1, deadline)
        self.logs = self.link.memory(answer.ticket, REMOTE_WRITE, deadline)
        self.c.arena = &self.pool.c
        self.c.pool = self.pool.c.chunks[0]
        self.c.logs = &self.logs.c
        self.take_geometry(answer.size)
        self.begin_journal(&self.c.operations, rnvm_operation_ring_at(&self.c.g, answer.session), 0, self.c.g.operation_ring,
                           answer.operations)
        self.begin_journal(&self.c.memory, rnvm_memory_ring_at(&self.c.g, answer.session), self.c.g.operation_ring,
                           self.c.g.memory_ring,
                           answer.memory)
        self.previous = answer.session
        self.previous_epoch = answer.epoch
        return 0

    def reach(self, uint64_t offset, uint64_t length):
        """Attaches what is missing of a range of the pool, within the time of the call under way."""
        self.link.reach(0, offset, length, self.c.deadline)

    cdef int take_geometry(self, uint64_t size) except -1:
        """Where everything stands in the pool, by its own header, and our buffer for records."""
        cdef rnvm_header header
        cdef uint64_t longest, each
        self.c.near, near = False, self.c.near
        # Before there is a geometry nothing says what READs may reach: the region's own bounds do.
        self.c.landing = 0
        self.c.landing_length = RNVM_PAGE
        self.buffer = self.link.fabric.register(RNVM_PAGE, 0)
        self.c.buffer = &self.buffer.c
        self.raise_for(remote_read(&self.c, RNVM_HEADERS, &header, sizeof(header)))
        if not header_whole(&header):
            self.raise_for(remote_read(&self.c, RNVM_HEADERS + RNVM_PAGE, &header, sizeof(header)))
        if not header_whole(&header) or header.major != RNVM_MAJOR or not rnvm_geometry_of(&header, size, &self.c.g) \
                or self.pool.c.length < size or self.logs.c.length != self.c.g.operation_ring + self.c.g.memory_ring \
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
            s.number = s.applied = s.operations = s.covered = 0
        return 0

    cdef int connect_again(self) except -1:
        """A new session, before the deadline of the call; structures are found again by their names."""
        cdef uint64_t deadline = self.c.deadline
        cdef double pause = FIRST_PAUSE
        if not self.reconnect:
            raise ConnectionFailed(f"the session at {self.address} was lost", hint="connect again, or use reconnect=True")
        self.broken = self.c.transacting
        self.forget_session()
        self.end()
        while True:
            if self.is_closed:
                raise Closed("this front-end was closed")
            try:
                self.begin(min(deadline, rfp_now() + <uint64_t> 1000000000))
                if self.is_closed:
                    raise Closed("this front-end was closed")
                for structure in list(self.structures.values()):
                    structure._reopen()
                return 0
            except (ConnectionFailed, DeadlineExceeded, QuotaExceeded, StorageFailed) as error:
                self.end()
                if isinstance(error, HandshakeFailed):
                    raise
                if (<double> deadline - <double> rfp_now()) / 1e9 <= pause:
                    raise ConnectionFailed(f"the session at {self.address} was lost, and not made anew before the deadline: "
                                           f"{error}",
                                           hint="give the call more timeout; is the back-end running?") from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    cdef int unless_lost(self) except -1:
        """In the handler of a ConnectionFailed of what can be asked again: raises it, unless a new session may help."""
        if not self.c.trouble or rfp_now() >= self.c.deadline:
            raise
        return 0

    # Calls of structures

    cdef int enter(self, object timeout) except -1:
        cdef double seconds = self.timeout
        cdef uint64_t now = rfp_now()
        if timeout is not None:
            seconds = timeout
            if not 0 < seconds < LONGEST_TIME:
                raise InvalidArgument(f"timeout={timeout!r} is not a time", hint="seconds, more than 0")
        if self.is_forked:
            raise Forked("this front-end belongs to the parent process", hint="connect again in the child; or use 'spawn'")
        if self.is_closed:
            raise Closed("this front-end was closed")
        if self.baton.holder and self.baton.holder == <uint64_t> PyThread_get_thread_ident():
            raise CallerError("this thread is inside another call of this front-end",
                              hint="a signal handler, a finalizer or a codec must not use the front-end that it interrupts")
        if not self.baton.take(seconds):
            raise DeadlineExceeded("another thread is using this front-end",
                                   hint="give the call more timeout, or connect once for each thread")
        if self.is_closed:
            self.leave()
            raise Closed("this front-end was closed")
        self.c.deadline = now + <uint64_t> (seconds * 1e9)
        return 0

    cdef void leave(self) noexcept:
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
            raise OutOfMemory("no block is free in the pool", hint="free something, or grow the pool: rnvm grow")
        if found == TOO_LONG:
            raise TooLarge("an operation does not fit into the pool's logs",
                           hint=f"half of a ring at most: {self.c.memory.size // 2} bytes here; make the pool with larger ones")
        if found == NO_MEMORY:
            raise MemoryError()
        raise ConnectionFailed(f"the session at {self.address} was lost", hint="is the back-end running?")

    cdef int again(self, instance *s, int found, bint operation) except -1:
        cdef doubt written = self.c.doubt
        cdef uint32_t session = self.c.session
        cdef uint64_t epoch = self.c.epoch
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
        if operation and self.outcome(session, epoch, &written):
            self.settled = result
            return 1
        return 0

    cdef int outcome(self, uint32_t session, uint64_t epoch, const doubt *written) except -1:
        """Whether what an earlier session of ours wrote last counts; if it does not, it never will.

        An operation whose record counts is done, also where that of what it changed does not: it is executed again.
        """
        cdef rnvm_outcome question
        cdef int ring, found
        memset(&question, 0, sizeof(question))
        question.session = session
        question.epoch = epoch
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

    # Structures

    cdef int open_structure(self, object structure, instance *s, bint create, object timeout) except -1:
        cdef instance **grown
        if structure.name in self.structures:
            raise AlreadyExists(f"{structure.name!r} is open at this front-end already",
                                hint="use that object, or connect once more")
        self.enter(timeout)
        try:
            s.fe = &self.c
            while True:
                self.ready()
                try:
                    self.find(structure, s, create)
                    break
                except ConnectionFailed:
                    self.unless_lost()
            grown = <instance **> realloc(self.c.instances, (self.c.instance_count + 1) * sizeof(instance *))
            if grown == NULL:
                raise MemoryError()
            self.c.instances = grown
            grown[self.c.instance_count] = s
            self.c.instance_count += 1
            self.structures[structure.name] = structure
            while s.number == 0:
                with nogil:
                    found = turn_begin(s, (sizeof(rnvm_slabs) + s.kind.root + self.c.g.block - 1) // self.c.g.block)
                if found == OK:
                    break
                self.again(s, found, False)
        finally:
            self.leave()
        return 0

    cdef int find(self, object structure, instance *s, bint create) except -1:
        """The structure's entry, by its name."""
        cdef rnvm_open question
        cdef char[OPENING] text
        cdef char[64] answer
        cdef rnvm_opened found
        cdef uint32_t got = 0
        cdef bytes name = structure.name.encode()
        cdef bytes codec = codec_name(structure.codec)
        if not 1 <= len(name) <= 160:
            raise InvalidArgument(f"a name of {len(name)} bytes", hint="1 to 160, in UTF-8")
        memset(&question, 0, sizeof(question))
        question.kind = s.kind.number
        question.format = s.kind.format
        question.root = <uint32_t> sizeof(rnvm_slabs) + s.kind.root
        question.create = create
        memcpy(question.codec, <const char *> codec, len(codec))
        memcpy(text, &question, sizeof(question))
        memcpy(text + sizeof(question), <const char *> name, len(name))
        self.raise_for(self.call(RNVM_FIND, text, <uint32_t> (sizeof(question) + len(name)), answer, sizeof(answer), &got))
        if self.c.refusal == RNVM_ABSENT:
            raise NotFound(f"there is no structure {structure.name!r}", hint="create=True makes one")
        if self.c.refusal == RNVM_NO_SPACE:
            raise OutOfMemory(f"no room for the structure {structure.name!r}",
                              hint="drop another one, or grow the pool: rnvm grow")
        if self.c.refusal == RNVM_OTHER_KIND:
            raise WrongKind(f"{structure.name!r} is another kind of structure, or of another format", hint="rnvm ls tells which")
        if self.c.refusal == RNVM_OTHER_CODEC:
            raise WrongKind(f"{structure.name!r} was made with codec={answer[:got].decode(errors='replace') or None!r}",
                            hint="open it with the same one")
        if self.c.refusal != RNVM_GOOD or got != sizeof(found):
            self.raise_for(LOST)
        memcpy(&found, answer, sizeof(found))
        if s.id and s.id != found.structure:
            raise NotFound(f"the structure {structure.name!r} was dropped, and another one has its name",
                           hint="open that one anew")
        s.id = found.structure
        s.index = rnvm_structure_index(found.structure)
        s.slabs = found.root
        s.root = found.root + sizeof(rnvm_slabs)
        s.number = found.number
        s.seen = 1
        return 0

    cdef void forget(self, instance *s) noexcept:
        """The object is no more.  Its instance goes now, or when the thread that is inside leaves."""
        cdef uint32_t i
        for i in range(self.c.instance_count):
            if self.c.instances[i] == s:
                break
        else:
            free(s)                             # it was not opened
            return
        s.gone = True
        self.c.gone += 1
        if not self.baton.holder:
            self.baton.holder = <uint64_t> PyThread_get_thread_ident()
            self.c.deadline = rfp_now() + <uint64_t> (GOODBYE * 1e9)
            self.leave()

    cdef void reap(self) noexcept:
        """Forgets the instances whose objects are no more."""
        cdef instance *s
        cdef uint32_t i = 0
        while i < self.c.instance_count:
            s = self.c.instances[i]
            if s.gone:
                with nogil:
                    turn_settle(s)
            if not s.gone or s.touched:         # the transaction under way still names it
                i += 1
                continue
            cache_clear(&self.c, s)
            self.c.gone -= 1
            self.c.instance_count -= 1
            self.c.instances[i] = self.c.instances[self.c.instance_count]
            free(s)

    def names(self, *, timeout=None):
        """The structures of the pool: a dict, name -> {"kind", "format", "codec", "uuid", "created"}.  One call for some
        dozens."""
        cdef uint64_t first = 0, at
        cdef uint32_t got = 0
        cdef rnvm_listed item
        cdef bytearray room = bytearray(LISTING)
        cdef char *answer = room
        result = {}
        self.enter(timeout)
        try:
            while True:
                self.ready()
                try:
                    self.raise_for(self.call(RNVM_LIST, &first, sizeof(first), answer, LISTING, &got))
                except ConnectionFailed:
                    self.unless_lost()
                    continue
                if self.c.refusal != RNVM_GOOD:
                    self.raise_for(LOST)
                at = 0
                while at + sizeof(item) <= got:
                    memcpy(&item, answer + at, sizeof(item))
                    at += sizeof(item)
                    name = (<bytes> answer[at:at + item.name_length]).decode(errors="replace")
                    at += rnvm_up(item.name_length, 8)
                    result[name] = {"kind": item.kind, "format": item.format, "uuid": (<bytes> (<char *> item.uuid)[:16]).hex(),
                                    "codec": (<bytes> item.codec[:16]).rstrip(b"\0").decode(errors="replace"),
                                    "created": item.created}
                    first = rnvm_structure_index(item.structure) + 1
                if not at:
                    return result
        finally:
            self.leave()

    def drop(self, str name not None, *, timeout=None):
        """Frees a structure with all that is in it.  Raises NotFound, CallerError where it is open or in use.  One call."""
        cdef bytes encoded = name.encode()
        if name in self.structures:
            raise CallerError(f"{name!r} is open at this front-end", hint="let go of that object first")
        self.enter(timeout)
        try:
            while True:
                self.ready()
                found = self.call(RNVM_DROP, <const char *> encoded, <uint32_t> len(encoded), NULL, 0, NULL)
                if found != FENCED:
                    break
            self.raise_for(found)
            if self.c.refusal == RNVM_ABSENT:
                raise NotFound(f"there is no structure {name!r}")
            if self.c.refusal == RNVM_IN_USE:
                raise CallerError(f"another front-end is writing to {name!r}", hint="let it close the structure first")
            if self.c.refusal != RNVM_GOOD:
                self.raise_for(LOST)
        finally:
            self.leave()

    # Batches and transactions

    def batch(self):
        """Operations that are durable one by one, and that others see together when the context ends (AsymNVM, section on
        batching).

        A batch whose changes do not fit into one record of the memory log becomes visible in several steps.  One thread at a
        time.
        """
        return Batch(self)

    def transaction(self, *structures, timeout=None):
        """Operations on these structures of which all hold or none; an exception discards them.

        Their locks are taken at the start, in an order that is the same for all.  Raises TooLarge at the end if it does not fit
        into
        one record of the memory log, ConnectionFailed if the session was lost before: nothing was done then.
        """
        return Transaction(self, structures, timeout)

    def _begin_batch(self):
        self.enter(None)
        try:
            if self.c.batching or self.c.transacting:
                raise CallerError("a batch has begun already, or a transaction", hint="end it first")
            self.ready()
            self.c.batching = True
            self.baton.keep(True)
        finally:
            self.leave()

    def _end_batch(self):
        cdef int found
        self.enter(None)
        try:
            with nogil:
                found = transaction_commit(&self.c)
            self.c.batching = False
            while found != OK and (found == LOST or found == FENCED):
                # Each operation was durable by itself, and is executed again by whoever takes the lock: that is us.
                written = [each for each in self.structures.values() if each._was_entered()]
                self.connect_again()
                found = OK
                for each in written:
                    found = found or each._take_lock()
            with nogil:
                turn_leave(&self.c)
            cache_forget(&self.c)
            self.raise_for(found)
        finally:
            self.c.batching = False
            self.baton.keep(False)
            self.leave()

    def _begin_transaction(self, structures, timeout):
        cdef int found = OK
        self.enter(timeout)
        try:
            if self.c.transacting:
                raise CallerError("a transaction has begun already", hint="end it first")
            if not structures or len({id(s) for s in structures}) != len(structures):
                raise InvalidArgument("a transaction is over one or more different structures")
            for each in structures:
                if getattr(each, "fe", None) is not self:
                    raise InvalidArgument(f"{each!r} is no structure of this front-end")
            while True:
                self.ready()
                with nogil:
                    found = transaction_commit(&self.c)
                    turn_leave(&self.c)
                self.c.transacting = True
                for each in sorted(structures, key=lambda each: each._index()):
                    found = found or each._enter()
                if found == OK:
                    break
                self.c.transacting = False
                with nogil:
                    turn_leave(&self.c)
                if found != LOST and found != FENCED:
                    self.raise_for(found)
            self.broken = False
            self.baton.keep(True)
            self.members = structures
            for each in structures:
                each._mark()
        finally:
            self.leave()

    def _end_transaction(self, bint good):
        cdef int found = OK
        cdef doubt written
        self.enter(None)
        try:
            if not good or self.broken or self.c.trouble:
                changes_undo(&self.c, 0)
                for each in self.members:
                    each._unmark()
                self.c.transacting = False
                with nogil:
                    turn_leave(&self.c)
                if good:
                    raise ConnectionFailed(f"the session at {self.address} was lost during a transaction: nothing of it was done",
                                           hint="do the transaction again")
                return
            with nogil:
                journal_trust(&self.c)
                found = transaction_commit(&self.c)
            if found == TOO_LONG:
                changes_undo(&self.c, 0)
                for each in self.members:
                    each._unmark()
            self.c.transacting = False
            if found == LOST or found == FENCED:
                written = self.c.doubt
                session, epoch = self.c.session, self.c.epoch
                try:
                    self.connect_again()
                except ConnectionFailed as error:
                    if written.any:
                        raise unknown(self.address) from error
                    raise
                if not self.outcome(session, epoch, &written):
                    raise ConnectionFailed(f"the session at {self.address} was lost at the end of a transaction: nothing of it "
                                           "was done",
                                           hint="do the transaction again")
                return
            with nogil:
                turn_leave(&self.c)
            cache_forget(&self.c)
            self.raise_for(found)
        finally:
            self.c.transacting = False
            self.members = ()
            self.baton.keep(False)
            self.leave()

    # The end

    @property
    def closed(self):
        return self.is_closed

    @property
    def figures(self):
        """What it has done, as a dict."""
        return {"reads": self.c.reads, "writes": self.c.writes, "calls": self.c.calls, "hits": self.c.hits,
                "misses": self.c.misses,
                "evictions": self.c.evictions, "restarts": self.c.restarts, "executed_again": self.c.executed_again,
                "cached": self.c.bytes, "nodes": self.c.node_count, "session": self.c.session, "epoch": self.c.epoch}

    @property
    def promise(self):
        """What a call that has returned has made sure of, in words."""
        if not self.c.persistent:
            return "volatile: nothing survives a crash of the back-end for sure"
        if self.forgetful:
            return "persistent, on a medium that survives process crash only"
        return "persistent"

    def release(self, *, timeout=None):
        """Gives all writer locks back, as if others had asked for them."""
        cdef int found
        self.enter(timeout)
        try:
            self.ready()
            with nogil:
                found = turn_release(&self.c)
            self.raise_for(found)
        finally:
            self.leave()

    def close(self):
        """Ends the session.  Waits for a call of another thread that is under way.  Safe to call again."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.is_forked:
            return
        if self.baton.holder:
            self.channel.interrupt()
            if self.baton.holder == <uint64_t> PyThread_get_thread_ident():
                return                          # a signal handler of the call that is under way, which will end it
        self.baton.keeper = 0                   # no batch or transaction goes on
        self.baton.take(LONGEST_TIME)
        self.c.deadline = rfp_now() + <uint64_t> (GOODBYE * 1e9)
        self.leave()

    cdef int finish(self) except -1:
        """Nobody will be inside any more."""
        if self.has_ended:
            return 0
        self.has_ended = True
        if not self.c.trouble and not self.channel.c.closing:
            if self.c.transacting:
                changes_undo(&self.c, 0)
            else:
                with nogil:
                    transaction_commit(&self.c)
            self.call(RNVM_DETACH, NULL, 0, NULL, 0, NULL)
        self.forget_session()
        self.end()
        close = getattr(self.opener, "close", None)
        if close is not None:
            close()
        return 0

    def forked(self):
        """The child of a fork has no part in the session."""
        self.is_forked = self.is_closed = True
        self.c.trouble = LOST
        if self.link is not None:
            self.link.forked()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<rnvm.FrontEnd at {self.address}{' (closed)' if self.is_closed else ''}>"


def forget_parents_handles():
    for handle in list(handles):
        handle.forked()


def close_handles():
    for handle in list(handles):
        handle.close()


os.register_at_fork(after_in_child=forget_parents_handles)
atexit.register(close_handles)

# cython: nonecheck=True
"""The front-end: a session at a back-end, and the structures that are open in it.  docs/rnvm.md
states its guarantees; scope.pyx has its batches and transactions."""

import os
import weakref
from collections import namedtuple

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from rfp.core.core cimport rfp_now
from rfp.protocol.client.client_base cimport born, seconds_of
from rnvm.format.layout cimport RNVM_NAME_MAX, rnvm_structure_index, rnvm_up
from rnvm.format.messages cimport *
from rnvm.format.node cimport rnvm_slabs
from rnvm.frontend.node_cache cimport cache_init
from rnvm.frontend.operation cimport (
    locks_return, structure_begin, structure_close, transaction_commit)
from rnvm.frontend.remote cimport (
    link_set_deadline, remote_apply_logs, session_fail)
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport instance
from rnvm.frontend.promise cimport promise_serves
from rnvm.frontend.status cimport FENCED, LOST, OK, UNREPLICATED
from rnvm.frontend.watch cimport watches_wake

from rfp.errors import (
    AlreadyExists, CallerError, ConnectionFailed, DeadlineExceeded, InvalidArgument, NotFound,
    OutcomeUnknown, OutOfMemory, ReadConflict, WrongKind, bad_choice, not_copied)
from rfp.core.forks import in_child, notice
from rfp.core.at_exit import at_exit
from rfp.protocol.client.client_base import TIME_S_MAX
from rnvm.format import partitions
from rnvm.frontend.scope import Batch, ReadTransaction, Transaction
from rnvm.frontend.session import GOODBYE_S, few_mirrors

cdef enum:
    FIND_BYTES = 300           # of a request that opens a structure, at most
    LIST_BYTES = 1 << 20       # of a response that lists structures, at most

DURABILITIES = ("volatile", "persistent", "replicated")
CONFLICTS_MAX = 8              # of a read() before it acquires the locks

Entry = namedtuple("Entry", "name id kind format codec uuid created")   # of the catalog

handles = weakref.WeakSet()


@cython.no_gc_clear                     # its structures still need it when they are deallocated
cdef class FrontEnd(Session):
    """A session at a back-end, in which structures are opened; made by `rnvm.connect`.

    Several threads may use it; they take turns.  Closing it gives its locks back; its changes stay.
    """

    def __init__(self, opener, *, str durability="persistent", timeout=5.0, bint reconnect=True,
                 uint64_t cache=64 << 20, bint oplog=True, str lock="sticky"):
        if durability not in DURABILITIES:
            raise bad_choice("durability", durability, DURABILITIES)
        notice()
        self.opener = opener
        self.address = opener.address
        self.timeout = seconds_of(timeout)
        self.reconnect = reconnect
        self.durability = durability
        self.structures = weakref.WeakValueDictionary()
        self.wants_operation_log = oplog
        self.uses_cas = lock == "cas"
        self.set_terms(durability, lock == "sticky", cache == 0 and not oplog)
        cache_init(&self.c, cache, int.from_bytes(os.urandom(8), "little") | 1)
        link_set_deadline(&self.c, rfp_now() + <uint64_t> (self.timeout * 1e9))
        self.is_closed = False
        try:
            self.begin_patiently()
        except BaseException:
            self.is_closed = True
            self.end()
            raise
        handles.add(self)

    def __reduce__(self):
        raise not_copied(self,
                         "connect again: each process, and each copy, needs a session of its own")

    def __del__(self):
        self.close()

    # Structures

    cdef int open_structure(self, object structure, instance *s, bint create,
                            object timeout) except -1:
        cdef int status
        cdef bint made_room = False
        self.acquire_call(timeout)
        try:
            # Not before: another thread may be opening it, and two instances would share a lock.
            if structure.name in self.structures:
                raise AlreadyExists(f"{structure.name!r} is open at this front-end already",
                                    hint="use that object, or connect once more")
            s.fe = &self.c
            while True:
                self.ensure_session()
                try:
                    in_transaction = self.c.scope.transacting or self.c.moment.is_open
                    may_create = create and not in_transaction
                    self.find(structure, s, may_create)
                    if s.number == 0:
                        # Its first transaction may be in its maker's log and not be applied yet.
                        # Making it again would wait for the lock, which the maker may have.
                        with nogil:
                            status = remote_apply_logs(&self.c)
                        self.raise_for(status)
                        self.find(structure, s, may_create)
                        if s.number == 0 and in_transaction:
                            raise NotFound(
                                f"the structure {structure.name!r} has no first transaction yet")
                    break
                except ConnectionFailed:
                    self.raise_unless_lost()
                except OutOfMemory:
                    if made_room or in_transaction or not structure._make_room():
                        raise
                    made_room = True
                except NotFound:
                    if not create or not in_transaction:
                        raise
                    raise CallerError(
                        f"{structure.name!r} cannot be made within a transaction: making it cannot "
                        "be undone", hint="open it before the transaction") from None
            self.add_instance(s)
            self.structures[structure.name] = structure
            self.make_first_nodes(structure, s)
        except BaseException:
            s.id = 0                            # the object may live on; it must not be used
            raise
        finally:
            self.release_call()
        return 0

    cdef int make_first_nodes(self, object structure, instance *s) except -1:
        """Commits the first transaction of a new structure."""
        cdef uint64_t block = self.c.g.block
        cdef uint64_t first_bytes = sizeof(rnvm_slabs) + s.kind.root
        cdef int status, unused = 0
        try:
            while s.number == 0:
                with nogil:
                    status = structure_begin(s, (first_bytes + block - 1) // block)
                if status == OK:
                    break
                self.raise_or_retry(s, status, False, &unused)
            self.await_replicated()             # if the session is lost now, the next call shows it
        except BaseException:
            # Its name may be opened again, so this object must not hold the lock.
            del self.structures[structure.name]
            with nogil:
                structure_close(s)
            raise
        return 0

    cdef int confirm(self, object structure, instance *s, object timeout) except -1:
        """Raises NotFound if the structure was dropped after it was opened."""
        cdef rnvm_opened unused
        self.acquire_call(timeout)
        try:
            while True:
                self.ensure_session()
                try:
                    self.look_up(structure, s, False, True, &unused)
                    return 0
                except ConnectionFailed:
                    self.raise_unless_lost()
        finally:
            self.release_call()

    cdef int give_up(self, object structure, instance *s) except -1:
        """Closes the instance that a structure has given up, and forgets its name."""
        if self.structures.get(structure.name) is structure:
            del self.structures[structure.name]
        self.forget(s)
        return 0

    cdef int find(self, object structure, instance *s, bint create, bint reads=True) except -1:
        """Finds the structure's naming entry, or makes it.  reads: also without its lock."""
        cdef rnvm_opened opened
        self.look_up(structure, s, create, reads, &opened)
        s.id = opened.structure
        memcpy(s.uuid, opened.uuid, sizeof(s.uuid))
        s.index = rnvm_structure_index(opened.structure)
        s.slabs = opened.root
        s.root = opened.root + sizeof(rnvm_slabs)
        s.number = opened.number
        s.seen = 1
        _, s.partition, s.partitions = partitions.parsed(structure._entry_name())
        return 0

    cdef int look_up(self, object structure, instance *s, bint create, bint reads,
                     rnvm_opened *opened) except -1:
        cdef rnvm_open question
        cdef char[FIND_BYTES] text
        cdef char[64] answer
        cdef uint32_t got = 0, told
        cdef bytes name = structure._entry_name()
        cdef bytes codec = structure._codec_bytes()
        if not 1 <= len(name) <= RNVM_NAME_MAX:
            raise InvalidArgument(f"a structure's name must be between 1 and {RNVM_NAME_MAX} "
                                  f"bytes of UTF-8, got {len(name)}")
        memset(&question, 0, sizeof(question))
        question.kind = s.kind.number
        question.format = s.kind.format
        question.root = <uint32_t> sizeof(rnvm_slabs) + s.kind.root
        question.flags = (RNVM_CREATE if create else 0) \
            | (RNVM_VERSIONED if reads and s.kind.collect != NULL else 0)
        memcpy(question.codec, <const char *> codec, len(codec))
        memcpy(text, &question, sizeof(question))
        memcpy(text + sizeof(question), <const char *> name, len(name))
        self.raise_for(self.call(RNVM_FIND, text, <uint32_t> (sizeof(question) + len(name)), answer,
                                 sizeof(answer), &got))
        told = self.c.link.status
        self.raise_unless_serving()             # also for an error: the next primary may know more
        self.raise_not_found(structure, told, answer[:got])
        if got != sizeof(opened[0]):
            self.raise_for(LOST)
        memcpy(opened, answer, sizeof(opened[0]))
        if s.id and (s.id != opened.structure or memcmp(s.uuid, opened.uuid, sizeof(s.uuid))):
            raise NotFound(f"the structure {structure.name!r} was dropped, and another one has its "
                           "name", hint="open it again to use that one")
        return 0

    cdef int raise_not_found(self, object structure, uint32_t status, bytes codec) except -1:
        """Raises the error of a status of RNVM_FIND, unless it is good.  codec: its payload."""
        if status == RNVM_GOOD:
            return 0
        base, place, _ = partitions.parsed(structure._entry_name())
        if status == RNVM_ABSENT and place:
            raise NotFound(f"the mapping {base.decode()!r} has no partition {place}: it was "
                           "dropped meanwhile, or its maker has died",
                           hint="open it again, with create=True to make what is missing")
        if status == RNVM_FEW_MIRRORS:
            raise few_mirrors()
        if status == RNVM_UNREPLICATED:
            raise self.not_in_time(False)
        if status == RNVM_IN_USE:
            raise CallerError(f"another front-end is writing to the dropped {base.decode()!r}",
                              hint="close the mapping there first")
        if status == RNVM_ABSENT:
            raise NotFound(f"there is no structure {structure.name!r}",
                           hint="set create=True to make one")
        if status == RNVM_NO_SPACE:
            raise OutOfMemory(f"no space for the structure {structure.name!r}",
                              hint="drop another one, or grow the pool: rnvm grow")
        if status == RNVM_OTHER_KIND:
            raise WrongKind(
                f"{structure.name!r} is another kind of structure, or has another format",
                hint="run rnvm ls to see which")
        if status == RNVM_OTHER_PARTITIONS:
            number = codec.decode(errors="replace")
            raise WrongKind(f"{base.decode()!r} has {'no' if number == '0' else number} partitions",
                            hint="open it without partitions=" if number == "0"
                                 else f"open it with partitions={number}")
        if status == RNVM_OTHER_CODEC:
            made_with = codec.decode(errors="replace") or None
            raise WrongKind(f"{structure.name!r} was made with codec={made_with!r}",
                            hint="open it with the same one")
        self.raise_for(LOST)
        return 0

    cdef void forget(self, instance *s) noexcept:
        """The structure's object is gone: closes its instance now, or at the end of the call."""
        if not born[0]:
            notice()
        if not self.mark_gone(s):
            free(s)                             # it was not opened
            return
        # A forked child has no session through which it could give locks back.
        if not self.lock.holder and not self.is_forked:
            self.lock.holder = <uint64_t> PyThread_get_thread_ident()
            link_set_deadline(&self.c, rfp_now() + <uint64_t> (GOODBYE_S * 1e9))
            self.release_call()

    def names(self, *, timeout=None):
        """Return the pool's structures.

        Args:
            timeout: seconds [default: the front-end's]

        Returns:
            A dict, name -> {"kind", "format", "codec", "uuid", "created"}; for a mapping with
            partitions also "partitions", their number.

        Cost: one call for some dozens of structures
        """
        result = {}
        self.acquire_call(timeout)
        try:
            while True:
                self.ensure_session()
                try:
                    listed = self.entries()
                    self.raise_unless_serving()
                    break
                except ConnectionFailed:
                    self.raise_unless_lost()
        finally:
            self.release_call()
        for each in listed:
            base, place, number = partitions.parsed(each.name)
            if place:                           # partition 0 is listed, unless it was dropped
                continue
            result[base.decode(errors="replace")] = {
                "kind": each.kind, "format": each.format, "uuid": each.uuid,
                "codec": each.codec.decode(errors="replace"), "created": each.created,
                **({"partitions": number} if number else {})}
        return result

    cdef list entries(self):
        """Returns the naming entries, in a call."""
        cdef uint64_t first = 0, at
        cdef uint32_t got = 0
        cdef rnvm_listed item
        cdef bytearray room = bytearray(LIST_BYTES)
        cdef char *answer = room
        cdef list found = []
        while True:
            self.raise_for(self.call(RNVM_LIST, &first, sizeof(first), answer, LIST_BYTES, &got))
            if self.c.link.status == RNVM_UNREPLICATED:
                self.raise_unless_serving()     # else the next primary is asked
                raise self.not_in_time(False)
            if self.c.link.status != RNVM_GOOD:
                self.raise_for(LOST)
            at = 0
            while at + sizeof(item) <= got:
                memcpy(&item, answer + at, sizeof(item))
                at += sizeof(item)
                name = <bytes> answer[at:at + item.name_length]
                at += rnvm_up(item.name_length, 8)
                first = rnvm_structure_index(item.structure) + 1
                found.append(Entry(
                    name, item.structure, item.kind, item.format,
                    (<bytes> item.codec[:16]).rstrip(b"\0"),
                    (<bytes> (<char *> item.uuid)[:16]).hex(), item.created))
            if not at:
                return found

    def drop(self, str name not None, *, timeout=None):
        """Free a structure and everything in it.  The changes of a batch are written first.

        Args:
            name: of the structure
            timeout: seconds [default: the front-end's]

        Raises:
            NotFound: there is none
            InvalidArgument: it is the name of one partition of a mapping
            CallerError: the structure is open here or in use elsewhere; or within a transaction,
                which could not undo it, or a read transaction
            OutcomeUnknown: the back-end died during the call

        Cost: two calls
        """
        cdef bytes encoded = partitions.name_bytes(name)
        cdef int status
        cdef uint32_t told = 0
        if partitions.parsed(encoded)[2]:
            raise InvalidArgument("a partition cannot be dropped by itself",
                                  hint="drop the mapping: give its name")
        self.acquire_call(timeout)
        try:
            if name in self.structures:
                raise CallerError(f"{name!r} is open at this front-end",
                                  hint="delete that object first")
            while True:
                self.ensure_session()
                if self.c.scope.transacting or self.c.moment.is_open:
                    raise CallerError(
                        "a structure cannot be dropped within a transaction: that cannot be undone",
                        hint="end the transaction first")
                # A harmless call first.  It finds out if the back-end was restarted meanwhile; the
                # drop itself would leave its outcome unknown.
                with nogil:
                    status = transaction_commit(&self.c)
                    if status == OK:
                        status = remote_apply_logs(&self.c)
                if status == OK:
                    status = self.call(RNVM_DROP, <const char *> encoded, <uint32_t> len(encoded),
                                       NULL, 0, NULL)
                    told = self.c.link.status
                    if status == OK:
                        with nogil:
                            status = promise_serves(&self.c)
                        if status == FENCED:
                            status = LOST       # the drop was answered, and must not be repeated
                    if status == LOST:
                        raise OutcomeUnknown(
                            f"the session at {self.address} was lost while {name!r} was dropped",
                            hint="the drop may or may not have happened: list the names(), then "
                                 "decide")
                if status != FENCED and (status != LOST or rfp_now() >= self.c.link.deadline_ns):
                    break
            if status == UNREPLICATED:
                raise self.not_in_time(True)
            self.raise_for(status)
            if told == RNVM_ABSENT:
                raise NotFound(f"there is no structure {name!r}")
            if told == RNVM_FEW_MIRRORS:
                raise few_mirrors()
            if told == RNVM_UNREPLICATED:
                raise self.not_in_time(True)
            if told == RNVM_IN_USE:
                raise CallerError(f"another front-end is writing to {name!r}",
                                  hint="close the structure there first")
            if told != RNVM_GOOD:
                self.raise_for(LOST)
        finally:
            self.release_call()

    # Batches and transactions

    def batch(self):
        """Return a context for operations whose changes are written together when it ends
        (AsymNVM, section on batching).  Each operation is durable by itself.

        A batch saves writes and isolates nothing: its changes are written, and others see them,
        before its end if it needs a lock that this front-end does not have, if it changes more than
        64 structures or more than one record of the memory log, if it makes or drops a structure,
        calls `release()`, or loses its session.  Use a transaction for changes that must be seen as
        a whole.  It belongs to this thread.

        Raises:
            CallerError: within a batch or a transaction
        """
        return Batch(self)

    def transaction(self, *structures, timeout=None):
        """Return a context for operations on these structures of which all count or none; an
        exception discards them.

        Their locks are acquired at the start, in an order that is the same for all front-ends.
        Within it calls on other structures, making, dropping and `release()` raise CallerError.  It
        belongs to this thread.

        Args:
            structures: one or more that are open here
            timeout: seconds, of its start [default: the front-end's]

        Raises:
            CallerError: within another transaction
            InvalidArgument: a structure is not open here
            TooLarge: from the operation that would exceed 64 structures or one record of the memory
                log; it is not done
            ConnectionFailed: at the end, if the session was lost before: nothing was done
        """
        return Transaction(self, structures, timeout)

    def read_transaction(self, *structures, timeout=None):
        """Return a context for queries that all see these structures at one moment, between its
        begin and its end, without a lock.

        Within it, changes, making, dropping and calls on other structures raise CallerError.  Other
        front-ends may change the structures meanwhile.  If they change data that was read here
        already, the next query raises ReadConflict; the answers before were of one moment.  A
        structure that changes too fast for a query is locked, with all the others.  It belongs to
        this thread.

        Args:
            structures: one or more that are open here
            timeout: seconds, of its start [default: the front-end's]

        Raises:
            CallerError: within a transaction
            InvalidArgument: a structure is not open here
            ReadConflict: from a query, or at the end if a query has raised it before: repeat all
            ConnectionFailed: the session was lost: repeat all

        Cost: two READs for each structure with the first query (one if it names one structure)
        """
        return ReadTransaction(self, structures, timeout)

    def read(self, function, *structures, timeout=None):
        """Call `function(*structures)` in a read transaction, and repeat it on a conflict.

        After eight conflicts the function runs under the locks of all the structures.

        Args:
            function: may be called several times; it must only read these structures
            structures: one or more that are open here
            timeout: seconds, for the beginnings and repetitions [default: the front-end's]; the
                function's queries have their own

        Returns: the function's result
        Raises:
            DeadlineExceeded: there was a conflict, and no time to repeat the function
            ReadConflict: the function raised it under the locks: it is another front-end's
        Cost: as read_transaction(), for each call of the function
        """
        cdef double seconds = self.timeout if timeout is None else seconds_of(timeout)
        cdef uint64_t deadline = rfp_now() + <uint64_t> (seconds * 1e9)
        cdef int conflicts = 0
        while True:
            seconds = max(self.seconds_left(deadline), 0.001)
            try:
                with ReadTransaction(self, structures, seconds, conflicts >= CONFLICTS_MAX):
                    return function(*structures)
            except ReadConflict as error:
                if conflicts >= CONFLICTS_MAX:
                    raise
                conflicts += 1
                if rfp_now() >= deadline:
                    raise DeadlineExceeded(
                        f"timed out: each of {conflicts} calls of the function had a conflict",
                        hint="increase the timeout, or read less at once") from error
            except ConnectionFailed:
                if not self.c.link.error or not self.reconnect or rfp_now() >= deadline:
                    raise

    # The end

    @property
    def closed(self):
        return self.is_closed

    @property
    def figures(self):
        """Counters of this front-end, as a dict."""
        return {"reads": self.c.stats.reads, "writes": self.c.stats.writes,
                "calls": self.c.stats.calls, "swaps": self.c.cas.swaps, "hits": self.c.cache.hits,
                "misses": self.c.cache.misses, "evictions": self.c.cache.evictions,
                "restarts": self.c.stats.restarts, "extensions": self.c.stats.extensions,
                "conflicts": self.c.stats.conflicts, "executed_again": self.c.stats.reexecuted,
                "passed_over": self.c.stats.passed_over, "cached": self.c.cache.bytes,
                "slots": self.c.memory.used, "nodes": self.c.cache.node_count,
                "session": self.c.session.number, "epoch": self.c.session.epoch}

    @property
    def promise(self):
        """The guarantee of a call that has returned, in words."""
        if not self.c.session.persistent:
            return "volatile: nothing survives a crash of the back-end for sure"
        if self.c.session.replicated:
            return "replicated"
        if self.forgetful:
            return "persistent, on a medium that survives process crash only"
        return "persistent"

    def release(self, *, timeout=None):
        """Give all writer locks back, as if other front-ends had requested them.

        The changes of a batch are written first.

        Args:
            timeout: seconds [default: the front-end's]

        Raises:
            CallerError: within a transaction, which keeps its locks until it ends

        Cost: one call for each lock
        """
        cdef int status
        self.acquire_call(timeout)
        try:
            while True:
                self.ensure_session()
                if self.c.scope.transacting:
                    raise CallerError("a transaction keeps its locks until it ends",
                                      hint="end the transaction first")
                with nogil:
                    status = locks_return(&self.c)
                status = status or self.await_replicated()
                if status != LOST and status != FENCED:
                    break
            self.raise_for(status)
        finally:
            self.release_call()

    def close(self):
        """End the session.

        Waits for a call of another thread that is in progress.  May be called again.
        """
        if self.is_closed:
            return
        notice()
        self.is_closed = True
        if self.is_forked:
            return
        if self.lock.holder:
            self.channel.interrupt()
            if self.lock.holder == <uint64_t> PyThread_get_thread_ident():
                return                          # in a signal handler of a call, which will end it
        self.lock.reserve(False)                # no batch or transaction continues
        self.lock.acquire(TIME_S_MAX)
        watches_wake(self)
        link_set_deadline(&self.c, rfp_now() + <uint64_t> (GOODBYE_S * 1e9))
        self.release_call()

    def _end_waits(self):
        """End the waits of all threads until a structure changes: these calls raise Closed.

        All other calls go on: it is for a close() that must wait for them.
        """
        self.waits_ended = True
        watches_wake(self)

    def forked(self):
        """Detach the child of a fork: it has no part in the session."""
        self.is_forked = self.is_closed = True
        session_fail(&self.c, LOST)
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


in_child(forget_parents_handles)
at_exit(close_handles)

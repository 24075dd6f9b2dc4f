# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The front-end: a session at a back-end, and what is open in it (docs/rnvm.md says what it promises)."""

import os
import weakref

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from rfp.core.core cimport rfp_now
from rfp.protocol.client.client_base cimport seconds_of
from rnvm.format.layout cimport rnvm_structure_index, rnvm_up
from rnvm.format.messages cimport *
from rnvm.format.node cimport rnvm_slabs
from rnvm.frontend.status cimport FENCED, LOST, OK
from rnvm.frontend.session cimport Attachment
from rnvm.frontend.state cimport instance
from rnvm.frontend._transaction cimport transaction_commit, transactions_apply
from rnvm.frontend._turns cimport turn_begin, turn_release, turn_settle

from rfp.core.at_exit import at_exit
from rfp.core.forks import in_child, notice
from rfp.errors import (
    AlreadyExists, CallerError, ConnectionFailed, InvalidArgument, NotFound, OutOfMemory, WrongKind, not_copied)
from rfp.protocol.client.client_base import TIME_S_MAX
from rnvm.frontend._batch import Batch, Transaction

cdef enum:
    OPENING = 300              # bytes of a call that opens a structure
    LISTING = 1 << 20
    FIRST_LINGER = 1000        # ns

DURABILITIES = ("volatile", "persistent", "replicated")
GOODBYE = 0.5                  # seconds for what close() still has to say

handles = weakref.WeakSet()


@cython.no_gc_clear                     # its structures still need it when they go
cdef class FrontEnd(Attachment):
    """A session at a back-end, in which structures are opened; made by `rnvm.connect`.

    Usable from several threads, which take turns.  Closing it gives its locks back; what it did stays.
    """

    def __init__(self, opener, *, str durability="persistent", timeout=5.0, bint reconnect=True, uint64_t cache=64 << 20,
                 bint oplog=True, str lock="sticky"):
        if durability not in DURABILITIES:
            raise InvalidArgument(f"durability={durability!r}", hint=", ".join(DURABILITIES))
        notice()
        self.opener = opener
        self.address = opener.address
        self.timeout = seconds_of(timeout)
        self.reconnect = reconnect
        self.durability = durability
        self.structures = weakref.WeakValueDictionary()
        self.c.persistent = durability != "volatile"
        self.oplog = oplog
        self.c.sticky = lock == "sticky"
        self.swapping = lock == "cas"
        self.c.applied = cache == 0 and not oplog
        self.c.budget = cache
        self.c.linger = FIRST_LINGER
        self.c.looks = 1
        self.c.random = int.from_bytes(os.urandom(8), "little") | 1
        self.c.deadline = rfp_now() + <uint64_t> (self.timeout * 1e9)
        self.is_closed = False
        try:
            self.begin_patiently()
        except BaseException:
            self.is_closed = True
            self.end()
            raise
        handles.add(self)

    def __reduce__(self):
        raise not_copied(self, "connect again: each process, and each copy, needs a session of its own")

    def __del__(self):
        self.close()

    # Structures

    cdef int open_structure(self, object structure, instance *s, bint create, object timeout) except -1:
        cdef instance **grown
        cdef int found
        self.enter(timeout)
        try:
            # Not before: another thread may be opening it, and two instances would share a lock.
            if structure.name in self.structures:
                raise AlreadyExists(f"{structure.name!r} is open at this front-end already",
                                    hint="use that object, or connect once more")
            s.fe = &self.c
            while True:
                self.ready()
                try:
                    self.find(structure, s, create and not self.c.transacting)
                    if s.number == 0 and self.c.transacting:
                        # What makes it may be in its maker's log, and not be applied yet.
                        with nogil:
                            found = transactions_apply(&self.c)
                        self.raise_for(found)
                        self.find(structure, s, False)
                        if s.number == 0:
                            raise NotFound(f"the structure {structure.name!r} has not been begun")
                    break
                except ConnectionFailed:
                    self.unless_lost()
                except NotFound:
                    if not create or not self.c.transacting:
                        raise
                    raise CallerError(f"{structure.name!r} cannot be made within a transaction, which could not take that back",
                                      hint="open it before the transaction") from None
            grown = <instance **> realloc(self.c.instances, (self.c.instance_count + 1) * sizeof(instance *))
            if grown == NULL:
                raise MemoryError()
            self.c.instances = grown
            grown[self.c.instance_count] = s
            self.c.instance_count += 1
            self.structures[structure.name] = structure
            try:
                while s.number == 0:
                    with nogil:
                        found = turn_begin(s, (sizeof(rnvm_slabs) + s.kind.root + self.c.g.block - 1) // self.c.g.block)
                    if found == OK:
                        break
                    self.again(s, found, False)
            except BaseException:
                # Its name may be opened again, so this object must not have the lock.
                del self.structures[structure.name]
                with nogil:
                    turn_settle(s)
                raise
        except BaseException:
            s.id = 0                            # the object may be kept, and must not be used
            raise
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
        from rnvm.frontend.structure import codec_name  # here, because that module imports this one
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
        if s.id and (s.id != found.structure or memcmp(s.uuid, found.uuid, sizeof(s.uuid))):
            raise NotFound(f"the structure {structure.name!r} was dropped, and another one has its name",
                           hint="open that one anew")
        s.id = found.structure
        memcpy(s.uuid, found.uuid, sizeof(s.uuid))
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
        if not self.baton.holder and not self.is_forked:     # a child has no session in which it could give locks back
            self.baton.holder = <uint64_t> PyThread_get_thread_ident()
            self.c.deadline = rfp_now() + <uint64_t> (GOODBYE * 1e9)
            self.leave()

    def names(self, *, timeout=None):
        """The structures of the pool: a dict, name -> {"kind", "format", "codec", "uuid", "created"}.

        One call for some dozens."""
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
        """Frees a structure with all that is in it; what a batch did before is written first.

        Raises NotFound; CallerError where it is open or in use, and within a transaction, which could not take that back.
        Cost: one call.
        """
        cdef bytes encoded = name.encode()
        cdef int found
        self.enter(timeout)
        try:
            if name in self.structures:
                raise CallerError(f"{name!r} is open at this front-end", hint="let go of that object first")
            while True:
                self.ready()
                if self.c.transacting:
                    raise CallerError("a structure cannot be dropped within a transaction, which could not take that back",
                                      hint="end the transaction first")
                with nogil:
                    found = transaction_commit(&self.c)
                if found == OK:
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
        """Operations that are durable one by one, and whose changes are written together when the context ends (AsymNVM, section
        on batching).

        It saves writes and isolates nothing: it is written, and others see it, before its end where it needs a lock that this
        front-end does not have, more than 64 structures or one record of the memory log, makes or drops a structure, calls
        `release()`, or loses its session.  What must be seen as a whole belongs into a transaction.  It is of this thread.
        Raises CallerError within a batch or a transaction.
        """
        return Batch(self)

    def transaction(self, *structures, timeout=None):
        """Operations on these structures of which all hold or none; an exception discards them.

        Their locks are taken at the start, in an order that is the same for all.  Within it calls on other structures, making,
        dropping and `release()` raise CallerError.  The operation with which it would change more than 64 structures, or no
        longer fit into one record of the memory log, raises TooLarge and is not done.  It is of this thread.  Raises CallerError
        within another one, InvalidArgument for what is not open here, and at its end ConnectionFailed if the session was lost
        before: nothing was done then.
        """
        return Transaction(self, structures, timeout)

    # The end

    @property
    def closed(self):
        return self.is_closed

    @property
    def figures(self):
        """What it has done, as a dict."""
        return {"reads": self.c.reads, "writes": self.c.writes, "calls": self.c.calls, "swaps": self.c.swaps, "hits": self.c.hits,
                "misses": self.c.misses, "evictions": self.c.evictions, "restarts": self.c.restarts,
                "executed_again": self.c.executed_again, "passed_over": self.c.passed_over,
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
        """Gives all writer locks back, as if others had asked for them; what a batch did so far is written first.

        Raises CallerError within a transaction, whose locks nobody else may have before it ends.  Cost: one call for each lock.
        """
        cdef int found
        self.enter(timeout)
        try:
            while True:
                self.ready()
                if self.c.transacting:
                    raise CallerError("a transaction keeps its locks until it ends", hint="end the transaction first")
                with nogil:
                    found = turn_release(&self.c)
                if found != LOST and found != FENCED:
                    break
            self.raise_for(found)
        finally:
            self.leave()

    def close(self):
        """Ends the session.  Waits for a call of another thread that is under way.  Safe to call again."""
        if self.is_closed:
            return
        notice()
        self.is_closed = True
        if self.is_forked:
            return
        if self.baton.holder:
            self.channel.interrupt()
            if self.baton.holder == <uint64_t> PyThread_get_thread_ident():
                return                          # a signal handler of the call that is under way, which will end it
        self.baton.keep(False)                  # no batch or transaction goes on
        self.baton.take(TIME_S_MAX)
        self.c.deadline = rfp_now() + <uint64_t> (GOODBYE * 1e9)
        self.leave()

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


in_child(forget_parents_handles)
at_exit(close_handles)

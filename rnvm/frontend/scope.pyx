# cython: nonecheck=True
"""The scopes of a front-end: batches, transactions and read transactions.

One at a time is open, except that a transaction may be within a batch.  It belongs to the thread
that has opened it: the fair lock is reserved for this thread.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from rnvm.frontend.log_writer cimport in_doubt_clear
from rnvm.frontend.moment cimport moment_begin, moment_end
from rnvm.frontend.node_cache cimport cache_trim
from rnvm.frontend.operation cimport (
    scope_set_batching, scope_set_transacting, structures_release, transaction_commit)
from rnvm.frontend.promise cimport promise_allows, promise_in_doubt, promise_serves
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport doubt, instance
from rnvm.frontend.status cimport FENCED, LOST, OK

from rfp.errors import (
    CallerError, Closed, ConnectionFailed, InvalidArgument, OutcomeUnknown, RfpError, not_copied)
from rnvm.frontend.session import unknown


cdef class Batch:
    """The result of `FrontEnd.batch()`: operations are durable one by one, and their changes are
    written together."""
    cdef readonly Session fe

    def __cinit__(self, Session fe not None):
        self.fe = fe

    def __reduce__(self):
        raise not_copied(self, "begin another one")

    def __enter__(self):
        cdef Session fe = self.fe
        fe.acquire_call(None)
        try:
            if fe.c.scope.batching or fe.open_transaction is not None:
                raise CallerError("a batch or a transaction is open already", hint="end it first")
            fe.ensure_session()
            fe.lock.reserve(True)
            fe.open_batch = self
            scope_set_batching(&fe.c, True)
        finally:
            fe.release_call()
        return fe

    def __exit__(self, kind, error, trace):
        cdef Session fe = self.fe
        cdef int status
        cdef bint promised
        if fe.is_forked and fe.open_batch is self:      # it is the parent's
            return
        acquire_to_end(fe, fe.open_batch is self)
        try:
            if fe.open_batch is not self:
                if kind is None:
                    raise not_open("batch")
                return
            if fe.open_transaction is not None:
                raise CallerError("a transaction is open in this batch",
                                  hint="end the transaction first")
            with nogil:
                status = transaction_commit(&fe.c)
            scope_set_batching(&fe.c, False)
            promised = fe.c.session.replicated or fe.c.session.guarded
            if status == OK and promised:
                with nogil:
                    structures_release(&fe.c)   # locks do not wait for mirrors
                status = fe.await_replicated()
            while status != OK and (status == LOST or status == FENCED):
                # Each operation is durable by itself, and the next holder of its structure's lock
                # executes it again: acquire the locks, so that this front-end does.
                written = [each for each in fe.structures.values() if each._was_entered()]
                try:
                    fe.connect_again()
                except (Closed, OutcomeUnknown):
                    raise
                except RfpError as error:
                    if promised:
                        raise unknown(fe.address) from error
                    raise
                status = OK
                for each in written:
                    status = status or each._take_lock()
                status = status or fe.await_replicated()
            with nogil:
                structures_release(&fe.c)
            cache_trim(&fe.c)
            if fe.c.link.error:
                fe.end()                        # so that others need not wait for the lease
            fe.raise_for(status)
        finally:
            if fe.open_batch is self and fe.open_transaction is None:
                scope_set_batching(&fe.c, False)
                fe.open_batch = None
                fe.lock.reserve(False)
            fe.release_call()


cdef class NamedScope:
    """A scope over the structures that it names."""
    cdef readonly Session fe
    cdef readonly tuple structures     # each partition by itself, once it was begun
    cdef readonly object timeout
    cdef tuple asked                   # as the caller names them
    cdef str title

    def __cinit__(self, Session fe not None, tuple structures not None, timeout, *_):
        self.fe, self.structures, self.timeout = fe, structures, timeout
        self.asked = structures

    def __reduce__(self):
        raise not_copied(self, "begin another one")

    def __enter__(self):
        cdef Session fe = self.fe
        cdef int status
        fe.acquire_call(self.timeout)
        try:
            self.structures = all_parts(fe, self.asked)
            fe.lock.reserve(True)
            while True:
                fe.ensure_session()
                with nogil:
                    status = transaction_commit(&fe.c)
                    if status == OK:
                        structures_release(&fe.c)
                if status == OK and fe.crowded:
                    # Before it holds a lock: other structures' locks are acquired for that.
                    fe.crowded = False
                    self.structures[0]._make_room()
                    continue
                if status == OK:
                    status = self.begin()
                if status == OK:
                    break
                if status != LOST and status != FENCED:
                    fe.raise_for(status)
            fe.broken = False
            fe.open_transaction = self
            for each in self.structures:
                each._mark()
        finally:
            if fe.open_transaction is None:
                fe.lock.reserve(fe.c.scope.batching)
            fe.release_call()
        return fe

    def __exit__(self, kind, error, trace):
        cdef Session fe = self.fe
        if fe.is_forked and fe.open_transaction is self:    # it is the parent's
            return
        acquire_to_end(fe, fe.open_transaction is self)
        try:
            if fe.open_transaction is not self:
                if kind is None:
                    raise not_open(self.title)
                return
            self.end(kind is None)
        finally:
            if fe.open_transaction is self:
                scope_set_transacting(&fe.c, False)
                fe.open_transaction = None
                fe.lock.reserve(fe.c.scope.batching)
            fe.release_call()

    cdef list in_order(self):
        """The structures in the order of their naming entries, in which all acquire the locks."""
        return sorted(self.structures, key=lambda each: each._index())

    cdef int begin(self) except 1:
        """Begins the scope.  Returns a status; unless it is OK, nothing has begun."""
        raise NotImplementedError

    cdef int end(self, bint good) except -1:
        """Ends the scope; good: its body has raised no exception."""
        raise NotImplementedError


cdef class Transaction(NamedScope):
    """The result of `FrontEnd.transaction()`: all of its operations count or none."""

    def __cinit__(self, *_):
        self.title = "transaction"

    cdef int begin(self) except 1:
        cdef Session fe = self.fe
        cdef int status = OK
        cdef bint begun = False
        scope_set_transacting(&fe.c, True)
        try:
            for each in self.in_order():
                status = status or each._acquire()
            begun = status == OK
        finally:
            if not begun:
                scope_set_transacting(&fe.c, False)
                with nogil:
                    structures_release(&fe.c)
        return status

    cdef int end(self, bint good) except -1:
        cdef Session fe = self.fe
        if good and not fe.broken and not fe.c.link.error:
            return self.commit()
        fe.discard_transaction()
        if good:
            raise self.nothing_done("during a transaction")
        return 0

    cdef int commit(self) except -1:
        cdef Session fe = self.fe
        cdef doubt written
        cdef uint32_t session
        cdef uint64_t epoch, ticket, records = fe.c.promise.records
        cdef int status
        with nogil:
            in_doubt_clear(&fe.c)
            status = promise_allows(&fe.c) if fe.c.write_set.record_bytes else OK
            if status == OK:
                status = transaction_commit(&fe.c)
        if status != OK and not fe.c.link.error:
            fe.discard_transaction()            # nothing was written
            fe.raise_for(status)
        scope_set_transacting(&fe.c, False)
        if status == OK and (fe.c.session.replicated or fe.c.session.guarded):
            with nogil:
                structures_release(&fe.c)       # locks do not wait for mirrors
            cache_trim(&fe.c)
            status = fe.await_replicated()
            if status != OK and fe.c.promise.records != records:
                promise_in_doubt(&fe.c)
        if status == LOST or status == FENCED:
            written = fe.c.in_doubt
            session, epoch, ticket = fe.c.session.number, fe.c.session.epoch, fe.ticket
            try:
                fe.connect_again()
            except (Closed, OutcomeUnknown):
                raise
            except RfpError as error:
                if written.any:
                    raise unknown(fe.address) from error
                raise
            if not fe.records_count(session, epoch, ticket, &written):
                raise self.nothing_done("at the end of a transaction")
            with nogil:
                status = promise_serves(&fe.c)
            if status != OK:
                raise unknown(fe.address)
            return 0
        with nogil:
            structures_release(&fe.c)
        cache_trim(&fe.c)
        fe.raise_for(status)
        return 0

    cdef object nothing_done(self, str when):
        return ConnectionFailed(
            f"the session at {self.fe.address} was lost {when}: nothing of it was done",
            hint="repeat the transaction")


cdef class ReadTransaction(NamedScope):
    """The result of `FrontEnd.read_transaction()`: its queries see one moment."""
    cdef readonly bint locked
    cdef instance **named
    cdef uint32_t count

    def __cinit__(self, Session fe not None, tuple structures not None, timeout, bint locked=False):
        self.title = "read transaction"
        self.locked = locked

    def __dealloc__(self):
        free(self.named)

    cdef int begin(self) except 1:
        cdef Session fe = self.fe
        cdef int status
        free(self.named)
        self.count = 0
        self.named = <instance **> malloc(len(self.structures) * sizeof(instance *))
        if self.named == NULL:
            raise MemoryError()
        for each in self.in_order():
            self.named[self.count] = <instance *> <size_t> each._instance()
            self.count += 1
        with nogil:
            status = moment_begin(&fe.c, self.named, self.count, self.locked)
            if status != OK:
                moment_end(&fe.c)
        return status

    cdef int end(self, bint good) except -1:
        cdef Session fe = self.fe
        cdef int status
        with nogil:
            # Under its locks, they must have been its own to the end.
            status = transaction_commit(&fe.c) if fe.c.moment.locked else OK
            status = moment_end(&fe.c) or status
        cache_trim(&fe.c)
        if not good:
            return 0
        if status == LOST or status == FENCED:
            raise ConnectionFailed(
                f"the session at {fe.address} was lost during a read transaction",
                hint="repeat the transaction")
        return fe.raise_for(status)


cdef tuple all_parts(Session fe, tuple structures):
    """The structures that a transaction names, each partition by itself.

    Some of one mapping may be named with partition(key), also the same one several times.
    """
    cdef list parts = []
    cdef object each, whole, part
    cdef bint alone
    if fe.open_transaction is not None:
        raise CallerError("a transaction is open already", hint="end it first")
    if not structures or len({id(s) for s in structures}) != len(structures):
        raise InvalidArgument("a transaction must name one or more different structures")
    for each in structures:
        whole = getattr(each, "_partition_of", each)
        alone = whole is not each
        if whole is None or fe.structures.get(getattr(whole, "name", None)) is not whole:
            raise InvalidArgument(f"{each!r} is not an open structure of this front-end")
        for part in each._parts():
            if alone and not any([part is own for own in whole._parts()]):
                raise InvalidArgument(f"{each!r} is not a partition of {whole!r}")
            if not any([part is other for other in parts]):
                parts.append(part)
    return tuple(parts)


cdef int acquire_to_end(Session fe, bint open) except -1:
    """Begins the call that ends a batch or a transaction, in any thread: a generator is not always
    closed in the thread that began it."""
    if open:
        fe.lock.reserve(True)
    try:
        fe.acquire_call(None)
    except BaseException:
        if open:
            fe.lock.abandon()
        raise
    return 0


cdef object not_open(str what):
    return CallerError(f"this {what} is not under way",
                       hint="it ended before, or the thread that began it did")

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, nonecheck=True
"""Batches and transactions: operations of which others see all at once, or none."""

from libc.stdint cimport uint32_t, uint64_t

from rnvm.frontend.status cimport FENCED, LOST, OK
from rnvm.frontend.session cimport Attachment
from rnvm.frontend.node_cache cimport cache_forget
from rnvm.frontend.state cimport doubt
from rnvm.frontend.log_writer cimport journal_trust
from rnvm.frontend._transaction cimport transaction_commit
from rnvm.frontend._turns cimport turn_leave

from rfp.errors import CallerError, ConnectionFailed, InvalidArgument, not_copied
from rnvm.frontend.session import unknown


cdef class Batch:
    """What `FrontEnd.batch()` gives: operations in it are durable one by one and written together."""
    cdef readonly Attachment fe

    def __cinit__(self, Attachment fe not None):
        self.fe = fe

    def __reduce__(self):
        raise not_copied(self, "begin another one")

    def __enter__(self):
        cdef Attachment fe = self.fe
        fe.enter(None)
        try:
            if fe.c.batching or fe.c.transacting:
                raise CallerError("a batch has begun already, or a transaction", hint="end it first")
            fe.ready()
            fe.baton.keep(True)
            fe.open_batch = self
            fe.c.batching = True
        finally:
            fe.leave()
        return fe

    def __exit__(self, kind, error, trace):
        cdef Attachment fe = self.fe
        cdef int found
        if fe.is_forked and fe.open_batch is self:      # the parent's; this child has no part in it
            return
        come_in(fe, fe.open_batch is self)
        try:
            if fe.open_batch is not self:
                if kind is None:
                    raise not_open("batch")
                return
            if fe.c.transacting:
                raise CallerError("a transaction is under way in this batch", hint="end the transaction first")
            with nogil:
                found = transaction_commit(&fe.c)
            fe.c.batching = False
            while found != OK and (found == LOST or found == FENCED):
                # Each operation was durable by itself, and is executed again by whoever takes the lock: that is us.
                written = [each for each in fe.structures.values() if each._was_entered()]
                fe.connect_again()
                found = OK
                for each in written:
                    found = found or each._take_lock()
            with nogil:
                turn_leave(&fe.c)
            cache_forget(&fe.c)
            if fe.c.trouble:
                fe.end()                        # so that nobody waits for the lease of what is given up
            fe.raise_for(found)
        finally:
            if fe.open_batch is self and not fe.c.transacting:
                fe.c.batching = False
                fe.open_batch = None
                fe.baton.keep(False)
            fe.leave()


cdef class Transaction:
    """What `FrontEnd.transaction()` gives: all of it or nothing."""
    cdef readonly Attachment fe
    cdef readonly tuple structures
    cdef readonly object timeout

    def __cinit__(self, Attachment fe not None, tuple structures not None, timeout):
        self.fe, self.structures, self.timeout = fe, structures, timeout

    def __reduce__(self):
        raise not_copied(self, "begin another one")

    def __enter__(self):
        cdef Attachment fe = self.fe
        cdef int found = OK
        fe.enter(self.timeout)
        try:
            if fe.c.transacting:
                raise CallerError("a transaction has begun already", hint="end it first")
            if not self.structures or len({id(s) for s in self.structures}) != len(self.structures):
                raise InvalidArgument("a transaction is over one or more different structures")
            for each in self.structures:
                if fe.structures.get(getattr(each, "name", None)) is not each:
                    raise InvalidArgument(f"{each!r} is no structure of this front-end")
            fe.baton.keep(True)
            while True:
                fe.ready()
                with nogil:
                    found = transaction_commit(&fe.c)
                if found == OK:
                    with nogil:
                        turn_leave(&fe.c)
                    fe.c.transacting = True
                    for each in sorted(self.structures, key=lambda each: each._index()):
                        found = found or each._enter()
                    if found == OK:
                        break
                    fe.c.transacting = False
                    with nogil:
                        turn_leave(&fe.c)
                if found != LOST and found != FENCED:
                    fe.raise_for(found)
            fe.broken = False
            fe.open_transaction = self
            for each in self.structures:
                each._mark()
        finally:
            if not fe.c.transacting:
                fe.baton.keep(fe.c.batching)
            fe.leave()
        return fe

    def __exit__(self, kind, error, trace):
        cdef Attachment fe = self.fe
        if fe.is_forked and fe.open_transaction is self:
            return
        come_in(fe, fe.open_transaction is self)
        try:
            if fe.open_transaction is not self:
                if kind is None:
                    raise not_open("transaction")
                return
            if kind is not None or fe.broken or fe.c.trouble:
                fe.end_transaction()
                if kind is None:
                    raise self.nothing_done("during a transaction")
            else:
                self.commit()
        finally:
            if fe.open_transaction is self:
                fe.c.transacting = False
                fe.open_transaction = None
                fe.baton.keep(fe.c.batching)
            fe.leave()

    cdef int commit(self) except -1:
        cdef Attachment fe = self.fe
        cdef doubt written
        cdef uint32_t session
        cdef uint64_t epoch, ticket
        cdef int found
        with nogil:
            journal_trust(&fe.c)
            found = transaction_commit(&fe.c)
        if found != OK and not fe.c.trouble:
            fe.end_transaction()                # nothing was written
            fe.raise_for(found)
        fe.c.transacting = False
        if found == LOST or found == FENCED:
            written = fe.c.doubt
            session, epoch, ticket = fe.c.session, fe.c.epoch, fe.ticket
            try:
                fe.connect_again()
            except ConnectionFailed as error:
                if written.any:
                    raise unknown(fe.address) from error
                raise
            if not fe.outcome(session, epoch, ticket, &written):
                raise self.nothing_done("at the end of a transaction")
            return 0
        with nogil:
            turn_leave(&fe.c)
        cache_forget(&fe.c)
        fe.raise_for(found)
        return 0

    cdef object nothing_done(self, str when):
        return ConnectionFailed(f"the session at {self.fe.address} was lost {when}: nothing of it was done",
                                hint="do the transaction again")


cdef int come_in(Attachment fe, bint open) except -1:
    """To end a batch or a transaction, in whatever thread: it is not always the one in which a generator is closed."""
    if open:
        fe.baton.keep(True)
    try:
        fe.enter(None)
    except BaseException:
        if open:
            fe.baton.orphan()
        raise
    return 0


cdef object not_open(str what):
    return CallerError(f"this {what} is not under way", hint="it has ended before, or its thread had")

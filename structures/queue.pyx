"""Queue: put at one end and get at the other; or reserve, and acknowledge when the work is done.

This file has the class: the methods that change a queue, and the waits; queue_contents has those
that change nothing.  Each method is one operation (queue_operations) or one query (queue_queries);
queue_segments and queue_reservations have the nodes, queue_walk the checks.
"""

import os
import warnings
from contextlib import nullcontext
from functools import partial

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rfp.protocol.client.client_base cimport number_of, wait_seconds_of
from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport OK, register_kind, room_for
from structures.arguments cimport RAISE, RAISE, value_argument
from structures.layout cimport LEASE_NEVER, queue_root
from structures.queue_contents cimport QueueContents
from structures.queue_operations cimport (
    ACK, EXHAUSTED, EXTEND, GET, NACK, NOT_YOURS, PUT, PUT_LATER, PUT_MANY, RESERVE,
    extend_bytes, later, moment, nack_bytes, queue_apply, ticket, upcoming,
)
from structures.queue_queries cimport (
    find_upcoming, next_query, read_next, read_returned, slot_query,
)
from structures.queue_segments cimport EMPTY
from structures.queue_walk cimport queue_walk
from structures.wall_clock cimport wall_clock_ns

from rfp.core import clock
from rfp.errors import (
    ConnectionFailed, DeadlineExceeded, InvalidArgument, LeaseEnded, NotFound, OutOfMemory,
    StructureDamaged, TooLarge, Undecodable, WrongKind, WrongType, out_of_bounds)
from structures.queue_contents import Reservation  # no-cython-lint: users import it from here

cdef kind queue_kind
queue_kind.number, queue_kind.format, queue_kind.root = 1, 3, sizeof(queue_root)
queue_kind.apply, queue_kind.walk = queue_apply, queue_walk

cdef object UNFINISHED = ()            # what take() returns after MOVES_MAX moves: call it again
cdef object UNMOVABLE = (OutOfMemory, TooLarge, NotFound, StructureDamaged)

cdef enum:
    MOVES_MAX = 64             # to the dead-letter queue, of one attempt to take a value
    MOVE_BYTES = 8192          # that a move changes at most, beside the value
    LATE_PART = 8              # a reservation that takes this part of its lease gets a new one

cdef double LEASE_S_MIN = 1e-9, LEASE_S_MAX = 1e9
cdef uint32_t DELIVERIES = 5           # before a value is buried, unless the caller chooses
cdef uint32_t DELIVERIES_MAX = 1000000


cdef class Queue(QueueContents):
    """A persistent queue of values, shared by any number of producers and consumers.

    This is the queue of the paper (rNVM, section 5).  Values have 0 bytes to `largest_value`, which
    is 1 MiB or less if the pool's logs take less.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the queue in the pool; created if it does not exist.
        codec: How values other than bytes are stored: "utf-8", "json", "pickle", or an object with
            encode() and decode().
        create: Whether to make the queue, and that of dead_letter, if there is none.
        timeout: Seconds, of the opening.
        dead_letter: A queue of the same front-end, or its name (it is opened with the same codec),
            to which nack(), get() and reserve() of this object move a value that was reserved
            `max_deliveries` times, instead of delivering it again.  Moving is one transaction over
            both queues.  If that cannot be done, the value is delivered once more: the pool or a
            transaction has no space for it, the other queue was dropped (with a RuntimeWarning), or
            the open transaction does not name that queue.
        max_deliveries: 1 to 1e6, 5 by default; only with dead_letter.

    Raises:
        NotFound: There is none, and create is False.
        WrongKind: The name belongs to another kind of structure, or to a queue of another format.

    Cost:
        - The methods state round trips while this front-end has the queue's writer lock and the
          nodes in its cache, outside a batch.
        - After another front-end used the queue: one READ for each node that it changed.

    >>> jobs = structures.Queue(fe, "jobs")
    >>> jobs.put(b"first")
    >>> jobs.put(b"second")
    >>> len(jobs), list(jobs), jobs.get()
    (2, [b'first', b'second'], b'first')
    """
    KIND = 1
    # Methods that wait; the generators of their waits, so that rnvm.aio waits without a thread in
    # them; and what gives back what they took for a task that was cancelled.
    WAITING = {"get": ("_getting", "_put_back"), "reserve": ("_reserving", "_nack_back")}
    cdef uint64_t salt
    cdef readonly Queue dead_letter    # or None
    cdef readonly uint32_t max_deliveries  # 0: no limit

    def __cinit__(self, *arguments, **options):
        self.salt = int.from_bytes(os.urandom(8), "little") | 1

    def __init__(self, fe, str name not None, *, codec=None, dead_letter=None, max_deliveries=None,
                 bint create=True, timeout=None):
        if dead_letter is None and max_deliveries is not None:
            raise InvalidArgument("max_deliveries needs dead_letter",
                                  hint="name the queue to which such values are moved")
        most = DELIVERIES if max_deliveries is None else max_deliveries
        if not isinstance(most, int) or not 1 <= most <= DELIVERIES_MAX:
            raise InvalidArgument(f"max_deliveries must be between 1 and {DELIVERIES_MAX}, "
                                  f"got {max_deliveries!r}")
        if isinstance(dead_letter, Queue) and dead_letter.fe is not fe:
            raise InvalidArgument("dead_letter must be a queue of the same front-end",
                                  hint="give its name")
        if dead_letter is not None and not isinstance(dead_letter, (str, Queue)):
            raise WrongType("dead_letter must be a Queue or the name of one, "
                            f"got {type(dead_letter).__name__}")
        if (dead_letter.name if isinstance(dead_letter, Queue) else dead_letter) == name:
            raise InvalidArgument("dead_letter must be another queue")
        super().__init__(fe, name, codec=codec, create=create, timeout=timeout)
        if isinstance(dead_letter, str):
            opened = getattr(fe, "structures", {}).get(dead_letter)
            if opened is not None and not isinstance(opened, Queue):
                raise WrongKind(f"{dead_letter!r} is not a queue")
            dead_letter = opened if opened is not None else Queue(
                fe, dead_letter, codec=codec, create=create, timeout=timeout)
        if (dead_letter is not None and dead_letter.codec is not self.codec
                and dead_letter.codec_name != self.codec_name):
            raise InvalidArgument(
                f"dead_letter must have codec={self.codec_name or None!r}, that of the queue, got "
                f"{dead_letter.codec_name or None!r}", hint="moved values keep their bytes")
        self.dead_letter = dead_letter
        self.max_deliveries = most if dead_letter is not None else 0

    def put(self, value, *, delay=0, timeout=None):
        """Put a value at the end; or, with a delay, deliver it as soon as that is over.

        Args:
            value: 0 bytes to `largest_value`, or a type of the codec.
            delay: Seconds, 0 to 1e9, by the clocks (of the day) of the hosts that use the queue;
                None is 0.
                Then the value is delivered like one that was given back: before all values that
                were never delivered.  `len` does not count it before.
            timeout: Seconds.

        Raises:
            TooLarge: The value is longer than `largest_value`.

        Cost:
            2 WRITEs: the operation, and its changes (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> jobs.put(b"reminder", delay=3600)
        >>> len(jobs), jobs.delayed
        (1, 1)
        """
        cdef bytes raw = value_argument(self, value)
        cdef later when
        cdef bytes operation
        if delay is None or number_of("delay", delay) == 0:
            self.execute(PUT, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)
            return
        when.due = self.end_of("delay", delay)
        when.salt = self.next_salt()
        operation = (<const char *> &when)[:sizeof(when)] + raw
        self.execute(PUT_LATER, PyBytes_AS_STRING(operation),
                     <uint32_t> PyBytes_GET_SIZE(operation), timeout)

    def put_many(self, values, *, timeout=None):
        """Put many values at the end, some hundred in one operation; return how many.

        Each operation is atomic, all of them together only in a transaction, which may continue if
        this call fails.

        Args:
            values: An iterable of what put() takes.
            timeout: Seconds, of each operation.

        Raises:
            TooLarge: A value is longer than `largest_value`.  Outside a transaction, values before
                it may have been put.

        Cost:
            2 WRITEs for each 16 KiB, or for as much as the pool's logs take.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put_many(b"%d" % i for i in range(1000))
        1000
        """
        return self.add_values(values, PUT, PUT_MANY, timeout)

    def get(self, default=RAISE, *, timeout=None):
        """Remove the next value from the queue and return it.

        The value is lost if this process fails before it has processed it; use reserve() for work
        that must be done.

        Args:
            default: Returned if the queue is empty.
            timeout: Seconds to wait for a value, `float("inf")` for no limit; without it or with 0
                the call does not wait, and neither does one within a batch or a transaction.  It
                limits the wait.  Only the front-end's timeout limits the operation that then
                removes the value: one that is given up may have removed it.

        Raises:
            Empty: The queue is empty, or could not be read in time, and there is no default.
            ConnectionFailed: The back-end cannot be reached at the end of the time.  Before that,
                a wait survives a lost connection (unless the front-end has reconnect=False).

        Cost:
            - 2 WRITEs (rNVM, section 4.2).
            - To wait: one call, then nothing until the queue changes; over a network a READ every
              20 ms or more often.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.get(None) is None
        True
        >>> jobs.get(None, timeout=0.01) is None
        True
        """
        if timeout is not None:
            return self._wait(self._getting(default, timeout=timeout))
        found = self.at_once(self._take)
        return self.default_or_raise(default) if found is None else found[0]

    def _getting(self, default=RAISE, *, timeout, caller=None):
        """A generator of the waits of get(), as Structure._waiting()."""
        found = yield from self._taking(self._take, timeout, caller)
        return self.default_or_raise(default) if found is None else found[0]

    def _taking(self, take, timeout, caller):
        """A generator of the waits of get() and reserve(); its caller gets what was taken, too."""
        try:
            # In a scope of this thread no other thread can change the queue.
            if wait_seconds_of(timeout) == 0 or self._in_scope():
                found = self.at_once(take)
            else:
                found = yield from self._waiting(self._seconds_to_next, take, timeout, caller)
        except Undecodable as error:
            if caller is not None and error.token is not None:
                caller.taken = error.token, None
            raise
        if caller is not None:
            caller.taken = found
        return found

    def _put_back(self, found):
        """Undo a get(): the value is the next one after those that were given back before."""
        (value,) = found
        self.put(value, delay=1e-9)

    def _nack_back(self, found):
        """Undo a reserve()."""
        token, _ = found
        self.nack(token)

    cdef object at_once(self, take):
        """Call take() until it has taken a value, or found the queue empty."""
        deadline = None
        while True:
            found = take()
            if found is not UNFINISHED:
                return found
            if deadline is None:
                deadline = clock.deadline_in(self.fe.timeout)
            elif clock.now_ns() > deadline:
                if not self.max_deliveries:
                    raise DeadlineExceeded(f"other consumers of the queue {self.name!r} took each "
                                           "value first", hint="call again")
                raise DeadlineExceeded(
                    f"the queue {self.name!r} has more values for the dead-letter queue than could "
                    "be moved in time", hint="call again: values that were moved stay there")

    def _seconds_to_next(self, timeout):
        """Return -1 if there is a value now, else the seconds until a lease or a delay ends."""
        cdef next_query q
        q.entry.now = wall_clock_ns()
        if self.query(find_upcoming, &q, timeout) == OK:
            return -1
        return float("inf") if q.due == LEASE_NEVER else (
            max(<double> q.due - <double> q.entry.now, 0.0) / 1e9)

    def _take(self):
        """Remove the next value and return it as (value,); None: there is none; or UNFINISHED."""
        cdef next_query q
        cdef int outcome
        q.entry.now = wall_clock_ns()
        if self.codec is None and not self.max_deliveries:
            outcome = self.execute(GET, <const char *> &q.entry.now, 8)
            return (self.answer(),) if outcome == OK else None
        for _ in range(MOVES_MAX):
            # Decode the value before it is removed: an undecodable one stays.
            q.entry.now = wall_clock_ns()
            if self.query(read_next, &q) != OK:
                return None
            raw = self.answer()
            if (self.max_deliveries and q.deliveries >= self.max_deliveries
                    and self.bury_next(&q.entry.next)):
                continue
            value = self.decode(raw)
            if self.execute(GET, <const char *> &q.entry, sizeof(q.entry)) == OK:
                return (value,)
        return UNFINISHED

    cdef bint bury_next(self, const upcoming *next) except -1:
        """Move the next value to the dead-letter queue, unless another value is the next one.

        False: it cannot be moved, and must be delivered once more.
        """
        cdef next_query q
        cdef bint within = self._in_transaction(), half_done = False
        if within and not self.dead_letter._was_entered():
            return False
        try:
            with self.scope(within, None):
                q.entry.now = wall_clock_ns()
                if (self.query(read_next, &q) == OK
                        and q.entry.next.number == next.number and q.entry.next.slot == next.slot):
                    raw = self.answer()
                    # What a failure leaves half done in the caller's transaction cannot be undone.
                    if within and not room_for(self.c, len(raw) + MOVE_BYTES):
                        return False
                    self.dead_letter.put_raw(raw, None)
                    half_done = within
                    # The lock is held since the query, so it is still the same.
                    self.execute(GET, <const char *> &q.entry, sizeof(q.entry))
        except UNMOVABLE as error:
            if half_done:
                raise
            self.warn(error)
            return False
        return True

    cdef int warn(self, error) except -1:
        """Warn of a dead-letter queue that cannot be used; the caller sees a full one itself."""
        if isinstance(error, (NotFound, StructureDamaged)):
            warnings.warn(f"a value of the queue {self.name!r} cannot be moved to its dead-letter "
                          f"queue, and is delivered once more: {error}", RuntimeWarning,
                          stacklevel=2)
        return 0

    cdef bint bury(self, const ticket *t, object timeout) except -1:
        """The same for a reserved value."""
        cdef slot_query wanted
        cdef bint within = self._in_transaction(), half_done = False
        wanted.t = t[0]
        wanted.now = LEASE_NEVER - 1
        if within and not self.dead_letter._was_entered():
            return False
        try:
            with self.scope(within, timeout):
                if self.query(read_returned, &wanted, timeout) == OK:
                    raw = self.answer()
                    if within and not room_for(self.c, len(raw) + MOVE_BYTES):
                        return False
                    self.dead_letter.put_raw(raw, timeout)
                    half_done = within
                self.settle(ACK, t, sizeof(ticket), timeout)
        except UNMOVABLE as error:
            if half_done:
                raise
            self.warn(error)
            return False
        return True

    cdef object scope(self, bint within, object timeout):
        """Return a transaction over both queues; within: the open one of this thread."""
        return nullcontext() if within else self.fe.transaction(self, self.dead_letter,
                                                                timeout=timeout)

    cdef int put_raw(self, bytes raw, object timeout) except -1:
        self.execute(PUT, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)
        return 0

    cdef uint64_t next_salt(self) noexcept:
        self.salt ^= self.salt << 13
        self.salt ^= self.salt >> 7
        self.salt ^= self.salt << 17
        return self.salt

    cdef uint64_t end_of(self, str name, object value) except 0:
        """Return the moment (ns since 1970) so many seconds from now; name: of the argument."""
        cdef double seconds = number_of(name, value)
        if not LEASE_S_MIN <= seconds <= LEASE_S_MAX:
            least = 0 if name == "delay" else LEASE_S_MIN     # a delay of 0 never comes here
            raise out_of_bounds(name, value, least, LEASE_S_MAX,
                                hint=f"give seconds, such as {name}=60")
        return wall_clock_ns() + <uint64_t> (seconds * 1e9) + 1

    def reserve(self, *, lease=60.0, timeout=None):
        """Reserve the next value for a limited time; return (token, value).

        No other consumer gets the value until the lease has ended; then, or after nack(token), it
        is delivered again, before all values that were never delivered.  ack(token) removes it.  So
        each value is processed at least once.

        Args:
            lease: Seconds, more than 0 and at most 1e9, by the clocks (of the day) of the hosts
                that use the queue.  It begins when the value is reserved, less 1/8 of it at most;
                or when the call began, if the back-end cannot be reached afterwards.
            timeout: Seconds to wait for a value, as in get().

        Raises:
            Empty, ConnectionFailed: As get() without a default.
            Undecodable: The codec cannot decode the value.  The value is reserved, too; the
                exception has the token for ack() and nack().

        Cost:
            2 WRITEs, and 2 for a new lease if the first one took 1/8 of it; to wait: as get().

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve(lease=30)
        >>> len(jobs), jobs.reserved
        (0, 1)
        >>> jobs.ack(token)
        """
        if timeout is not None:
            return self._wait(self._reserving(lease=lease, timeout=timeout))
        self.end_of("lease", lease)
        found = self.at_once(partial(self._reserve_next, lease))
        return self.default_or_raise(RAISE) if found is None else found

    def _reserving(self, *, lease=60.0, timeout, caller=None):
        """A generator of the waits of reserve(), as Structure._waiting()."""
        self.end_of("lease", lease)
        # Not a function in here: it and this generator would refer to each other, and keep the
        # queue open until the garbage collector runs.
        found = yield from self._taking(partial(self._reserve_next, lease), timeout, caller)
        return self.default_or_raise(RAISE) if found is None else found

    def _reserve_next(self, lease):
        """Reserve the next value and return (token, value); None: there is none; or UNFINISHED."""
        cdef moment when
        cdef upcoming next
        cdef ticket given
        cdef uint64_t length
        cdef const char *bytes
        cdef int outcome
        when.most = self.max_deliveries
        for _ in range(MOVES_MAX):
            when.now = wall_clock_ns()
            when.deadline = self.end_of("lease", lease)
            when.salt = self.next_salt()
            outcome = self.execute(RESERVE, <const char *> &when, sizeof(when))
            bytes = self.answer_bytes(&length)
            if outcome == EMPTY:
                return None
            if outcome == EXHAUSTED:
                memcpy(&next, bytes, sizeof(next))
                if not self.bury_next(&next):
                    when.most = 0          # deliver it once more
                continue
            memcpy(&given, bytes, sizeof(given))
            value = PyBytes_FromStringAndSize(bytes + sizeof(ticket), length - sizeof(ticket))
            if not self.renew(&given, &when, lease):
                continue
            token = self.token(&given)
            return token, value if self.codec is None else self.decode(value, None, token)
        return UNFINISHED

    cdef bint renew(self, const ticket *given, const moment *when, object lease) except -1:
        """Begin a lease again if its operation had to wait, for a lock or a new session.

        False: another consumer has the value by now.  True also if that fails: the caller needs the
        token, whose lease is then the first one or the second one.
        """
        cdef extend_bytes extended
        cdef uint64_t now = wall_clock_ns()
        # The clock may have been set back.
        if now <= when.now or now - when.now <= (when.deadline - when.now) // LATE_PART:
            return True
        extended.t = given[0]
        extended.deadline = self.end_of("lease", lease)
        try:
            return self.execute(EXTEND, <const char *> &extended, sizeof(extended)) != NOT_YOURS
        except (ConnectionFailed, DeadlineExceeded):
            return True

    def ack(self, token, *, timeout=None):
        """Acknowledge a reserved value: the work is done, and the value leaves the queue.

        Args:
            token: From reserve() or reservations().
            timeout: Seconds.

        Raises:
            LeaseEnded: The value was given back, or delivered again after the lease had ended, or
                the queue was dropped.
            InvalidArgument: The token is of another queue.

        Cost:
            2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.ack(token)
        """
        cdef ticket t = self.ticket_of(token)
        self.settle(ACK, &t, sizeof(t), timeout)

    def nack(self, token, *, timeout=None):
        """Give a reserved value back; it is delivered next, after values given back before.

        If this object has a dead-letter queue and the value was delivered `max_deliveries` times,
        it is moved there instead.

        Args:
            token: From reserve() or reservations().
            timeout: Seconds.

        Raises:
            LeaseEnded, InvalidArgument: As ack().

        Cost:
            2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.nack(token)
        >>> jobs.get()
        b'job'
        """
        cdef nack_bytes operation
        operation.t = self.ticket_of(token)
        operation.most = self.max_deliveries
        while (self.settle(NACK, &operation, sizeof(operation), timeout) == EXHAUSTED
               and not self.bury(&operation.t, timeout)):
            operation.most = 0

    def extend(self, token, lease=60.0, *, timeout=None):
        """Extend a reservation: its lease ends so many seconds from now.

        Args:
            token: From reserve() or reservations().
            lease: Seconds, more than 0 and at most 1e9.
            timeout: Seconds.

        Raises:
            LeaseEnded, InvalidArgument: As ack().

        Cost:
            2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve(lease=30)
        >>> jobs.extend(token, 600)
        >>> jobs.ack(token)
        """
        cdef extend_bytes operation
        operation.t = self.ticket_of(token)
        operation.deadline = self.end_of("lease", lease)
        self.settle(EXTEND, &operation, sizeof(operation), timeout)

    cdef int settle(self, uint32_t code, const void *operation, uint32_t length,
                    object timeout) except -1:
        """Execute an operation on a reservation; raise if that has ended."""
        cdef int outcome = self.execute(code, <const char *> operation, length, timeout)
        if outcome == NOT_YOURS:
            raise LeaseEnded(f"this reservation of the queue {self.name!r} has ended",
                             hint="do not count the value as done: it was "
                                  "reserved again, returned or acknowledged")
        return outcome


register_kind(&queue_kind, Queue)

"""Queue: put at one end and get at the other; or reserve, and acknowledge when the work is done.

This file has the class: arguments, tokens, codecs and iterations.  Each method is one operation
(queue_operations) or one query (queue_queries); queue_segments and queue_reservations have the
nodes, queue_walk the checks.
"""

import os
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport OK, Structure, register_kind, structure_identity
from structures.arguments cimport value_argument
from structures.layout cimport LEASE_NEVER, VALUE_MAX, queue_root
from structures.queue_operations cimport (
    ACK, ANOTHER, GET, NACK, NOT_YOURS, PUT, RESERVE, meant, moment, queue_apply, ticket,
)
from structures.queue_queries cimport (
    cursor, list_reserved, list_returned, measure, pass_damaged, read_next, read_returned,
    read_segment, sizes, slot_query,
)
from structures.queue_segments cimport EMPTY
from structures.queue_walk cimport queue_walk
from structures.values cimport values_in
from structures.wall_clock cimport wall_clock_ns

from rfp.errors import Empty, InvalidArgument, LeaseEnded, StructureDamaged, Undecodable

cdef struct token_bytes:       # the token of reserve(), ack() and nack()
    uint64_t identity          # of the queue in its pool, for this incarnation of its name
    ticket t

cdef kind queue_kind
queue_kind.number, queue_kind.format, queue_kind.root = 1, 2, sizeof(queue_root)
queue_kind.apply, queue_kind.walk = queue_apply, queue_walk

cdef object RAISE = object()
cdef double LEASE_S_MAX = 1e9

# Of an identity: all but the incarnation of the naming entry (rnvm_structure()), which rises with
# each drop().
cdef uint64_t ANY_INCARNATION = 0xffffffff0000ffff


class Reservation(NamedTuple):
    """An element of `Queue.reservations()`.

    - token: For ack() and nack().
    - left: Seconds until the lease ends, by this host's clock; below 0: it has ended.
    """

    token: bytes
    left: float


cdef class Queue(Structure):
    """A persistent queue of values, shared by any number of producers and consumers.

    This is the queue of the paper (rNVM, section 5).  Values have 0 bytes to `largest_value`, which
    is 1 MiB or less if the pool's logs take less.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the queue in the pool; created if it does not exist.
        codec: How values other than bytes are stored: "utf-8", "json", "pickle", or an object with
            encode() and decode().

    Raises:
        WrongKind: The name belongs to another kind of structure.

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
    cdef uint64_t salt

    def __cinit__(self, *arguments, **options):
        self.salt = int.from_bytes(os.urandom(8), "little") | 1

    def put(self, value, *, timeout=None):
        """Put a value at the end.

        Args:
            value: 0 bytes to `largest_value`, or a type of the codec.
            timeout: Seconds.

        Raises:
            TooLarge: The value is longer than `largest_value`.

        Cost:
            2 WRITEs: the operation, and its changes (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        """
        cdef bytes raw = value_argument(self, value)
        self.execute(PUT, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)

    def get(self, default=RAISE, *, timeout=None):
        """Remove the next value from the queue and return it.

        The value is lost if this process fails before it has processed it; use reserve() for work
        that must be done.

        Args:
            default: Returned if the queue is empty.
            timeout: Seconds.

        Raises:
            Empty: The queue is empty, and there is no default.

        Cost:
            2 WRITEs (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.get(None) is None
        True
        """
        cdef meant only
        cdef int outcome
        only.now = wall_clock_ns()
        if self.codec is None:
            outcome = self.execute(GET, <const char *> &only.now, 8, timeout)
            if outcome == OK:
                return self.answer()
        else:
            # Decode the value before it is removed: an undecodable one stays.
            outcome = ANOTHER
            while outcome == ANOTHER:
                only.now = wall_clock_ns()
                outcome = self.query(read_next, &only, timeout)
                if outcome == OK:
                    value = self.decode(self.answer())
                    outcome = self.execute(GET, <const char *> &only, sizeof(only), timeout)
                    if outcome == OK:
                        return value
                    outcome = ANOTHER
        return self.default_or_raise(default)

    def peek(self, default=RAISE, *, timeout=None):
        """Return the value that get() would take now.

        Args:
            default: Returned if the queue is empty.
            timeout: Seconds.

        Raises:
            Empty: The queue is empty, and there is no default.

        Cost:
            No round trip; 1 READ if another front-end has the writer lock.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> jobs.peek()
        b'job'
        """
        cdef meant only
        only.now = wall_clock_ns()
        if self.query(read_next, &only, timeout) == OK:
            return self.decode(self.answer())
        return self.default_or_raise(default)

    def reserve(self, *, lease=60.0, timeout=None):
        """Reserve the next value for a limited time; return (token, value).

        No other consumer gets the value until the lease has ended; then, or after nack(token), it
        is delivered again, before all values that were never delivered.  ack(token) removes it.  So
        each value is processed at least once.

        Args:
            lease: Seconds, more than 0 and at most 1e9, by the clocks (of the day) of the hosts
                that use the queue.
            timeout: Seconds.

        Raises:
            Empty: The queue is empty.
            Undecodable: The codec cannot decode the value.  The value is reserved, too; the
                exception has the token for ack() and nack().

        Cost:
            2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve(lease=30)
        >>> len(jobs), jobs.reserved
        (0, 1)
        >>> jobs.ack(token)
        """
        cdef moment when
        cdef uint64_t length
        cdef const char *bytes
        cdef double seconds = lease
        if not 0 < seconds <= LEASE_S_MAX:
            raise InvalidArgument("lease must be positive and at most "
                                  f"{LEASE_S_MAX:.0e}, got {lease!r}", hint="give seconds")
        when.now = wall_clock_ns()
        when.deadline = when.now + <uint64_t> (seconds * 1e9) + 1
        self.salt ^= self.salt << 13
        self.salt ^= self.salt >> 7
        self.salt ^= self.salt << 17
        when.salt = self.salt
        if self.execute(RESERVE, <const char *> &when, sizeof(when), timeout) == EMPTY:
            self.default_or_raise(RAISE)
        bytes = self.answer_bytes(&length)
        token = self.token(<const ticket *> bytes)
        value = PyBytes_FromStringAndSize(bytes + sizeof(ticket), length - sizeof(ticket))
        return token, value if self.codec is None else self.decode(value, None, token)

    def ack(self, bytes token not None, *, timeout=None):
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
        self.settle(ACK, token, timeout)

    def nack(self, bytes token not None, *, timeout=None):
        """Give a reserved value back; it is delivered next, after values given back before.

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
        self.settle(NACK, token, timeout)

    def reservations(self, *, timeout=None):
        """Return all reservations that were neither acknowledged nor given back, in no order.

        For values that dead consumers had reserved: nack(token) gives a value back before its lease
        ends, even if the lease was made by a clock that is far too fast.

        Args:
            timeout: Seconds.

        Returns:
            A list of Reservation.

        Cost:
            A READ for each 30 of them that are not in the cache.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve(lease=3600)
        >>> for reservation in jobs.reservations():
        ...     jobs.nack(reservation.token)
        >>> jobs.get()
        b'job'
        """
        cdef bytes listed
        cdef uint64_t began = wall_clock_ns()
        cdef uint64_t ends
        cdef ticket t
        cdef Py_ssize_t i
        self.query(list_reserved, NULL, timeout)
        listed = self.answer()
        result = []
        for i in range(0, len(listed), sizeof(ticket) + 8):
            memcpy(&t, PyBytes_AS_STRING(listed) + i, sizeof(ticket))
            memcpy(&ends, PyBytes_AS_STRING(listed) + i + sizeof(ticket), 8)
            result.append(Reservation(self.token(&t), (<double> ends - <double> began) / 1e9))
        return result

    @property
    def largest_value(self):
        """Return the bytes of the longest value that this queue accepts.

        The least of: half of the pool's memory log less 8 KiB, half of its operation log less 2
        KiB, and 1 MiB.
        """
        return self.longest(VALUE_MAX)

    cdef object default_or_raise(self, object default):
        """Return the default of a call that found the queue empty; RAISE: there is none."""
        if default is RAISE:
            raise Empty(f"the queue {self.name!r} is empty")
        return default

    cdef bytes token(self, const ticket *t):
        cdef token_bytes token
        token.identity = structure_identity(self.c)
        token.t = t[0]
        return PyBytes_FromStringAndSize(<const char *> &token, sizeof(token))

    cdef int settle(self, uint32_t code, bytes token, object timeout) except -1:
        cdef token_bytes there
        cdef uint64_t mine
        if len(token) != sizeof(there):
            raise InvalidArgument("invalid token", hint="give the token that reserve() returned")
        memcpy(&there, PyBytes_AS_STRING(token), sizeof(there))
        self.longest(VALUE_MAX)            # raises if it was never opened
        mine = structure_identity(self.c)
        if (there.identity ^ mine) & ANY_INCARNATION:
            raise InvalidArgument(f"this token belongs to another queue than {self.name!r}",
                                  hint="use it with its own queue")
        if there.identity != mine:
            raise LeaseEnded(f"the queue {self.name!r} was dropped and created again",
                             hint="do not acknowledge the value: it was deleted with the queue")
        if self.execute(code, <const char *> &there.t, sizeof(ticket), timeout) == NOT_YOURS:
            raise LeaseEnded(f"this reservation of the queue {self.name!r} has ended",
                             hint="do not count the value as done: it was "
                                  "reserved again, returned or acknowledged")
        return 0

    def __len__(self):
        """Return how many values could be taken now.

        Cost:
            No round trip; 1 READ if another front-end has the writer lock.
        """
        cdef sizes n
        n.now = wall_clock_ns()
        self.query(measure, &n)
        return n.waiting

    @property
    def reserved(self):
        """Return how many values are reserved under a lease that has not ended.

        Cost:
            As len().

        >>> structures.Queue(fe, "jobs").reserved
        0
        """
        cdef sizes n
        n.now = wall_clock_ns()
        self.query(measure, &n)
        return n.reserved

    def __iter__(self):
        """Iterate over the values in the order of delivery, without taking them.

        During concurrent puts and gets it yields each value that stays in the queue exactly once,
        and values added or removed at most once, unless a value comes back from a reservation.

        Cost:
            A READ for each segment that is not in the cache.
        """
        cdef slot_query wanted
        cdef cursor c
        cdef bytes step
        cdef Py_ssize_t i
        wanted.now = wall_clock_ns()
        self.query(list_returned, &wanted.now)
        step = self.answer()
        for i in range(len(step) // sizeof(ticket)):
            memcpy(&wanted.t, PyBytes_AS_STRING(step) + i * sizeof(ticket), sizeof(ticket))
            if self.query(read_returned, &wanted) == OK:
                yield self.decode(self.answer())
        c.next = c.hint = 0
        while self.query(read_segment, &c) == OK:
            c.next = c.then
            c.hint = c.then_hint
            for value in values_in(self.answer()):
                yield self.decode(value)

    def salvage(self, list damages=None):
        """Iterate over all values that are still readable, if the queue is damaged.

        That includes reserved ones.  To continue working, put these values into another queue, and
        drop this one.

        Args:
            damages: A list, to which StructureDamaged or Undecodable is appended for each place
                skipped.

        Cost:
            As an iteration.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> damages = []
        >>> list(jobs.salvage(damages)), damages
        ([b'job'], [])
        """
        return self._salvage([] if damages is None else damages)

    def _salvage(self, list damages not None):
        cdef slot_query wanted
        cdef cursor c
        cdef bytes step
        cdef Py_ssize_t i, size
        cdef list raw = []
        wanted.now = 0
        for everything in (False, True):
            size = sizeof(ticket) + (8 if everything else 0)
            wanted.now = 0
            try:
                if everything:
                    self.query(list_reserved, NULL)
                else:
                    self.query(list_returned, &wanted.now)
            except StructureDamaged as error:
                damages.append(error)
            step = self.answer()
            wanted.now = LEASE_NEVER - 1
            for i in range(len(step) // size):
                memcpy(&wanted.t, PyBytes_AS_STRING(step) + i * size, sizeof(ticket))
                try:
                    if self.query(read_returned, &wanted) == OK:
                        raw.append(self.answer())
                except StructureDamaged as error:
                    damages.append(error)
        c.next = c.hint = 0
        while True:
            yield from self.salvaged(raw, damages)
            raw = []
            try:
                if self.query(read_segment, &c) != OK:
                    return
                step = self.answer()
            except StructureDamaged as error:
                damages.append(error)
                step = self.answer()
                if c.then <= c.next:  # not a value in a node of its own: the segment itself
                    try:
                        if self.query(pass_damaged, &c) != OK:
                            return
                    except StructureDamaged:
                        return
            c.next = c.then
            c.hint = c.then_hint
            raw = values_in(step)

    cdef list salvaged(self, list raw, list damages):
        """Return the decodable values of these."""
        cdef list values = []
        for value in raw:
            try:
                values.append(self.decode(value))
            except Undecodable as error:
                damages.append(error)
        return values


register_kind(&queue_kind, Queue)

"""The contents of a queue: counts, lists, iterations and salvage; tokens of reservations."""

from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from rnvm.frontend.structure cimport OK, structure_identity
from structures.arguments cimport RAISE
from structures.layout cimport LEASE_NEVER, VALUE_MAX
from structures.queue_operations cimport ticket
from structures.queue_queries cimport (
    cursor, list_reserved, list_returned, measure, next_query, pass_damaged, read_next,
    read_returned, read_segment, reservation, sizes, slot_query,
)
from structures.value_structure cimport ValueStructure
from structures.values cimport values_in
from structures.wall_clock cimport wall_clock_ns

from rfp.errors import InvalidArgument, LeaseEnded, StructureDamaged, WrongType

cdef struct token_bytes:       # the token of reserve(), ack(), nack() and extend()
    uint64_t identity          # of the queue in its pool, for this incarnation of its name
    ticket t

# Of an identity: all but the incarnation of the naming entry (rnvm_structure()), which rises with
# each drop().
cdef uint64_t ANY_INCARNATION = 0xffffffff0000ffff


class Reservation(NamedTuple):
    """An element of `Queue.reservations()`.

    - token: For ack(), nack() and extend().
    - left: Seconds until the lease ends, by this host's clock; below 0: it has ended.
    - deliveries: How often the value was delivered by reserve(), this reservation included.
    """

    token: bytes
    left: float
    deliveries: int


cdef class QueueContents(ValueStructure):
    """The part of Queue that changes nothing."""

    def __cinit__(self, *arguments, **options):
        self.noun = "queue"

    def peek(self, default=RAISE, *, timeout=None):
        """Return the value that get() would take, or move to the dead-letter queue, now.

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
        cdef next_query q
        q.entry.now = wall_clock_ns()
        if self.query(read_next, &q, timeout) == OK:
            return self.decode(self.answer())
        return self.default_or_raise(default)

    def reservations(self, *, timeout=None):
        """Return all reservations that were neither acknowledged nor given back, in no order.

        For values that dead consumers had reserved: nack(token) gives a value back before its lease
        ends, even if the lease was made by a clock that is far too fast.

        Args:
            timeout: Seconds.

        Returns:
            A list of Reservation.

        Cost:
            A READ for each 24 of them that are not in the cache.

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
        cdef reservation each
        cdef Py_ssize_t i
        self.query(list_reserved, NULL, timeout)
        listed = self.answer()
        result = []
        for i in range(0, len(listed), sizeof(each)):
            memcpy(&each, PyBytes_AS_STRING(listed) + i, sizeof(each))
            if each.deliveries:
                result.append(Reservation(self.token(&each.t),
                                          (<double> each.ends - <double> began) / 1e9,
                                          each.deliveries))
        return result

    cdef bytes token(self, const ticket *t):
        cdef token_bytes token
        token.identity = structure_identity(self.c)
        token.t = t[0]
        return PyBytes_FromStringAndSize(<const char *> &token, sizeof(token))

    cdef ticket ticket_of(self, object token) except *:
        """Return the ticket of a token of this queue."""
        cdef token_bytes there
        cdef uint64_t mine
        if not isinstance(token, bytes):
            raise WrongType(f"a token must be bytes, got {type(token).__name__}")
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
        return there.t

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

    @property
    def delayed(self):
        """Return how many values wait for their time to come: they were put with a delay.

        Cost:
            As len().

        >>> structures.Queue(fe, "jobs").delayed
        0
        """
        cdef sizes n
        n.now = wall_clock_ns()
        self.query(measure, &n)
        return n.delayed

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

        That includes reserved and delayed ones.  To continue working, put these values into another
        queue, and drop this one.

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
            size = sizeof(reservation) if everything else sizeof(ticket)
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
            yield from self.decodable(raw, damages)
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

"""Queue: put at one end and get at the other; or reserve, and acknowledge when the work is done."""

import os
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.frontend.state cimport instance, kind
from rnvm.frontend.structure cimport (
    ALIEN, FULL, OK, Structure, answer_put, fault, node_glimpse, node_read, nodes_release, register_kind, structure_identity,
    visitor)
from structures.layout cimport (
    LEASE_NEVER, QUEUE_ENTRY, SEGMENT_BYTES, SEGMENT_FIRST, SLOT_AT, SLOT_INSIDE, SLOT_LENGTH,
    TABLE_SLOTS, TYPE_SEGMENT, VALUE_MAX, queue_entry, queue_root, queue_segment, queue_slot,
)
from structures.queue_reservations cimport (
    NO_SLOT, give_back, next_ended, reclaim, reservations_provide, reservations_walk, search,
    slot_bytes, slot_change, slot_find, slot_new, slot_note, slot_read, slot_vacate,
)
from structures.queue_segments cimport (
    EMPTY, change_root, entry_at, entry_bytes, entry_hold, entry_length, entry_value, root_of,
    segment_read, segments_count, segments_put, segments_take, segments_walk, taken,
)
from structures.shared cimport value_bytes, value_free, value_new

from rfp.errors import Empty, InvalidArgument, LeaseEnded, StructureDamaged, TooLarge, Undecodable

cdef enum:                     # operations, and their bytes
    PUT = 1                    # the value
    GET = 2                    # now (ns since 1970); and the expected entry, if any
    RESERVE = 3                # now, end of the lease, random bits of the ticket
    ACK = 4                    # ticket, slot
    NACK = 5                   # the same

cdef enum:                     # answers
    NOT_YOURS = 2
    ANOTHER = 3                # of GET: the next entry is not the expected one

cdef enum:
    LIST_MAX = 60000           # segments that are searched for a way around a damaged one
    ENOUGH = 65536             # bytes that one step of an iteration answers
    TICKET_BITS = 24           # random bits of a ticket: a restored pool repeats the numbers

cdef struct upcoming:          # the entry that would be delivered next
    uint64_t number            # its ticket if it was reserved before, else its number in segments
    uint64_t slot              # + 1, or 0

cdef struct moment:
    uint64_t now
    uint64_t deadline
    uint64_t salt

cdef struct meant:
    uint64_t now
    upcoming next

cdef struct ticket:
    uint64_t number
    uint64_t slot

cdef struct token_bytes:       # the token of reserve(), ack() and nack()
    uint64_t identity          # of the queue in its pool, for this incarnation of its name
    ticket t


# Operations


cdef int find_next(instance *s, const queue_root *root, uint64_t now, upcoming *next) noexcept nogil:
    """Find the entry that take() would take now; return OK, or EMPTY."""
    cdef const queue_slot *slot
    cdef search f
    cdef uint64_t waiting
    cdef uint32_t i
    cdef int outcome
    memset(next, 0, sizeof(next[0]))
    if root.first:
        slot = slot_read(s, root, root.first - 1)
        if slot == NULL:
            return s.error
        next.number = slot.ticket
        next.slot = root.first
        return OK
    memset(&f, 0, sizeof(f))
    f.now = now
    outcome = next_ended(s, root, &f)
    if outcome < OK:
        return outcome
    for i in range(TABLE_SLOTS if outcome == OK else 0):
        if f.table.slots[i].ticket and f.table.slots[i].deadline and f.table.slots[i].deadline <= now:
            next.number = f.table.slots[i].ticket
            next.slot = f.number + i + 1
            return OK
    if segments_count(s, root, &waiting) != OK:
        return s.error
    next.number = root.dequeued
    return OK if waiting else EMPTY


cdef int take(instance *s, uint64_t now, const meant *only, taken *t) noexcept nogil:
    """Take out the next entry; EMPTY: there is none.  An entry with a slot keeps it."""
    cdef const queue_root *seen = root_of(s)
    cdef queue_root *root
    cdef queue_slot *slot
    cdef upcoming next
    cdef int outcome
    if seen == NULL:
        return s.error
    if seen.reserved and seen.earliest <= now:
        root = change_root(s)
        if root == NULL:
            return s.error
        outcome = reclaim(s, root, now)
        if outcome != OK:
            return outcome
        seen = root
    if only != NULL:
        outcome = find_next(s, seen, now, &next)
        if outcome != OK:
            return outcome
        if next.number != only.next.number or next.slot != only.next.slot:
            return ANOTHER
    if not seen.first:
        return segments_take(s, t)
    root = change_root(s)
    if root == NULL:
        return s.error
    slot = slot_read(s, root, root.first - 1)
    if slot == NULL:
        return s.error
    t.slot = root.first
    t.length = SLOT_LENGTH(slot.length)
    t.value = slot.value
    t.at = SLOT_AT(slot.length)
    root.first = slot.next
    if not root.first:
        root.last = 0
    root.requeued -= 1
    return OK


cdef const char *taken_bytes(instance *s, const taken *t) noexcept nogil:
    return entry_bytes(s, t.value, t.at, t.length) if t.at else value_bytes(s, t.value, t.length)


cdef int get(instance *s, uint64_t now, const meant *only) noexcept nogil:
    cdef taken t
    cdef queue_root *root
    cdef queue_slot *slot
    cdef const char *bytes
    cdef int outcome = take(s, now, only, &t)
    if outcome != OK:
        return outcome
    bytes = taken_bytes(s, &t)
    if bytes == NULL or answer_put(s, bytes, t.length) != OK:
        return s.error
    if t.slot:
        root = change_root(s)
        slot = NULL if root == NULL else slot_change(s, root, t.slot - 1)
        return s.error if slot == NULL else slot_vacate(s, root, slot, t.slot - 1)
    return OK if t.at else value_free(s, t.value, t.length)


cdef int reserve(instance *s, const moment *when) noexcept nogil:
    cdef taken t
    cdef ticket given
    cdef queue_root *root
    cdef queue_slot *slot
    cdef const char *bytes
    cdef uint64_t own
    cdef uint32_t number = 0
    cdef int outcome = take(s, when.now, NULL, &t)
    if outcome != OK:
        return outcome
    root = change_root(s)
    if root == NULL:
        return s.error
    bytes = taken_bytes(s, &t)
    if bytes == NULL:
        return s.error
    if t.slot:
        number = t.slot - 1
        slot = slot_change(s, root, number)
    else:
        slot = slot_new(s, root, &number)
    if slot == NULL:
        return s.error
    if t.at and not t.slot:
        # A value in a node of its own keeps no segment from being freed.  In a full pool it stays
        # in its segment: consumers must be able to continue.
        own = value_new(s, bytes, t.length)
        if own:
            t.value = own
            t.at = 0
        elif s.error != FULL or entry_hold(s, t.value, t.at) != OK:
            return s.error
    root.tickets += 1
    slot.ticket = root.tickets << TICKET_BITS | (when.salt & ((1 << TICKET_BITS) - 1))
    slot.deadline = when.deadline
    slot.value = t.value
    slot.length = SLOT_INSIDE(t.length, t.at)
    slot.next = 0
    root.reserved += 1
    given.number = slot.ticket
    given.slot = number
    if answer_put(s, &given, sizeof(given)) != OK:
        return s.error
    bytes = taken_bytes(s, &t)
    if bytes == NULL or answer_put(s, bytes, t.length) != OK:
        return s.error
    return slot_note(s, root, number)


cdef int settle(instance *s, const ticket *t, bint acknowledged) noexcept nogil:
    cdef queue_root *root = <queue_root *> root_of(s)
    cdef queue_slot *slot = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = slot_find(s, root, t.slot, &slot)
    if outcome < OK:
        return outcome
    if outcome == NO_SLOT or not t.number or slot.ticket != t.number or not slot.deadline:
        return NOT_YOURS
    root = change_root(s)
    slot = NULL if root == NULL else slot_change(s, root, t.slot)
    if slot == NULL:
        return s.error
    if not acknowledged:
        if give_back(s, root, slot, <uint32_t> t.slot) != OK:
            return s.error
        return slot_note(s, root, t.slot)
    root.reserved -= 1
    return slot_vacate(s, root, slot, <uint32_t> t.slot)


cdef int put(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef bint grown = False
    cdef int outcome = segments_put(s, bytes, length, &grown)
    return reservations_provide(s) if outcome == OK and grown else outcome


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef moment when
    cdef meant only
    cdef ticket t
    if code == PUT and length <= VALUE_MAX:
        return put(s, bytes, length)
    if code == GET and length == 8:
        memcpy(&when.now, bytes, 8)
        return get(s, when.now, NULL)
    if code == GET and length == sizeof(only):
        memcpy(&only, bytes, sizeof(only))
        return get(s, only.now, &only)
    if code == RESERVE and length == sizeof(when):
        memcpy(&when, bytes, sizeof(when))
        return reserve(s, &when)
    if (code == ACK or code == NACK) and length == sizeof(t):
        memcpy(&t, bytes, sizeof(t))
        return settle(s, &t, code == ACK)
    return ALIEN


# Queries


cdef struct sizes:
    uint64_t now
    uint64_t waiting
    uint64_t reserved

cdef int measure(instance *s, void *context) noexcept nogil:
    cdef sizes *n = <sizes *> context
    cdef const queue_root *root = root_of(s)
    cdef search f
    cdef uint32_t i
    cdef int outcome
    if root == NULL or segments_count(s, root, &n.waiting) != OK:
        return s.error
    n.waiting += root.requeued
    n.reserved = root.reserved
    memset(&f, 0, sizeof(f))
    f.now = n.now
    while True:
        outcome = next_ended(s, root, &f)
        if outcome != OK:
            return outcome if outcome < OK else OK
        for i in range(TABLE_SLOTS):
            if f.table.slots[i].ticket and f.table.slots[i].deadline and f.table.slots[i].deadline <= n.now:
                n.waiting += 1
                n.reserved -= 1


cdef int list_ended(instance *s, const queue_root *root, uint64_t now, bint with_ends) noexcept nogil:
    """Answer with a ticket for each lease that has ended by then; with_ends: and its end."""
    cdef search f
    cdef ticket t
    cdef uint32_t i
    cdef int outcome
    memset(&f, 0, sizeof(f))
    f.now = now
    while True:
        outcome = next_ended(s, root, &f)
        if outcome != OK:
            return outcome if outcome < OK else OK
        for i in range(TABLE_SLOTS):
            if f.table.slots[i].ticket and f.table.slots[i].deadline and f.table.slots[i].deadline <= now:
                t.number = f.table.slots[i].ticket
                t.slot = f.number + i
                if answer_put(s, &t, sizeof(t)) != OK or (with_ends and answer_put(s, &f.table.slots[i].deadline, 8) != OK):
                    return s.error


cdef int list_returned(instance *s, void *context) noexcept nogil:
    """Answer with a ticket for each entry that was reserved before, in the order of delivery."""
    cdef uint64_t now = (<const uint64_t *> context)[0]
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot
    cdef ticket t
    cdef uint32_t number, count = 0
    if root == NULL:
        return s.error
    number = root.first
    while number:
        slot = slot_read(s, root, number - 1)
        if slot == NULL:
            return s.error
        t.number = slot.ticket
        t.slot = number - 1
        if answer_put(s, &t, sizeof(t)) != OK:
            return s.error
        number = slot.next
        count += 1
        if count > root.requeued:
            return fault(s, root.node.address, b"the list of requeued slots has a cycle")
    return list_ended(s, root, now, False)


cdef int list_reserved(instance *s, void *context) noexcept nogil:
    """Answer with a ticket for each reservation, and the end of its lease."""
    cdef const queue_root *root = root_of(s)
    return s.error if root == NULL else list_ended(s, root, LEASE_NEVER - 1, True)


cdef struct look:
    ticket t
    uint64_t now

cdef int read_returned(instance *s, void *context) noexcept nogil:
    cdef const look *wanted = <const look *> context
    cdef const queue_root *root = root_of(s)
    cdef const char *bytes
    cdef queue_slot *slot = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = slot_find(s, root, wanted.t.slot, &slot)
    if outcome < OK:
        return outcome
    if outcome == NO_SLOT or slot.ticket != wanted.t.number or slot.deadline > wanted.now:
        return NOT_YOURS
    bytes = slot_bytes(s, slot)
    return s.error if bytes == NULL else answer_put(s, bytes, SLOT_LENGTH(slot.length))


cdef int read_next(instance *s, void *context) noexcept nogil:
    """Answer with the value that get() would take, and its entry."""
    cdef meant *m = <meant *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment
    cdef const queue_entry *entry
    cdef const queue_slot *slot
    cdef const char *bytes
    cdef uint64_t address
    cdef uint32_t at
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = find_next(s, root, m.now, &m.next)
    if outcome != OK:
        return outcome
    if m.next.slot:
        slot = slot_read(s, root, m.next.slot - 1)
        bytes = NULL if slot == NULL else slot_bytes(s, slot)
        return s.error if bytes == NULL else answer_put(s, bytes, SLOT_LENGTH(slot.length))
    address = root.head
    at = root.head_offset
    segment = segment_read(s, address)
    if segment != NULL and at == segment.end and segment.next:
        address = segment.next
        at = SEGMENT_FIRST
        segment = segment_read(s, address)
    entry = NULL if segment == NULL else entry_at(s, segment, address, at)
    if entry == NULL:
        return s.error
    bytes = <const char *> (entry + 1)
    if entry_value(entry):
        bytes = value_bytes(s, entry_value(entry), entry_length(entry))
    return s.error if bytes == NULL else answer_put(s, bytes, entry_length(entry))


cdef struct cursor:
    uint64_t next              # number of the entry to continue with
    uint64_t hint              # the segment in which it probably is
    uint64_t then              # the same for the next step
    uint64_t then_hint

cdef int read_segment(instance *s, void *context) noexcept nogil:
    """Answer with lengths and values of entries from the cursor on, at least one.

    EMPTY after the last.
    """
    cdef cursor *c = <cursor *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment = NULL
    cdef const queue_entry *entry
    cdef uint64_t address, next = c.next, number, value
    cdef uint32_t at = SEGMENT_FIRST, told = 0, length
    cdef const char *bytes
    c.then = next
    if root == NULL:
        return s.error
    if not root.head:
        return EMPTY
    address = root.head
    if next <= root.dequeued:
        next = root.dequeued
    # an entry is in one segment only, ever; so a segment that has it is the right one, wherever the
    # address is from
    elif c.hint:
        segment = <const queue_segment *> node_read(s, c.hint, SEGMENT_BYTES, TYPE_SEGMENT)
        if segment != NULL and segment.first <= next < segment.first + segment.count:
            address = c.hint
        s.error = OK
    while True:
        segment = segment_read(s, address)
        if segment == NULL:
            return s.error
        if next < segment.first + segment.count:
            break
        if not segment.next:
            return EMPTY
        address = segment.next
    number = segment.first
    while at < segment.end and told < ENOUGH:
        entry = entry_at(s, segment, address, at)
        if entry == NULL:
            return s.error
        if number >= next:
            c.then = number + 1                # where to continue if this value cannot be read
            c.then_hint = address
            value = entry_value(entry)
            length = entry_length(entry)
            bytes = value_bytes(s, value, length) if value else <const char *> (entry + 1)
            if bytes == NULL or answer_put(s, &length, 4) != OK or answer_put(s, bytes, length) != OK:
                return s.error
            told += 4 + length
        number += 1
        at += QUEUE_ENTRY(entry_length(entry))
    c.then = number
    c.then_hint = address if at < segment.end else segment.next
    return OK if told else fault(s, address, b"a segment has fewer entries than its header says")


cdef int pass_damaged(instance *s, void *context) noexcept nogil:
    """Set the cursor to the first readable segment behind an unreadable one; EMPTY: none."""
    cdef cursor *c = <cursor *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment
    cdef queue_segment there
    cdef uint64_t address, links = 0
    cdef bint damaged = False
    if root == NULL:
        return s.error
    address = c.hint if c.hint else root.head
    while address and links < LIST_MAX:
        segment = segment_read(s, address)
        if segment != NULL:
            if damaged and segment.first + segment.count > c.next:
                c.then = max(segment.first, c.next)
                c.then_hint = address
                s.fault = NULL
                return OK
            address = segment.next
        else:
            damaged = True
            if node_glimpse(s, address, &there, sizeof(there)) != OK:
                return EMPTY
            address = there.next
        links += 1
    return EMPTY


cdef int walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef uint64_t held = 0
    cdef int outcome = segments_walk(s, visit, context, &held)
    nodes_release(s)
    return reservations_walk(s, held, visit, context) if outcome == OK else outcome


cdef kind queue_kind
queue_kind.number, queue_kind.format, queue_kind.root = 1, 2, sizeof(queue_root)
queue_kind.apply, queue_kind.walk = apply, walk


cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_REALTIME
    int clock_gettime(int clock, timespec *t)

cdef inline uint64_t now() noexcept nogil:
    """Return nanoseconds since 1970: leases outlive processes, boots, and hosts."""
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec

cdef object RAISE = object()
cdef double LEASE_MAX = 1e9            # seconds


class Reservation(NamedTuple):
    """An element of `Queue.reservations()`.

    - token: For ack() and nack().
    - left: Seconds until the lease ends, by this host's clock; below 0: it has ended.
    """

    token: bytes
    left: float


# Of an identity: all but the incarnation of the naming entry (rnvm_structure()), which rises with
# each drop().
cdef uint64_t ANY_LIFE = 0xffffffff0000ffff
cdef enum:
    GUARANTEED_BYTES = 256     # bytes that every pool accepts


cdef class Queue(Structure):
    """A persistent queue of values, shared by any number of producers and consumers.

    This is the queue of the paper (rNVM, section 5).  Values have 0 bytes to `largest_value`, which
    is 1 MiB or what the pool's logs take.

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
        cdef bytes raw = value if self.codec is None and type(value) is bytes else self.encode(value)
        if PyBytes_GET_SIZE(raw) > <Py_ssize_t> GUARANTEED_BYTES and <uint64_t> PyBytes_GET_SIZE(raw) > self.longest(VALUE_MAX):
            raise TooLarge(f"a value of {len(raw)} bytes exceeds the limit of {self.largest_value}",
                           hint="split it, or create the pool with larger logs (docs/structures.md)")
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
        only.now = now()
        if self.codec is None:
            outcome = self.execute(GET, <const char *> &only.now, 8, timeout)
            if outcome == OK:
                return self.answer()
        else:
            # Decode the value before it is removed: an undecodable one stays.
            outcome = ANOTHER
            while outcome == ANOTHER:
                only.now = now()
                outcome = self.query(read_next, &only, timeout)
                if outcome == OK:
                    value = self.decode(self.answer())
                    outcome = self.execute(GET, <const char *> &only, sizeof(only), timeout)
                    if outcome == OK:
                        return value
                    outcome = ANOTHER
        if default is RAISE:
            raise Empty(f"the queue {self.name!r} is empty")
        return default

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
        only.now = now()
        if self.query(read_next, &only, timeout) == OK:
            return self.decode(self.answer())
        if default is RAISE:
            raise Empty(f"the queue {self.name!r} is empty")
        return default

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
        if not 0 < seconds <= LEASE_MAX:
            raise InvalidArgument("lease must be positive and at most "
                                  f"{LEASE_MAX:.0e}, got {lease!r}", hint="give seconds")
        when.now = now()
        when.deadline = when.now + <uint64_t> (seconds * 1e9) + 1
        self.salt ^= self.salt << 13
        self.salt ^= self.salt >> 7
        self.salt ^= self.salt << 17
        when.salt = self.salt
        if self.execute(RESERVE, <const char *> &when, sizeof(when), timeout) == EMPTY:
            raise Empty(f"the queue {self.name!r} is empty")
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
        cdef uint64_t moment = now()
        cdef uint64_t ends
        cdef ticket t
        cdef Py_ssize_t i
        self.query(list_reserved, NULL, timeout)
        listed = self.answer()
        result = []
        for i in range(0, len(listed), sizeof(ticket) + 8):
            memcpy(&t, PyBytes_AS_STRING(listed) + i, sizeof(ticket))
            memcpy(&ends, PyBytes_AS_STRING(listed) + i + sizeof(ticket), 8)
            result.append(Reservation(self.token(&t), (<double> ends - <double> moment) / 1e9))
        return result

    @property
    def largest_value(self):
        """Return the bytes of the longest value that this queue accepts.

        The least of: half of the pool's memory log less 8 KiB, half of its operation log less 2
        KiB, and 1 MiB.
        """
        return self.longest(VALUE_MAX)

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
        if (there.identity ^ mine) & ANY_LIFE:
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
        n.now = now()
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
        n.now = now()
        self.query(measure, &n)
        return n.reserved

    def __iter__(self):
        """Iterate over the values in the order of delivery, without taking them.

        During concurrent puts and gets it yields each value that stays in the queue exactly once,
        and values added or removed at most once, unless a value comes back from a reservation.

        Cost:
            A READ for each segment that is not in the cache.
        """
        cdef look wanted
        cdef cursor c
        cdef bytes step
        cdef uint32_t at, length
        cdef Py_ssize_t i
        wanted.now = now()
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
            step = self.answer()
            at = 0
            while at < <uint32_t> len(step):
                memcpy(&length, PyBytes_AS_STRING(step) + at, 4)
                yield self.decode(step[at + 4:at + 4 + length])
                at += 4 + length

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
        cdef look wanted
        cdef cursor c
        cdef bytes step
        cdef uint32_t length
        cdef Py_ssize_t i, at, size
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
            at = 0
            while at < len(step):
                memcpy(&length, PyBytes_AS_STRING(step) + at, 4)
                raw.append(step[at + 4:at + 4 + length])
                at += 4 + length

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

"""A persistent queue: put at one end, get at the other, or reserve, and acknowledge when the work is done."""

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
    GET = 2                    # now (ns since 1970); and the entry that is meant, if it has to be that one
    RESERVE = 3                # now, end of the lease, random bits of the ticket
    ACK = 4                    # ticket, slot
    NACK = 5                   # the same

cdef enum:                     # answers
    NOT_YOURS = 2
    ANOTHER = 3                # of GET: the next is another one than was meant

cdef enum:
    LIST_MAX = 60000           # segments that are looked at for a way around a damaged one
    ENOUGH = 65536             # bytes that one step of an iteration brings
    TICKET_BITS = 24           # random ones of a ticket: a pool that was restored gives the same numbers again

cdef struct upcoming:          # which entry is the next to be given
    uint64_t number            # its ticket, if it was reserved before; else its number in the segments
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

cdef struct token_bytes:       # what reserve() gives, and ack() and nack() take
    uint64_t identity          # of the queue in its pool, in the life of its name
    ticket t


# Operations


cdef int find_next(instance *s, const queue_root *root, uint64_t now, upcoming *next) noexcept nogil:
    """What take() would take at this moment: OK, or EMPTY."""
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
    """Takes out the entry that is the next to be given; EMPTY if there is none.  One with a slot keeps it."""
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
        # In a node of its own it keeps no segment from being freed.  In a full pool it stays: workers have to go on there.
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
    """Answers a ticket for each lease that has ended by then; with_ends: and when it does."""
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
    """Answers a ticket for each entry that was reserved before, in the order in which they will be given."""
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
    """Answers a ticket for each reservation, and when its lease ends."""
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
    """Answers the value that get() would take, and says which entry that is."""
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
    uint64_t next              # number of the entry to go on with
    uint64_t hint              # the segment in which it probably is
    uint64_t then              # the same for the time after
    uint64_t then_hint

cdef int read_segment(instance *s, void *context) noexcept nogil:
    """Answers lengths and values of entries from the cursor on, at least one; EMPTY after the last."""
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
    elif c.hint:               # an entry has one segment, ever; so one that has it is the right one, wherever the address is from
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
            c.then = number + 1                # where to go on if this value cannot be read
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
    """Sets the cursor to the first segment that can be read behind one that cannot; EMPTY if that leads to none."""
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
    """Nanoseconds since 1970: leases outlive processes, boots, and hosts."""
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec

cdef object RAISE = object()
cdef double LEASE_MAX = 1e9            # seconds


class Reservation(NamedTuple):
    """What `Queue.reservations()` lists.

    token: what ack() and nack() take.  left: seconds until the lease ends, by this host's clock; below 0: it has ended.
    """

    token: bytes
    left: float


# Of an identity: all but the incarnation of the naming entry (rnvm_structure()), which rises with each drop().
cdef uint64_t ANY_LIFE = 0xffffffff0000ffff
cdef enum:
    GUARANTEED_BYTES = 256     # bytes that every pool takes


cdef class Queue(Structure):
    """A persistent queue of values, which any number of producers and consumers share.

    fe: of rnvm.connect().  name: of the queue in the pool; it is created if there is none.  codec: how other values than
    bytes are stored: "utf-8", "json", "pickle", or an object with encode() and decode().  Values have 0 bytes to
    `largest_value`, which is 1 MiB or what the pool's logs take.

    Raises WrongKind for a name that is not a queue's.  Costs are given in round trips where this front-end has the queue's
    writer lock and the nodes it needs in its cache, outside a batch; another front-end's use of the queue costs one READ for
    each node that it changed. The queue of the paper (rNVM, section 5).

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
        """Puts a value at the end.

        value: 0 bytes to `largest_value`, or what the codec takes.  timeout: seconds.  Raises TooLarge.  2 WRITEs: the
        operation, and what it changes (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        """
        cdef bytes raw = value if self.codec is None and type(value) is bytes else self.encode(value)
        if PyBytes_GET_SIZE(raw) > <Py_ssize_t> GUARANTEED_BYTES and <uint64_t> PyBytes_GET_SIZE(raw) > self.longest(VALUE_MAX):
            raise TooLarge(f"a value of {len(raw)} bytes exceeds the limit of {self.largest_value}",
                           hint="split it, or create the pool with larger logs (docs/structures.md)")
        self.execute(PUT, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)

    def get(self, default=RAISE, *, timeout=None):
        """Takes the next value out of the queue, and returns it.

        It is gone then, whatever becomes of this process; reserve() is for work that has to be done.  default: returned if
        there is nothing; without it, Empty is raised.  timeout: seconds.  2 WRITEs (rNVM, section 4.2).

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
            # Decoded before it is taken: what cannot be decoded stays.
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
        """The value that get() would take now.

        default: returned if there is nothing; without it, Empty is raised.  timeout: seconds.  No round trip; 1 READ where
        another front-end has the writer lock.

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
        """Takes the next value for a while: (token, value).

        Nobody else gets it until the lease has ended; then, or after nack(token), it is given again, before all that was
        never given.  After ack(token) it is gone.  So each value is worked on at least once.  lease: seconds, more than 0 and at
        most 1e9, by the clocks (of the day) of the hosts that use the queue.  timeout: seconds.  Raises Empty; and Undecodable,
        whose token ack() and nack() take, for a value that the codec cannot decode: that one is reserved, too.  2 WRITEs.

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
        """The work on a reserved value is done: it leaves the queue.

        token: of reserve() or reservations().  timeout: seconds.  Raises LeaseEnded if the value was given back, or somebody
        else has come for it since the lease ended, or the queue was dropped; InvalidArgument for another queue's token.
        2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.ack(token)
        """
        self.settle(ACK, token, timeout)

    def nack(self, bytes token not None, *, timeout=None):
        """Gives a reserved value back: it is the next to be given, after those that came back before.

        token: of reserve() or reservations().  timeout: seconds.  Raises as ack() does.  2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.nack(token)
        >>> jobs.get()
        b'job'
        """
        self.settle(NACK, token, timeout)

    def reservations(self, *, timeout=None):
        """All reservations that nobody has acknowledged or given back: a list of Reservation, in no order.

        For what dead workers have left: nack(token) gives it back before its lease ends, also where that was made by a clock far
        ahead.  timeout: seconds.  A READ for each 30 of them that are not in the cache.

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
        """Bytes of the longest value that this queue takes: half of the pool's memory log less 8 KiB, half of its
        operation log less 2 KiB, and 1 MiB: the least of these."""
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
        self.longest(VALUE_MAX)            # raises where it was never opened
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
        """How many values could be taken now.  No round trip; 1 READ where another front-end has the writer lock."""
        cdef sizes n
        n.now = now()
        self.query(measure, &n)
        return n.waiting

    @property
    def reserved(self):
        """How many values are reserved, and their leases have not ended.  Costs as len().

        >>> structures.Queue(fe, "jobs").reserved
        0
        """
        cdef sizes n
        n.now = now()
        self.query(measure, &n)
        return n.reserved

    def __iter__(self):
        """The values in the order in which they would be given, without taking them.

        While others put and get, it gives each value that stays in the queue exactly once, and what comes or goes at most
        once, unless it comes back from a reservation.  A READ for each segment that is not in the cache.
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
        """Iterates over all values that can still be read, where the queue is damaged: also those that are reserved.

        damages: a list, to which StructureDamaged or Undecodable is appended for each place that had to be passed over.  To go
        on working, put what it gives into another queue, and drop this one.  Costs as an iteration.

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
                if c.then <= c.next:           # not a value in a node of its own: the segment itself
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
        """What can be decoded of these."""
        cdef list values = []
        for value in raw:
            try:
                values.append(self.decode(value))
            except Undecodable as error:
                damages.append(error)
        return values


register_kind(&queue_kind, Queue)

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A persistent queue: put at one end, get at the other, or reserve, and acknowledge when the work is done."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.frontend._front cimport instance, kind
from rnvm.frontend._structure cimport OK, Structure, answer_put, fault, node_read, nodes_release, register_kind, visitor
from structures._layout cimport (
    MOST_VALUE, QUEUE_ENTRY, SEGMENT_BYTES, SEGMENT_FIRST, TYPE_SEGMENT, queue_entry, queue_root, queue_segment, queue_slot,
)
from structures._reservations cimport give_back, reclaim, reservations_walk, slot_change, slot_new, slot_read, slot_vacate
from structures._segments cimport (
    EMPTY, change_root, entry_at, entry_value, root_of, segment_read, segments_put, segments_take, segments_walk, taken,
)
from structures._shared cimport value_answer, value_bytes, value_free, value_new

from rfp.errors import Empty, InvalidArgument, LeaseEnded, TooLarge

cdef enum:                     # operations, and their bytes
    PUT = 1                    # the value
    GET = 2                    # now (ns since 1970)
    RESERVE = 3                # now, end of the lease
    ACK = 4                    # ticket, slot
    NACK = 5                   # the same

cdef enum:                     # answers
    NOT_YOURS = 2

cdef enum:
    ENOUGH = 65536             # bytes that one step of an iteration brings

cdef uint64_t LAST_NUMBER = <uint64_t> 1 << 62         # of an entry: what goes beyond was never put

cdef struct moment:
    uint64_t now
    uint64_t deadline

cdef struct ticket:
    uint64_t number
    uint64_t slot


# Operations


cdef int take(instance *s, uint64_t now, taken *t) noexcept nogil:
    """Takes out the entry that is the next to be given; EMPTY if there is none.  One with a slot keeps it."""
    cdef const queue_root *seen = root_of(s)
    cdef queue_root *root
    cdef queue_slot *slot
    if seen == NULL:
        return s.error
    if seen.reserved and seen.earliest <= now:
        root = change_root(s)
        if root == NULL or reclaim(s, root, now) != OK:
            return s.error
        seen = root
    if not seen.first:
        return segments_take(s, t)
    root = change_root(s)
    if root == NULL:
        return s.error
    slot = slot_read(s, root, root.first - 1)
    if slot == NULL:
        return s.error
    t.slot = root.first
    t.length = slot.length
    t.value = slot.value
    root.first = slot.next
    if not root.first:
        root.last = 0
    root.returned -= 1
    return OK


cdef int get(instance *s, const moment *when) noexcept nogil:
    cdef taken t
    cdef queue_root *root
    cdef queue_slot *slot
    cdef int outcome = take(s, when.now, &t)
    if outcome != OK:
        return outcome
    if t.slot:
        root = change_root(s)
        slot = NULL if root == NULL else slot_change(s, root, t.slot - 1)
        if slot == NULL:
            return s.error
        slot_vacate(root, slot, t.slot - 1)
    if not t.value:
        return answer_put(s, t.bytes, t.length)
    if value_answer(s, t.value, t.length) != OK:
        return s.error
    return value_free(s, t.value, t.length)


cdef int reserve(instance *s, const moment *when) noexcept nogil:
    cdef taken t
    cdef ticket given
    cdef queue_root *root
    cdef queue_slot *slot
    cdef uint32_t number = 0
    cdef int outcome = take(s, when.now, &t)
    if outcome != OK:
        return outcome
    root = change_root(s)
    if root == NULL:
        return s.error
    if t.slot:
        number = t.slot - 1
        slot = slot_change(s, root, number)
    else:
        slot = slot_new(s, root, &number)
    if slot == NULL:
        return s.error
    if not t.value:
        t.value = value_new(s, t.bytes, t.length)
        if not t.value:
            return s.error
    root.tickets += 1
    slot.ticket = root.tickets
    slot.deadline = when.deadline
    slot.value = t.value
    slot.length = t.length
    slot.next = 0
    root.earliest = when.deadline if not root.reserved else min(root.earliest, when.deadline)
    root.reserved += 1
    given.number = slot.ticket
    given.slot = number
    if answer_put(s, &given, sizeof(given)) != OK:
        return s.error
    return value_answer(s, t.value, t.length)


cdef int settle(instance *s, const ticket *t, bint acknowledged) noexcept nogil:
    cdef queue_root *root = <queue_root *> root_of(s)
    cdef queue_slot *slot
    if root == NULL:
        return s.error
    if t.slot >= root.slots or not t.number:
        return NOT_YOURS
    slot = slot_read(s, root, t.slot)
    if slot == NULL:
        return s.error
    if slot.ticket != t.number or not slot.deadline:
        return NOT_YOURS
    root = change_root(s)
    slot = NULL if root == NULL else slot_change(s, root, t.slot)
    if slot == NULL:
        return s.error
    if not acknowledged:
        return give_back(s, root, slot, <uint32_t> t.slot)
    if value_free(s, slot.value, slot.length) != OK:
        return s.error
    root.reserved -= 1
    slot_vacate(root, slot, <uint32_t> t.slot)
    return OK


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef moment when
    cdef ticket t
    if code == PUT and length <= MOST_VALUE:
        return segments_put(s, bytes, length)
    if code == GET and length == 8:
        memcpy(&when.now, bytes, 8)
        return get(s, &when)
    if code == RESERVE and length == sizeof(when):
        memcpy(&when, bytes, sizeof(when))
        return reserve(s, &when)
    if (code == ACK or code == NACK) and length == sizeof(t):
        memcpy(&t, bytes, sizeof(t))
        return settle(s, &t, code == ACK)
    return fault(s, 0, b"an operation that no queue knows")


# Queries


cdef struct sizes:
    uint64_t now
    uint64_t waiting
    uint64_t reserved

cdef int measure(instance *s, void *context) noexcept nogil:
    cdef sizes *n = <sizes *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *tail
    cdef const queue_slot *slot
    cdef uint32_t number
    if root == NULL:
        return s.error
    n.waiting = root.returned
    n.reserved = root.reserved
    if root.tail:
        tail = segment_read(s, root.tail)
        if tail == NULL:
            return s.error
        if tail.first + tail.count < root.given or tail.first > LAST_NUMBER:
            return fault(s, root.tail, b"the queue has given entries that it never had")
        n.waiting += tail.first + tail.count - root.given
    if root.reserved and root.earliest <= n.now:
        for number in range(root.slots):
            slot = slot_read(s, root, number)
            if slot == NULL:
                return s.error
            if slot.ticket and slot.deadline and slot.deadline <= n.now:
                n.waiting += 1
                n.reserved -= 1
    return OK


cdef int list_returned(instance *s, void *context) noexcept nogil:
    """Answers a ticket for each entry that was reserved before, in the order in which they will be given."""
    cdef uint64_t now = (<const uint64_t *> context)[0]
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot
    cdef ticket t
    cdef uint32_t number
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
    if not root.reserved or root.earliest > now:
        return OK
    for number in range(root.slots):
        slot = slot_read(s, root, number)
        if slot == NULL:
            return s.error
        if slot.ticket and slot.deadline and slot.deadline <= now:
            t.number = slot.ticket
            t.slot = number
            if answer_put(s, &t, sizeof(t)) != OK:
                return s.error
    return OK


cdef struct look:
    ticket t
    uint64_t now

cdef int read_returned(instance *s, void *context) noexcept nogil:
    cdef const look *wanted = <const look *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot
    if root == NULL:
        return s.error
    slot = slot_read(s, root, wanted.t.slot)
    if slot == NULL:
        return s.error
    if slot.ticket != wanted.t.number or slot.deadline > wanted.now:
        return NOT_YOURS
    return value_answer(s, slot.value, slot.length)


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
    cdef uint32_t at = SEGMENT_FIRST, told = 0
    cdef const char *bytes
    if root == NULL:
        return s.error
    if not root.head:
        return EMPTY
    address = root.head
    if next <= root.given:
        next = root.given
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
            value = entry_value(entry)
            bytes = value_bytes(s, value, entry.length) if value else <const char *> (entry + 1)
            if bytes == NULL or answer_put(s, &entry.length, 4) != OK or answer_put(s, bytes, entry.length) != OK:
                return s.error
            told += 4 + entry.length
        number += 1
        at += QUEUE_ENTRY(entry.length)
    c.then = number
    c.then_hint = address if at < segment.end else segment.next
    return OK if told else fault(s, address, b"a segment has fewer entries than it says")


cdef int walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef int outcome = segments_walk(s, visit, context)
    nodes_release(s)
    return reservations_walk(s, visit, context) if outcome == OK else outcome


cdef kind queue_kind
queue_kind.number, queue_kind.format, queue_kind.root = 1, 1, sizeof(queue_root)
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
cdef double LONGEST_LEASE = 1e9        # seconds


cdef class Queue(Structure):
    """A persistent queue of values, which any number of producers and consumers share.

    fe: of rnvm.connect().  name: of the queue in the pool; it is created if there is none.  codec: how other values than
    bytes are stored: "utf-8", "json", "pickle", or an object with encode() and decode().  Values have 0 bytes to 1 MiB.

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

    def put(self, value, *, timeout=None):
        """Puts a value at the end.

        value: 0 bytes to 1 MiB, or what the codec takes.  timeout: seconds.  Raises TooLarge.  2 WRITEs: the operation, and
        what it changes (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        """
        cdef bytes raw = value if self.codec is None and type(value) is bytes else self.encode(value)
        if PyBytes_GET_SIZE(raw) > <Py_ssize_t> MOST_VALUE:
            raise TooLarge(f"a value of {len(raw)} bytes", hint=f"at most {MOST_VALUE}")
        self.execute(PUT, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)

    def get(self, default=RAISE, *, timeout=None):
        """Takes the next value out of the queue, and returns it.

        It is gone then, whatever becomes of this process; reserve() is for work that has to be done.  default: returned if
        there is nothing; without it, Empty is raised.  timeout: seconds.  2 WRITEs (rNVM, section 4.2).

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.get(None) is None
        True
        """
        cdef uint64_t when = now()
        if self.execute(GET, <const char *> &when, 8, timeout) == EMPTY:
            if default is RAISE:
                raise Empty(f"the queue {self.name!r} has nothing to give")
            return default
        return self.answer() if self.codec is None else self.decode(self.answer())

    def peek(self, default=RAISE, *, timeout=None):
        """The value that get() would take now.

        default: returned if there is nothing; without it, Empty is raised.  timeout: seconds.  No round trip; 1 READ where
        another front-end has the writer lock.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> jobs.peek()
        b'job'
        """
        for value in self:
            return value
        if default is RAISE:
            raise Empty(f"the queue {self.name!r} has nothing to give")
        return default

    def reserve(self, *, lease=60.0, timeout=None):
        """Takes the next value for a while: (token, value).

        Nobody else gets it until the lease has ended; then, or after nack(token), it is given again, before all that was
        never given.  After ack(token) it is gone.  So each value is worked on at least once.  lease: seconds, by the clocks
        (of the day) of the hosts that use the queue.  timeout: seconds.  Raises Empty.  2 WRITEs.

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
        if not 0 < seconds <= LONGEST_LEASE:
            raise InvalidArgument(f"lease={lease!r} is not a time", hint="seconds, more than 0")
        when.now = now()
        when.deadline = when.now + <uint64_t> (seconds * 1e9) + 1
        if self.execute(RESERVE, <const char *> &when, sizeof(when), timeout) == EMPTY:
            raise Empty(f"the queue {self.name!r} has nothing to give")
        bytes = self.answer_bytes(&length)
        token = PyBytes_FromStringAndSize(bytes, sizeof(ticket))
        value = PyBytes_FromStringAndSize(bytes + sizeof(ticket), length - sizeof(ticket))
        return token, value if self.codec is None else self.decode(value)

    def ack(self, bytes token not None, *, timeout=None):
        """The work on a reserved value is done: it leaves the queue.

        token: of reserve().  timeout: seconds.  Raises LeaseEnded if the value was given back, or somebody else has come for
        it since the lease ended. 2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.ack(token)
        """
        self.settle(ACK, token, timeout)

    def nack(self, bytes token not None, *, timeout=None):
        """Gives a reserved value back: it is the next to be given, after those that came back before.

        token: of reserve().  timeout: seconds.  Raises LeaseEnded as ack() does.  2 WRITEs.

        >>> jobs = structures.Queue(fe, "jobs")
        >>> jobs.put(b"job")
        >>> token, job = jobs.reserve()
        >>> jobs.nack(token)
        >>> jobs.get()
        b'job'
        """
        self.settle(NACK, token, timeout)

    cdef int settle(self, uint32_t code, bytes token, object timeout) except -1:
        if len(token) != sizeof(ticket):
            raise InvalidArgument("this is no token", hint="what reserve() returned first")
        if self.execute(code, PyBytes_AS_STRING(token), sizeof(ticket), timeout) == NOT_YOURS:
            raise LeaseEnded(f"this reservation of the queue {self.name!r} has ended",
                             hint="its value was given again, or acknowledged before")
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


register_kind(&queue_kind, Queue)

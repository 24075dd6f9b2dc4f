"""Count, list and read the entries of a queue, without changing it."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, fault, node_glimpse, node_read
from structures.layout cimport (
    LEASE_NEVER, QUEUE_ENTRY, SEGMENT_BYTES, SEGMENT_FIRST, SLOT_LENGTH, TYPE_SEGMENT, queue_entry,
    queue_root, queue_segment, queue_slot,
)
from structures.queue_operations cimport NOT_YOURS, find_next, meant, ticket
from structures.queue_reservations cimport (
    NO_QUEUE_SLOT, next_ended_slot, search, search_ended, slot_bytes, slot_find, slot_read,
)
from structures.queue_segments cimport (
    EMPTY, entry_at, entry_length, entry_value, root_of, segment_read, segments_count,
)
from structures.values cimport value_bytes

cdef enum:
    SEGMENTS_MAX = 60000       # that are searched for a way around a damaged one
    STEP_BYTES_MIN = 65536     # after which a step of an iteration ends


# Counts and lists


cdef int measure(instance *s, void *context) noexcept nogil:
    cdef sizes *n = <sizes *> context
    cdef const queue_root *root = root_of(s)
    cdef search f
    cdef int outcome
    if root == NULL or segments_count(s, root, &n.waiting) != OK:
        return s.error
    n.waiting += root.requeued
    n.reserved = root.reserved - root.delayed
    n.delayed = root.delayed
    search_ended(&f, n.now)
    outcome = next_ended_slot(s, root, &f)
    while outcome == OK:
        n.waiting += 1
        if f.slot.deliveries:
            n.reserved -= 1
        else:
            n.delayed -= 1
        outcome = next_ended_slot(s, root, &f)
    return outcome if outcome < OK else OK


cdef int list_ended(instance *s, const queue_root *root, uint64_t now,
                    bint whole) noexcept nogil:
    """Answer with a ticket for each lease that has ended by then; whole: with a reservation."""
    cdef search f
    cdef reservation each
    cdef int outcome
    search_ended(&f, now)
    outcome = next_ended_slot(s, root, &f)
    while outcome == OK:
        each.t.number = f.slot.ticket
        each.t.slot = f.slot_number
        each.ends = f.slot.deadline
        each.deliveries = f.slot.deliveries
        if answer_put(s, &each, sizeof(each) if whole else sizeof(each.t)) != OK:
            return s.error
        outcome = next_ended_slot(s, root, &f)
    return outcome if outcome < OK else OK


cdef int list_returned(instance *s, void *context) noexcept nogil:
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
    cdef const queue_root *root = root_of(s)
    return s.error if root == NULL else list_ended(s, root, LEASE_NEVER - 1, True)


# Entries


cdef int read_returned(instance *s, void *context) noexcept nogil:
    cdef const slot_query *wanted = <const slot_query *> context
    cdef const queue_root *root = root_of(s)
    cdef const char *bytes
    cdef queue_slot *slot = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = slot_find(s, root, wanted.t.slot, &slot)
    if outcome < OK:
        return outcome
    if outcome == NO_QUEUE_SLOT or slot.ticket != wanted.t.number or slot.deadline > wanted.now:
        return NOT_YOURS
    bytes = slot_bytes(s, slot)
    return s.error if bytes == NULL else answer_put(s, bytes, SLOT_LENGTH(slot.length))


cdef int find_upcoming(instance *s, void *context) noexcept nogil:
    cdef next_query *q = <next_query *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot
    cdef int outcome
    q.deliveries = 0
    if root == NULL:
        return s.error
    q.due = root.earliest if root.reserved else LEASE_NEVER
    outcome = find_next(s, root, q.entry.now, &q.entry.next)
    if outcome == OK and q.entry.next.slot:
        slot = slot_read(s, root, q.entry.next.slot - 1)
        if slot == NULL:
            return s.error
        q.deliveries = slot.deliveries
    return outcome


cdef int read_next(instance *s, void *context) noexcept nogil:
    cdef meant *m = &(<next_query *> context).entry
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment
    cdef const queue_entry *entry
    cdef const queue_slot *slot
    cdef const char *bytes
    cdef uint64_t address
    cdef uint32_t at
    cdef int outcome = find_upcoming(s, context)
    if outcome != OK:
        return outcome
    if root == NULL:
        return s.error
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


cdef int read_segment(instance *s, void *context) noexcept nogil:
    cdef cursor *c = <cursor *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment = NULL
    cdef const queue_entry *entry
    cdef uint64_t address, next = c.next, number, value
    cdef uint32_t at = SEGMENT_FIRST, answered = 0, length
    cdef const char *bytes
    c.then = next
    if root == NULL:
        return s.error
    if not root.head:
        return EMPTY
    address = root.head
    if next <= root.dequeued:
        next = root.dequeued
    # An entry is in one segment only, ever; so a segment that has it is the right one, and its
    # address may be from any earlier state.
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
    while at < segment.end and answered < STEP_BYTES_MIN:
        entry = entry_at(s, segment, address, at)
        if entry == NULL:
            return s.error
        if number >= next:
            c.then = number + 1                # where to continue if this value cannot be read
            c.then_hint = address
            value = entry_value(entry)
            length = entry_length(entry)
            bytes = value_bytes(s, value, length) if value else <const char *> (entry + 1)
            if bytes == NULL or answer_put(s, &length, 4) != OK:
                return s.error
            if answer_put(s, bytes, length) != OK:
                return s.error
            answered += 4 + length
        number += 1
        at += QUEUE_ENTRY(entry_length(entry))
    c.then = number
    c.then_hint = address if at < segment.end else segment.next
    if not answered:
        return fault(s, address, b"a segment has fewer entries than its header says")
    return OK


cdef int pass_damaged(instance *s, void *context) noexcept nogil:
    cdef cursor *c = <cursor *> context
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment
    cdef queue_segment there
    cdef uint64_t address, links = 0
    cdef bint damaged = False
    if root == NULL:
        return s.error
    address = c.hint if c.hint else root.head
    while address and links < SEGMENTS_MAX:
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

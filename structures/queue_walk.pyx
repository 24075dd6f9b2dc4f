"""Walk all nodes of a queue: segments, values, shelves and tables; verify its invariants."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.layout cimport (
    ENTRY_HELD, LEASE_NEVER, PLACE_ADDRESS, QUEUE_ENTRY, SEGMENT_BYTES, SEGMENT_FIRST, SHELF_FAN,
    SLOT_AT, SLOT_LENGTH, TABLE_SLOTS, VALUE_MAX, VALUE_NODE, queue_entry, queue_place, queue_root,
    queue_segment, queue_shelf, queue_slot, queue_table,
)
from structures.queue_operations cimport TICKET_BITS
from structures.queue_reservations cimport (
    SHELVES_MAX, shelf_place, shelf_read, slot_bytes, slot_read, table_place, table_read,
)
from structures.queue_segments cimport (
    entry_at, entry_leads, entry_length, entry_value, root_of, segment_read,
)
from structures.values cimport value_bytes


# Segments


cdef int walk_segments(instance *s, visitor visit, void *context, uint64_t *held) noexcept nogil:
    """Walk the segments from head to tail; held: the number of held entries in the first one."""
    cdef const queue_root *root = root_of(s)
    cdef const queue_segment *segment
    cdef const queue_entry *entry
    cdef uint64_t address, next, number, given, value, tail
    cdef uint32_t at, start, length, stay
    cdef int outcome
    held[0] = 0
    if root == NULL:
        return s.error
    if not root.head and not root.tail:
        return OK
    if not root.head or not root.tail:
        return fault(s, 0, b"the queue has only a head or only a tail")
    address = root.head
    tail = root.tail
    given = root.dequeued
    start = root.head_offset
    segment = segment_read(s, address)
    if segment == NULL:
        return s.error
    number = segment.first
    while True:
        segment = segment_read(s, address)
        if segment == NULL:
            return s.error
        if segment.first != number:
            return fault(s, address, b"a segment does not begin at the end of the previous one")
        if not segment.count:
            return fault(s, address, b"a segment is empty")
        at = SEGMENT_FIRST
        stay = 0
        while at < segment.end:
            if at == start and number != given:
                return fault(s, address, b"the head of the queue is not at its entry")
            entry = entry_at(s, segment, address, at)
            if entry == NULL:
                return s.error
            if entry.number != <uint32_t> number:
                return fault(s, address, b"an entry has the wrong number")
            value = entry_value(entry)
            length = entry_length(entry)
            stay += entry.length & ENTRY_HELD != 0
            if entry.length & ENTRY_HELD and (number >= given or value):
                return fault(s, address, b"an entry is reserved but was not dequeued")
            if value and number >= given:
                if value_bytes(s, value, length) == NULL:
                    return s.error
                outcome = visit(context, value, VALUE_NODE(length))
                if outcome != OK:
                    return outcome
                nodes_release(s)       # they may be long
                segment = segment_read(s, address)
                if segment == NULL:
                    return s.error
            number += 1
            at += QUEUE_ENTRY(length)
        if number != segment.first + segment.count:
            return fault(s, address, b"a segment's entry count does not match its entries")
        if stay != segment.held:
            return fault(s, address,
                         b"a segment's count of reserved entries does not match its entries")
        held[0] += stay
        if start == at and number != given:
            return fault(s, address, b"the head of the queue is not at its entry")
        if start and (number < given or (start < at and number == given)):
            return fault(s, address, b"the head of the queue is not at its entry")
        start = 0
        next = segment.next
        outcome = visit(context, address, SEGMENT_BYTES)
        if outcome != OK:
            return outcome
        if not next:
            break
        nodes_release(s)
        address = next
    if address != tail:
        return fault(s, tail, b"the tail of the queue is not its last segment")
    return OK


# Reservations


cdef struct survey:
    visitor visit
    void *context
    uint64_t tables
    uint64_t reserved
    uint64_t delayed
    uint64_t returned
    uint64_t held              # entries that stay in their segments
    uint64_t holding           # the same, as counted by the segments


cdef int walk_slot(instance *s, uint64_t number, survey *w) noexcept nogil:
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot = NULL if root == NULL else slot_read(s, root, number)
    cdef uint64_t value
    cdef uint32_t length, at
    cdef int leads
    if slot == NULL:
        return s.error
    if not slot.ticket and (slot.deadline or slot.value or slot.deliveries):
        return fault(s, 0, b"a free slot is not empty")
    if not slot.ticket:
        return OK
    if slot.ticket >> TICKET_BITS > root.tickets:
        return fault(s, 0, b"a ticket was never issued")
    value = slot.value
    at = SLOT_AT(slot.length)
    length = SLOT_LENGTH(slot.length)
    if length > VALUE_MAX:
        return fault(s, 0, b"a reserved value exceeds the longest value")
    if slot.deadline:
        w.reserved += 1
        w.delayed += not slot.deliveries
    else:
        w.returned += 1
    if slot_bytes(s, slot) == NULL:
        return s.error
    if not at:
        return w.visit(w.context, value, VALUE_NODE(length))
    w.held += 1
    if value == root.head:
        return OK                              # it was visited with the other segments
    leads = entry_leads(s, value, at)
    if leads <= 0:
        return leads
    w.holding += leads
    return w.visit(w.context, value, SEGMENT_BYTES)


cdef int walk_table(instance *s, uint64_t address, uint64_t number, queue_place *now,
                    survey *w) noexcept nogil:
    cdef const queue_table *table = table_read(s, address)
    cdef uint32_t i
    cdef int outcome
    if table == NULL:
        return s.error
    table_place(table, now)
    w.tables += 1
    outcome = w.visit(w.context, address, sizeof(queue_table))
    for i in range(TABLE_SLOTS):
        if outcome != OK:
            return outcome
        outcome = walk_slot(s, number * TABLE_SLOTS + i, w)
        nodes_release(s)
    return outcome


cdef int walk_shelf(instance *s, uint64_t address, uint32_t depth, uint64_t number,
                    queue_place *now, survey *w) noexcept nogil:
    cdef const queue_shelf *shelf
    cdef queue_place there, below
    cdef uint64_t child
    cdef uint32_t i
    cdef int outcome = w.visit(w.context, address, sizeof(queue_shelf))
    for i in range(SHELF_FAN):
        if outcome != OK:
            return outcome
        shelf = shelf_read(s, address)
        if shelf == NULL:
            return s.error
        there = shelf.places[i]
        if not there.child:
            continue
        child = PLACE_ADDRESS(there.child)
        if depth == 1:
            outcome = walk_table(s, child, number * SHELF_FAN + i, &below, w)
        else:
            outcome = walk_shelf(s, child, depth - 1, number * SHELF_FAN + i, &below, w)
        if outcome == OK and (below.child != there.child or below.earliest != there.earliest):
            return fault(s, address, b"a shelf's summary does not match the slots below it")
    shelf = shelf_read(s, address)
    if shelf == NULL:
        return s.error
    shelf_place(shelf, now)
    return outcome


cdef int walk_returned(instance *s, const queue_root *root) noexcept nogil:
    """Check that each slot of the list belongs there."""
    cdef const queue_slot *slot
    cdef uint32_t each = root.first, count = 0, last = 0
    while each:
        slot = slot_read(s, root, each - 1)
        if slot == NULL:
            return s.error
        if slot.deadline or not slot.ticket:
            return fault(s, 0, b"a slot is in the wrong list")
        count += 1
        if count > root.requeued:
            return fault(s, 0, b"the list of requeued slots is longer than the queue's count")
        last = each
        each = slot.next
    if last != root.last or count != root.requeued:
        return fault(s, 0, b"the last requeued slot does not match the queue's root")
    return OK


cdef int walk_reservations(instance *s, uint64_t held, visitor visit,
                           void *context) noexcept nogil:
    cdef const queue_root *root = root_of(s)
    cdef survey w
    cdef queue_place now
    cdef int outcome = OK
    if root == NULL:
        return s.error
    memset(&w, 0, sizeof(w))
    w.visit = visit
    w.context = context
    w.holding = held
    now.child = 0
    now.earliest = LEASE_NEVER
    if root.depth > SHELVES_MAX:
        return fault(s, root.top, b"the reservations have too many shelves")
    if root.top and root.depth:
        outcome = walk_shelf(s, root.top, root.depth, 0, &now, &w)
    elif root.top:
        outcome = walk_table(s, root.top, 0, &now, &w)
    if outcome != OK:
        return outcome
    root = root_of(s)
    if root == NULL:
        return s.error
    if ((root.top != 0) != (now.child != 0) or w.tables != root.tables
            or (root.reserved and root.earliest != now.earliest)):
        return fault(s, 0, b"the queue's reservation tables do not match its root")
    if (w.reserved != root.reserved or w.returned != root.requeued
            or w.delayed != root.delayed):
        return fault(s, 0, b"the queue's reservation count does not match the reservations found")
    if w.held != w.holding:
        return fault(s, 0, b"a segment keeps entries that are not reserved")
    return walk_returned(s, root)


cdef int queue_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef uint64_t held = 0
    cdef int outcome = walk_segments(s, visit, context, &held)
    nodes_release(s)
    return walk_reservations(s, held, visit, context) if outcome == OK else outcome

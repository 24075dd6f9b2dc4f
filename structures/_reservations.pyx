# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The reservations of a queue (the contract is in _reservations.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm._node cimport RNVM_NODE
from rnvm.frontend._front cimport instance
from rnvm.frontend._structure cimport OK, fault, node_change, node_new, node_read, nodes_release, visitor
from structures._layout cimport MOST_VALUE, TABLE_SLOTS, TYPE_TABLE, VALUE_NODE, queue_root, queue_slot, queue_table
from structures._segments cimport root_of
from structures._shared cimport directory_get, directory_set, directory_walk, value_bytes

cdef enum:
    MOST_RECLAIMED = 256       # reservations that one operation takes back: a transaction has to fit into the log


cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t slot) noexcept nogil:
    cdef uint64_t address
    cdef queue_table *table
    if slot >= root.slots:
        s.error = fault(s, root.node.address, b"a slot beyond those that the queue has")
        return NULL
    address = directory_get(s, root.tables, root.depth, slot // TABLE_SLOTS)
    if not address:
        return NULL
    table = <queue_table *> node_read(s, address, sizeof(queue_table), TYPE_TABLE)
    return NULL if table == NULL else &table.slots[slot % TABLE_SLOTS]


cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t slot) noexcept nogil:
    cdef uint64_t address
    cdef uint32_t at = <uint32_t> (RNVM_NODE + slot % TABLE_SLOTS * sizeof(queue_slot))
    cdef char *table
    if slot >= root.slots:
        s.error = fault(s, root.node.address, b"a slot beyond those that the queue has")
        return NULL
    address = directory_get(s, root.tables, root.depth, slot // TABLE_SLOTS)
    if not address:
        return NULL
    table = node_change(s, address, sizeof(queue_table), TYPE_TABLE, at, sizeof(queue_slot))
    return NULL if table == NULL else <queue_slot *> (table + at)


cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil:
    cdef queue_slot *slot
    cdef uint64_t address
    if root.vacant:
        number[0] = root.vacant - 1
        slot = slot_change(s, root, number[0])
        if slot != NULL:
            root.vacant = slot.next
        return slot
    if root.slots % TABLE_SLOTS == 0:
        if node_new(s, sizeof(queue_table), TYPE_TABLE, &address) == NULL:
            return NULL
        if directory_set(s, &root.tables, &root.depth, root.slots // TABLE_SLOTS, address) != OK:
            return NULL
    number[0] = root.slots
    root.slots += 1
    return slot_change(s, root, number[0])


cdef void slot_vacate(queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil:
    memset(slot, 0, sizeof(queue_slot))
    slot.next = root.vacant
    root.vacant = number + 1


cdef int give_back(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil:
    cdef queue_slot *last
    if root.last:
        last = slot_change(s, root, root.last - 1)
        if last == NULL:
            return s.error
        last.next = number + 1
    else:
        root.first = number + 1
    root.last = number + 1
    slot.deadline = 0
    slot.next = 0
    root.reserved -= 1
    root.returned += 1
    return OK


cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil:
    cdef queue_slot *slot
    cdef uint32_t number, reclaimed = 0, left = root.reserved
    cdef uint64_t earliest = <uint64_t> -1
    for number in range(root.slots):
        if not left:
            break
        slot = slot_read(s, root, number)
        if slot == NULL:
            return s.error
        if not slot.ticket or not slot.deadline:
            continue
        left -= 1
        if slot.deadline > now:
            earliest = min(earliest, slot.deadline)
            continue
        if reclaimed == MOST_RECLAIMED:
            earliest = 0                   # of those that are left some have ended before
            break
        reclaimed += 1
        slot = slot_change(s, root, number)
        if slot == NULL or give_back(s, root, slot, number) != OK:
            return s.error
    root.earliest = earliest
    return OK


cdef int walk_list(instance *s, const queue_root *root, uint32_t first, bint vacant, uint32_t *count) noexcept nogil:
    """Counts a list of slots, and looks whether each belongs there."""
    cdef const queue_slot *slot
    count[0] = 0
    while first:
        slot = slot_read(s, root, first - 1)
        if slot == NULL:
            return s.error
        if slot.deadline or (slot.ticket == 0) != vacant:
            return fault(s, 0, b"a slot is in a list where it does not belong")
        count[0] += 1
        if count[0] > root.slots:
            return fault(s, 0, b"a list of slots never ends")
        if not vacant and not slot.next and root.last != first:
            return fault(s, 0, b"the last slot that was returned is another one")
        first = slot.next
    return OK


cdef int reservations_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const queue_root *root = root_of(s)
    cdef const queue_slot *slot
    cdef uint64_t address, value
    cdef uint32_t number, length, vacant = 0, returned = 0, reserved = 0
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.slots:
        return OK if not root.tables else fault(s, root.tables, b"a directory of slots where there are none")
    outcome = directory_walk(s, root.tables, root.depth, visit, context)
    for number in range(root.slots):
        if outcome != OK:
            return outcome
        root = root_of(s)
        slot = NULL if root == NULL else slot_read(s, root, number)
        if slot == NULL:
            return s.error
        if slot.ticket > root.tickets:
            return fault(s, 0, b"a ticket that was never given")
        if slot.ticket and slot.deadline and slot.deadline < root.earliest:
            return fault(s, 0, b"a lease ends earlier than the queue says")
        if slot.length > MOST_VALUE:
            return fault(s, 0, b"a reserved value is longer than values are")
        reserved += slot.deadline != 0
        value = slot.value
        length = slot.length
        if number % TABLE_SLOTS == 0:
            address = directory_get(s, root.tables, root.depth, number // TABLE_SLOTS)
            outcome = visit(context, address, sizeof(queue_table))
        if slot.ticket and outcome == OK:
            if value_bytes(s, value, length) == NULL:
                return s.error
            outcome = visit(context, value, VALUE_NODE(length))
            nodes_release(s)
    root = root_of(s)
    if root == NULL:
        return s.error
    if outcome == OK:
        outcome = walk_list(s, root, root.vacant, True, &vacant)
    if outcome == OK:
        outcome = walk_list(s, root, root.first, False, &returned)
    if outcome != OK:
        return outcome
    if reserved != root.reserved or returned != root.returned or vacant + returned + reserved != root.slots:
        return fault(s, 0, b"the queue counts another number of reservations than it has")
    return OK

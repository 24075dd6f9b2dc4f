"""Find, take and free slots; keep the shelves exact; take back ended leases."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, node_new, node_read, room_for,
)
from structures.directory cimport span_of
from structures.layout cimport (
    LEASE_NEVER, PLACE_ADDRESS, PLACE_FULL, PLACE_TAKEN, SHELF_FAN, SLOT_AT, SLOT_LENGTH,
    TABLE_SLOTS, TYPE_SHELF, TYPE_TABLE, queue_place, queue_root, queue_shelf, queue_slot,
    queue_table,
)
from structures.queue_segments cimport (
    change_root, entry_bytes, entry_release, root_of, segments_count,
)
from structures.values cimport value_bytes, value_free

cdef enum:
    RECLAIM_TABLES_MAX = 8     # tables of which one operation takes leases back
    RECLAIM_BYTES = 3000       # bytes that one of them changes at most: it must fit into the log
    BESIDE_BYTES = 2500        # and the operation's other changes
    WAITING_PER_SLOT = 8       # waiting entries per reservation that is provided for
    PROVIDED_TABLES_MAX = 40   # tables

cdef struct way:               # from the top to a table
    uint64_t[SHELVES_MAX] shelves
    uint32_t[SHELVES_MAX] places
    uint64_t table


cdef const queue_shelf *shelf_read(instance *s, uint64_t address) noexcept nogil:
    return <const queue_shelf *> node_read(s, address, sizeof(queue_shelf), TYPE_SHELF)


cdef queue_table *table_read(instance *s, uint64_t address) noexcept nogil:
    return <queue_table *> node_read(s, address, sizeof(queue_table), TYPE_TABLE)


cdef queue_place *place_change(instance *s, uint64_t shelf, uint32_t place) noexcept nogil:
    cdef uint32_t at = <uint32_t> (RNVM_NODE + place * sizeof(queue_place))
    cdef char *changed = node_change(s, shelf, sizeof(queue_shelf), TYPE_SHELF, at,
                                     sizeof(queue_place))
    return NULL if changed == NULL else <queue_place *> (changed + at)


cdef int find_table(instance *s, const queue_root *root, uint64_t table, way *w) noexcept nogil:
    """Return OK and the way to it, or NO_QUEUE_SLOT."""
    cdef const queue_shelf *shelf
    cdef uint64_t span
    cdef uint32_t level
    if root.depth > SHELVES_MAX:
        return fault(s, root.top, b"the reservations have too many shelves")
    span = span_of(SHELF_FAN, root.depth)
    if table >= span:
        return NO_QUEUE_SLOT
    w.table = root.top
    for level in range(root.depth):
        shelf = shelf_read(s, w.table)
        if shelf == NULL:
            return s.error
        span = span // SHELF_FAN
        w.shelves[level] = w.table
        w.places[level] = <uint32_t> (table // span % SHELF_FAN)
        w.table = PLACE_ADDRESS(shelf.places[w.places[level]].child)
        if not w.table:
            return NO_QUEUE_SLOT
    return OK if w.table else NO_QUEUE_SLOT


cdef int slot_find(instance *s, const queue_root *root, uint64_t number,
                   queue_slot **slot) noexcept nogil:
    cdef way w
    cdef queue_table *table
    cdef int outcome = find_table(s, root, number // TABLE_SLOTS, &w)
    if outcome != OK:
        return outcome
    table = table_read(s, w.table)
    if table == NULL:
        return s.error
    slot[0] = &table.slots[number % TABLE_SLOTS]
    return OK


cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t number) noexcept nogil:
    cdef queue_slot *slot = NULL
    if slot_find(s, root, number, &slot) == NO_QUEUE_SLOT:
        s.error = fault(s, root.node.address, b"a slot number is out of range")
    return slot


cdef const char *slot_bytes(instance *s, const queue_slot *slot) noexcept nogil:
    cdef uint32_t at = SLOT_AT(slot.length), length = SLOT_LENGTH(slot.length)
    return entry_bytes(s, slot.value, at, length) if at else value_bytes(s, slot.value, length)


cdef void search_ended(search *f, uint64_t now) noexcept nogil:
    memset(f, 0, sizeof(f[0]))
    f.now = now


cdef int next_ended_table(instance *s, const queue_root *root, search *f) noexcept nogil:
    cdef uint32_t level, each
    cdef const queue_place *place
    if not f.begun:
        f.begun = True
        f.depth = root.depth
        if f.depth > SHELVES_MAX:
            return fault(s, root.top, b"the reservations have too many shelves")
        if not root.reserved or root.earliest > f.now or not root.top:
            return NO_QUEUE_SLOT
        if not f.depth:
            f.number = 0
            f.table = table_read(s, root.top)
            return s.error if f.table == NULL else OK
        f.shelves[0] = <queue_shelf *> shelf_read(s, root.top)
        if f.shelves[0] == NULL:
            return s.error
        f.places[0] = level = 0
    elif not f.depth:
        return NO_QUEUE_SLOT
    else:
        level = f.depth - 1
        f.places[level] += 1
    while True:
        if f.places[level] == SHELF_FAN:
            if not level:
                return NO_QUEUE_SLOT
            level -= 1
            f.places[level] += 1
            continue
        place = &f.shelves[level].places[f.places[level]]
        if not place.child or place.earliest > f.now:
            f.places[level] += 1
        elif level + 1 < f.depth:
            level += 1
            f.shelves[level] = <queue_shelf *> shelf_read(s, PLACE_ADDRESS(place.child))
            f.places[level] = 0
            if f.shelves[level] == NULL:
                return s.error
        else:
            f.table = table_read(s, PLACE_ADDRESS(place.child))
            f.number = 0
            for each in range(f.depth):
                f.number = f.number * SHELF_FAN + f.places[each]
            f.number *= TABLE_SLOTS
            return s.error if f.table == NULL else OK


cdef int next_ended_slot(instance *s, const queue_root *root, search *f) noexcept nogil:
    cdef int outcome
    while True:
        while f.table != NULL and f.at < TABLE_SLOTS:
            f.slot = &f.table.slots[f.at]
            f.slot_number = f.number + f.at
            f.at += 1
            if slot_ended(f.slot, f.now):
                return OK
        outcome = next_ended_table(s, root, f)
        if outcome != OK:
            return outcome
        f.at = 0


# Changes


cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t number) noexcept nogil:
    cdef uint32_t at = <uint32_t> (RNVM_NODE + number % TABLE_SLOTS * sizeof(queue_slot))
    cdef char *table
    cdef way w
    cdef int outcome = find_table(s, root, number // TABLE_SLOTS, &w)
    if outcome == NO_QUEUE_SLOT:
        s.error = fault(s, root.node.address, b"a slot number is out of range")
    if outcome != OK:
        return NULL
    table = node_change(s, w.table, sizeof(queue_table), TYPE_TABLE, at, sizeof(queue_slot))
    return NULL if table == NULL else <queue_slot *> (table + at)


cdef void table_place(const queue_table *table, queue_place *place) noexcept nogil:
    """Compute a table's place in its shelf."""
    cdef uint32_t i, taken = 0
    place.earliest = LEASE_NEVER
    for i in range(TABLE_SLOTS):
        if table.slots[i].ticket:
            taken += 1
            if table.slots[i].deadline:
                place.earliest = min(place.earliest, table.slots[i].deadline)
    place.child = table.node.address | PLACE_FULL | (PLACE_TAKEN if taken == TABLE_SLOTS else 0)


cdef void shelf_place(const queue_shelf *shelf, queue_place *place) noexcept nogil:
    """Compute a shelf's place in the shelf above; zeros: it is empty."""
    cdef uint32_t i
    cdef uint64_t all = PLACE_FULL, full = PLACE_TAKEN
    cdef bint any = False
    place.earliest = LEASE_NEVER
    for i in range(SHELF_FAN):
        if not shelf.places[i].child:
            all = 0
            continue
        any = True
        all &= shelf.places[i].child
        full &= shelf.places[i].child
        place.earliest = min(place.earliest, shelf.places[i].earliest)
    place.child = shelf.node.address | all | full
    if not any:
        place.child = place.earliest = 0


cdef int provided(instance *s, const queue_root *root, uint32_t *tables) noexcept nogil:
    """Compute how many tables must exist in any case."""
    cdef uint64_t waiting
    if segments_count(s, root, &waiting) != OK:
        return s.error
    tables[0] = <uint32_t> min(1 + waiting // (WAITING_PER_SLOT * TABLE_SLOTS),
                               <uint64_t> PROVIDED_TABLES_MAX)
    tables[0] += (root.delayed + TABLE_SLOTS - 1) // TABLE_SLOTS
    return OK


cdef int lower_top(instance *s, queue_root *root) noexcept nogil:
    """Remove top shelves that lead to their first place only."""
    cdef const queue_shelf *shelf
    cdef uint64_t address
    cdef uint32_t i
    while root.depth:
        shelf = shelf_read(s, root.top)
        if shelf == NULL:
            return s.error
        for i in range(1, SHELF_FAN):
            if shelf.places[i].child:
                return OK
        address = root.top
        root.top = PLACE_ADDRESS(shelf.places[0].child)
        root.depth -= 1
        if node_free(s, address, sizeof(queue_shelf)) != OK:
            return s.error
    return OK


cdef int slot_note(instance *s, queue_root *root, uint64_t number) noexcept nogil:
    cdef way w
    cdef const queue_table *table
    cdef const queue_shelf *shelf
    cdef queue_place now
    cdef const queue_place *seen
    cdef queue_place *place
    cdef uint32_t level = root.depth, wanted = 0, used = root.reserved + root.requeued, i
    cdef bint gone = False
    cdef int outcome = find_table(s, root, number // TABLE_SLOTS, &w)
    if outcome == NO_QUEUE_SLOT:
        return fault(s, root.node.address, b"a slot number is out of range")
    if outcome != OK:
        return outcome
    table = table_read(s, w.table)
    if table == NULL:
        return s.error
    table_place(table, &now)
    # Keep one table more than needed: a consumer that reserves and acknowledges in turn would
    # otherwise create a table each time.
    if (root.tables > 1
            and <uint64_t> (root.tables - 1) * TABLE_SLOTS >= <uint64_t> used + TABLE_SLOTS):
        gone = True
        for i in range(TABLE_SLOTS):
            if table.slots[i].ticket:
                gone = False
    if gone:
        if provided(s, root, &wanted) != OK:
            return s.error
        gone = root.tables > wanted
    if gone:
        if node_free(s, w.table, sizeof(queue_table)) != OK:
            return s.error
        root.tables -= 1
        now.child = now.earliest = 0
    while level:
        level -= 1
        shelf = shelf_read(s, w.shelves[level])
        if shelf == NULL:
            return s.error
        seen = &shelf.places[w.places[level]]
        if seen.child == now.child and seen.earliest == now.earliest:
            return OK
        place = place_change(s, w.shelves[level], w.places[level])
        if place == NULL:
            return s.error
        place[0] = now
        shelf = shelf_read(s, w.shelves[level])
        if shelf == NULL:
            return s.error
        shelf_place(shelf, &now)
        if not now.child and node_free(s, w.shelves[level], sizeof(queue_shelf)) != OK:
            return s.error
    root.top = PLACE_ADDRESS(now.child)
    root.earliest = now.earliest
    if not root.top:
        root.depth = 0
    return lower_top(s, root) if gone else OK


cdef int deepen(instance *s, queue_root *root) noexcept nogil:
    """Add one more shelf, over everything that is there."""
    cdef const queue_shelf *below
    cdef const queue_table *table
    cdef queue_shelf *shelf
    cdef queue_place place
    cdef uint64_t address = 0
    if root.depth:
        below = shelf_read(s, root.top)
        if below == NULL:
            return s.error
        shelf_place(below, &place)
    else:
        table = table_read(s, root.top)
        if table == NULL:
            return s.error
        table_place(table, &place)
    if root.depth == SHELVES_MAX:
        return fault(s, root.top, b"the reservations have too many shelves")
    shelf = <queue_shelf *> node_new(s, sizeof(queue_shelf), TYPE_SHELF, &address)
    if shelf == NULL:
        return s.error
    shelf.places[0] = place
    root.top = address
    root.depth += 1
    return OK


cdef int table_new(instance *s, queue_root *root, uint64_t *number) noexcept nogil:
    """Add a table, in the first free place; number: of its first slot."""
    cdef const queue_shelf *shelf = NULL
    cdef queue_place *place
    cdef queue_place now
    cdef uint64_t address = 0, above
    cdef uint32_t level, i
    cdef bint room = False
    number[0] = 0
    if root.top and root.depth:
        shelf = shelf_read(s, root.top)
        if shelf == NULL:
            return s.error
        shelf_place(shelf, &now)
        room = not now.child & PLACE_FULL
    if root.top and not room and deepen(s, root) != OK:
        return s.error
    above = root.top
    for level in range(root.depth):
        shelf = shelf_read(s, above)
        if shelf == NULL:
            return s.error
        i = 0
        while i < SHELF_FAN and shelf.places[i].child & PLACE_FULL:
            i += 1
        if i == SHELF_FAN:
            return fault(s, above, b"a shelf that is marked as free has no free place")
        number[0] = number[0] * SHELF_FAN + i
        address = PLACE_ADDRESS(shelf.places[i].child)
        if not address:
            if level + 1 < root.depth:
                if node_new(s, sizeof(queue_shelf), TYPE_SHELF, &address) == NULL:
                    return s.error
            elif node_new(s, sizeof(queue_table), TYPE_TABLE, &address) == NULL:
                return s.error
            place = place_change(s, above, i)
            if place == NULL:
                return s.error
            place.child = address              # slot_note() fills in the rest
            place.earliest = 0
        above = address
    if not root.depth:
        if node_new(s, sizeof(queue_table), TYPE_TABLE, &root.top) == NULL:
            return s.error
    root.tables += 1
    number[0] *= TABLE_SLOTS
    return OK


cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil:
    cdef const queue_shelf *shelf
    cdef const queue_table *table
    cdef uint64_t address = root.top, found = 0
    cdef uint32_t level = 0, i
    cdef bint any = address != 0
    if root.depth > SHELVES_MAX:
        s.error = fault(s, root.top, b"the reservations have too many shelves")
        return NULL
    while any and level < root.depth:
        shelf = shelf_read(s, address)
        if shelf == NULL:
            return NULL
        i = 0
        while i < SHELF_FAN and (not shelf.places[i].child or shelf.places[i].child & PLACE_TAKEN):
            i += 1
        any = i < SHELF_FAN
        if any:
            found = found * SHELF_FAN + i
            address = PLACE_ADDRESS(shelf.places[i].child)
            level += 1
        elif level:
            s.error = fault(s, address, b"a shelf marks a used slot as free")
            return NULL
    if any:
        table = table_read(s, address)
        if table == NULL:
            return NULL
        i = 0
        while i < TABLE_SLOTS and table.slots[i].ticket:
            i += 1
        any = i < TABLE_SLOTS
        found = found * TABLE_SLOTS + i
        if not any and root.depth:
            s.error = fault(s, address, b"a shelf marks a used slot as free")
            return NULL
    if not any and table_new(s, root, &found) != OK:
        return NULL
    if found >= <uint64_t> 0xffffffff:
        s.error = fault(s, root.top, b"the reservations have too many shelves")
        return NULL
    number[0] = <uint32_t> found
    return slot_change(s, root, found)


cdef int slot_vacate(instance *s, queue_root *root, queue_slot *slot,
                     uint32_t number) noexcept nogil:
    cdef uint32_t at = SLOT_AT(slot.length)
    if at:
        if entry_release(s, root, slot.value, at) != OK:
            return s.error
    elif value_free(s, slot.value, SLOT_LENGTH(slot.length)) != OK:
        return s.error
    memset(slot, 0, sizeof(queue_slot))
    return slot_note(s, root, number)


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
    lease_end(root, slot)
    root.requeued += 1
    return OK


cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil:
    cdef search f
    cdef queue_slot *slot
    cdef uint64_t first
    cdef uint32_t i, tables = 0, most = 0
    cdef int outcome
    while most < RECLAIM_TABLES_MAX and room_for(s, BESIDE_BYTES + (most + 1) * RECLAIM_BYTES):
        most += 1
    if not most and not root.first:
        most = 1                               # else the operation would take a later value
    while tables < most and root.reserved and root.earliest <= now:
        search_ended(&f, now)
        outcome = next_ended_table(s, root, &f)
        if outcome == NO_QUEUE_SLOT:
            return fault(s, root.top, b"no lease ends at the queue's next deadline")
        if outcome != OK:
            return outcome
        first = f.number
        for i in range(TABLE_SLOTS):
            if not slot_ended(&f.table.slots[i], now):
                continue
            slot = slot_change(s, root, first + i)
            if slot == NULL or give_back(s, root, slot, <uint32_t> first + i) != OK:
                return s.error
        if slot_note(s, root, first) != OK:
            return s.error
        tables += 1
    return OK


cdef int reservations_provide(instance *s) noexcept nogil:
    cdef const queue_root *seen = root_of(s)
    cdef queue_root *root
    cdef uint64_t number
    cdef uint32_t wanted
    if seen == NULL or provided(s, seen, &wanted) != OK:
        return s.error
    if seen.tables >= wanted:
        return OK
    root = change_root(s)
    if root == NULL or table_new(s, root, &number) != OK:
        return s.error
    return slot_note(s, root, number)

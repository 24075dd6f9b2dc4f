# The reservations of a queue, and its delayed entries: each has a slot; slots are in tables, and
# shelves lead to the tables.
#
#   root.top --> shelf   | child, earliest | child, earliest | ...          60 places
#                           |                  |
#                           v                  v
#                shelf   | ... |            shelf   | ... |                root.depth levels
#                           |
#                           v
#                table   | slot 0 | slot 1 | ... | slot 23 |
#
#   a place:  the address below | TAKEN (no vacant slot there) | FULL (no further table fits)
#             earliest: the end of the first lease to end there
#   a slot:   ticket (0: vacant), deadline (0: given back), value, length, next, deliveries
#             deliveries 0: a delayed entry, whose lease is its delay
#
#   root.first --> slot --> slot --> ... root.last      given back, delivered again first
#
# A place describes its table exactly, so one descent finds the next vacant slot or the next lease
# to end, and a table without reservations can be freed.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.layout cimport queue_place, queue_root, queue_shelf, queue_slot, queue_table

cdef enum:
    SHELVES_MAX = 6            # levels: 46,656,000,000 tables
    NO_QUEUE_SLOT = 1          # there is no such slot, or table

cdef struct search:            # through the tables, in order
    uint64_t now
    uint32_t depth
    bint begun
    queue_shelf *shelves[SHELVES_MAX]
    uint32_t[SHELVES_MAX] places
    const queue_table *table
    uint64_t number            # of its first slot
    uint32_t at                # the slot of the table to examine next
    const queue_slot *slot     # of next_ended_slot()
    uint64_t slot_number

cdef inline bint slot_ended(const queue_slot *slot, uint64_t now) noexcept nogil:
    """Return whether the slot has a reservation whose lease has ended by now."""
    return slot.ticket and slot.deadline and slot.deadline <= now

# Returns a slot, for reading only.  OK, or NO_QUEUE_SLOT: no slot has this number.
cdef int slot_find(instance *s, const queue_root *root, uint64_t number,
                   queue_slot **slot) noexcept nogil
# Returns a slot that must exist; NULL: see s.error.
cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t number) noexcept nogil
cdef const char *slot_bytes(instance *s, const queue_slot *slot) noexcept nogil
# Begins a search for the leases that have ended by now.  The tables must not change during it.
cdef void search_ended(search *f, uint64_t now) noexcept nogil
# Steps through the tables in which a lease has ended, or through the slots: f.slot and
# f.slot_number.  Return NO_QUEUE_SLOT after the last one.
cdef int next_ended_table(instance *s, const queue_root *root, search *f) noexcept nogil
cdef int next_ended_slot(instance *s, const queue_root *root, search *f) noexcept nogil
# The functions below work in apply, with the root as it is being changed.
cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t number) noexcept nogil
# Returns a vacant slot, of the first table that has any.
cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil
# Updates the shelves after a change in a slot, and frees a table that is empty.
cdef int slot_note(instance *s, queue_root *root, uint64_t number) noexcept nogil
# Makes a slot vacant, whose value is no longer needed.
cdef int slot_vacate(instance *s, queue_root *root, queue_slot *slot,
                     uint32_t number) noexcept nogil
# Ends the lease of a slot whose entry goes back to the queue or leaves it.
cdef inline void lease_end(queue_root *root, const queue_slot *slot) noexcept nogil:
    root.reserved -= 1
    if not slot.deliveries:
        root.delayed -= 1

# Ends a reservation; its entry is delivered next, after those given back before.
cdef int give_back(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# Takes back entries whose lease has ended: of some tables, at a cost that does not depend on the
# number of reservations.
cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil
# Provides tables for reservations that are possible even when no block is free: an eighth of the
# waiting entries, from 24 to 960, beside the delayed ones.  Called when a queue grows.
cdef int reservations_provide(instance *s) noexcept nogil

# For checks.  Return a node, for reading only, or compute its place in the shelf above.
cdef const queue_shelf *shelf_read(instance *s, uint64_t address) noexcept nogil
cdef queue_table *table_read(instance *s, uint64_t address) noexcept nogil
cdef void table_place(const queue_table *table, queue_place *place) noexcept nogil
cdef void shelf_place(const queue_shelf *shelf, queue_place *place) noexcept nogil

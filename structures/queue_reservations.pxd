# The reservations of a queue: each has a slot; slots are in tables, and shelves lead to the tables.
#
#   root.top --> shelf   | child, earliest | child, earliest | ...          60 places
#                           |                  |
#                           v                  v
#                shelf   | ... |            shelf   | ... |                root.depth levels
#                           |
#                           v
#                table   | slot 0 | slot 1 | ... | slot 29 |
#
#   a place:  the address below | TAKEN (no vacant slot there) | FULL (no further table fits)
#             earliest: the end of the first lease to end there
#   a slot:   ticket (0: vacant), deadline (0: given back), value, length, next
#
#   root.first --> slot --> slot --> ... root.last      given back, delivered again first
#
# A place describes its table exactly, so one descent finds the next vacant slot or the next lease
# to end, and a table without reservations can be freed.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor
from structures.layout cimport queue_root, queue_shelf, queue_slot, queue_table

cdef enum:
    SHELVES_MAX = 6            # levels: 46,656,000,000 tables
    NO_SLOT = 1                # there is no such slot, or table

cdef struct search:            # through the tables, in order
    uint64_t now
    uint32_t depth
    bint begun
    queue_shelf *shelves[SHELVES_MAX]
    uint32_t[SHELVES_MAX] places
    const queue_table *table
    uint64_t number            # of its first slot

# Returns a slot, for reading only.  OK, or NO_SLOT: no slot has this number.
cdef int slot_find(instance *s, const queue_root *root, uint64_t number, queue_slot **slot) noexcept nogil
# Returns a slot that must exist; NULL: see s.error.
cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t number) noexcept nogil
cdef const char *slot_bytes(instance *s, const queue_slot *slot) noexcept nogil
# Steps through the tables in which a lease has ended by `now`, which the caller sets; the other
# fields begin as zeros.  The tables must not change during the search.  Returns NO_SLOT after the
# last table.
cdef int next_ended(instance *s, const queue_root *root, search *f) noexcept nogil
# The functions below work in apply, with the root as it is being changed.
cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t number) noexcept nogil
# Returns a vacant slot, of the first table that has any.
cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil
# Updates the shelves after a change in a slot, and frees a table that is empty.
cdef int slot_note(instance *s, queue_root *root, uint64_t number) noexcept nogil
# Makes a slot vacant, whose value is no longer needed.
cdef int slot_vacate(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# Ends a reservation; its entry is delivered next, after those given back before.
cdef int give_back(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# Takes back entries whose lease has ended: of some tables, at a cost that does not depend on the
# number of reservations.
cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil
# Provides tables for reservations that are possible even when no block is free: an eighth of the
# waiting entries, from 30 to 960.  Called when a queue grows.
cdef int reservations_provide(instance *s) noexcept nogil
cdef int reservations_walk(instance *s, uint64_t held, visitor visit, void *context) noexcept nogil

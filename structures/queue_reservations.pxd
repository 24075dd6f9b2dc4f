# The reservations of a queue: each has a slot, slots stand in tables, and shelves lead to the tables.  What a shelf says of
# a table (whether a slot is vacant there, and when the first lease ends) is exact, so the next vacant slot and the next
# lease that ends are found by one way down, and a table in which nothing is reserved is given back.

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

# A slot, to look at only.  OK, or NO_SLOT for a number that none has.
cdef int slot_find(instance *s, const queue_root *root, uint64_t number, queue_slot **slot) noexcept nogil
# One that has to be there; NULL: s.error.
cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t number) noexcept nogil
cdef const char *slot_bytes(instance *s, const queue_slot *slot) noexcept nogil
# The tables in which a lease has ended by `now`, which is set; the rest is zeros.  Nothing may be changed meanwhile.
# NO_SLOT after the last one.
cdef int next_ended(instance *s, const queue_root *root, search *f) noexcept nogil
# The rest in apply, with the root as it is being changed.
cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t number) noexcept nogil
# A vacant one, of the first table that has any.
cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil
# What was changed in a slot has its consequences: for the shelves, and for a table that nothing is in any more.
cdef int slot_note(instance *s, queue_root *root, uint64_t number) noexcept nogil
# The value is no longer needed; its slot is vacant.
cdef int slot_vacate(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# A reservation ends, and its entry will be the next but for those that came back before.
cdef int give_back(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# Takes back entries whose lease has ended: of some tables, at a cost that does not depend on how many reservations there are.
cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil
# So many reservations are possible in any case, also when no block is free: an eighth of those that wait, from 30 to 960.  Called
# where a queue grows.
cdef int reservations_provide(instance *s) noexcept nogil
cdef int reservations_walk(instance *s, uint64_t held, visitor visit, void *context) noexcept nogil

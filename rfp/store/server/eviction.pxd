# Eviction: making room when memory is used up, by policy.

from libc.stdint cimport uint64_t
from rfp.store.server.records cimport eviction, partition

cdef enum:
    EVICTION_DONE = 0
    EVICTION_PENDING = 1       # the budget is used up; the room made so far is reserved
    EVICTION_IMPOSSIBLE = 2    # nothing more can be evicted; the room reserved before is free again

# The sweep over the arena: the clock hand visits the blocks in address order, evicts the records
# not used since its last visit, moves the used ones down over the hole, and so pushes one hole
# upwards until it is large enough.  budget: blocks to visit.
cdef int eviction_sweep(partition *p, eviction *r, uint64_t budget) noexcept nogil
cdef void eviction_abandon(partition *p, eviction *r) noexcept nogil
# Returns a reserved block of that size for a key with this hash, or 0.  The record `exempt` stays
# in its place.
cdef uint64_t eviction_make_room(partition *p, uint64_t hash, uint64_t size,
                                 uint64_t exempt) noexcept nogil
# Returns a reserved block that ends below `limit`, or 0; the record `exempt` stays in its place.
cdef uint64_t eviction_make_low_room(partition *p, uint64_t size, uint64_t limit,
                                     uint64_t exempt) noexcept nogil
# Replaces a record in the chain of this hash by another slot, if the chain cannot grow.
cdef bint eviction_in_chain(partition *p, uint64_t hash, uint64_t slot) noexcept nogil

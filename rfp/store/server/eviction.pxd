# Making room when memory is used up: what goes, by policy.

from libc.stdint cimport uint64_t
from rfp.store.server.records cimport eviction, partition

cdef enum:
    EVICTION_DONE = 0
    EVICTION_PENDING = 1       # the budget is used up; what was done so far is held
    EVICTION_IMPOSSIBLE = 2    # nothing more may go; what was held is free again

# The arena's sweep: a hand goes over the blocks in address order, takes out what was not used since it came by last, moves
# what was used down over the hole, and so pushes one hole upwards until it is large enough.  budget: blocks to look at.
cdef int eviction_sweep(partition *p, eviction *r, uint64_t budget) noexcept nogil
cdef void eviction_abandon(partition *p, eviction *r) noexcept nogil
# A reserved block of that size for a key with this hash, or 0.  The record `exempt` stays, in its place.
cdef uint64_t eviction_make_room(partition *p, uint64_t hash, uint64_t size, uint64_t exempt) noexcept nogil
# Takes a record out of the chain of this hash and puts another slot in its place: for when the chain can take no more.
cdef bint eviction_in_chain(partition *p, uint64_t hash, uint64_t slot) noexcept nogil

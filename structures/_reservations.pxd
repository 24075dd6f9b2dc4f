# The reservations of a queue: each has a slot, and slots stand in tables.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend._front cimport instance
from rnvm.frontend._structure cimport visitor
from structures._layout cimport queue_root, queue_slot

# A slot, to look at only.
cdef queue_slot *slot_read(instance *s, const queue_root *root, uint64_t slot) noexcept nogil
# The rest in apply, with the root as it is being changed.
cdef queue_slot *slot_change(instance *s, const queue_root *root, uint64_t slot) noexcept nogil
cdef queue_slot *slot_new(instance *s, queue_root *root, uint32_t *number) noexcept nogil
cdef void slot_vacate(queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# A reservation ends, and its entry will be the next but for those that came back before.
cdef int give_back(instance *s, queue_root *root, queue_slot *slot, uint32_t number) noexcept nogil
# Takes back the entries whose lease has ended.  A scan, but after it no lease ends before `earliest`: one for each lease that
# ends without an acknowledgement, or for as many operations as take the time of a lease.
cdef int reclaim(instance *s, queue_root *root, uint64_t now) noexcept nogil
cdef int reservations_walk(instance *s, visitor visit, void *context) noexcept nogil

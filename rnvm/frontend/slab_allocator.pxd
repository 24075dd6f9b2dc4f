# Space for nodes: slots of slabs, or blocks of their own.  The slot bitmaps are nodes, so they
# change in the same transaction as the pointers to the slots.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance

# Allocates space for a node: its address, or 0 (s.error).
cdef uint64_t slabs_take(instance *s, uint32_t length) noexcept nogil
cdef int slabs_return(instance *s, uint64_t address, uint32_t length) noexcept nogil
# Bytes of a record that taking or returning space for a node of this length takes at most, beside
# the node.
cdef uint64_t slabs_cost(const instance *s, uint32_t length) noexcept nogil
# Makes the first nodes of a new structure, in blocks of zeros.
cdef int slabs_begin(instance *s, uint64_t blocks) noexcept nogil

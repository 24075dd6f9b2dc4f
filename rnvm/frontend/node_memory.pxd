# The memory of local copies of nodes, in slots of equal size within large pages: a lookup in a
# large cache would otherwise spend much of its time on misses of the TLB.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, node

# A slot for a copy of this length; only its `pooled` is set.  NULL: no memory.
cdef node *node_allocate(frontend *fe, uint32_t length) noexcept nogil
# Frees it.  The slot of a pooled node remains a node, with address 0, as long as the front-end.
cdef void node_release(frontend *fe, node *n) noexcept nogil
# Whether nodes find no slot although many slots are vacant, since these have other lengths.
cdef bint node_memory_misfits(const frontend *fe) noexcept nogil
# Frees all memory; no node is in a slot.
cdef void node_memory_free(frontend *fe) noexcept nogil
# Zeros, in large pages if there are enough of them; free() frees it.  NULL: no memory.
cdef void *large_zeros(uint64_t bytes) noexcept nogil

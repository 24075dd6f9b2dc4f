# Local copies of nodes: address -> bytes, within a budget.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, instance, node

cdef char *node_bytes(node *n) noexcept nogil
# The copy at an address, whether it is still right or not; NULL: there is none.
cdef node *cache_find(frontend *fe, uint64_t address) noexcept nogil
# Room for a copy of a node; its bytes are not set.  NULL: no memory.
cdef node *cache_add(instance *s, uint64_t address, uint32_t length) noexcept nogil
# Takes it out of the tables; who has a pointer to it may go on until cache_forget().
cdef void cache_remove(frontend *fe, node *n) noexcept nogil
# Nobody has pointers to nodes any more: frees those that were removed, and evicts down to the budget.
cdef void cache_forget(frontend *fe) noexcept nogil
# Forgets everything (of one structure, or of all: NULL), also what is pinned.
cdef void cache_clear(frontend *fe, const instance *s) noexcept nogil
# A node that is right, fetched if need be; its header and CRC are checked.  NULL: s.error says why.
cdef node *cache_get(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil

# The first bytes of a node as they stand there, whole or not: for a way around what is damaged.  OK, or what was wrong.
cdef int cache_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil

# Local copies of nodes: address -> bytes, within a budget.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, instance, node

# seed: of the random samples, not 0.
cdef void cache_init(frontend *fe, uint64_t budget_bytes, uint64_t seed) noexcept nogil

cdef inline char *node_bytes(node *n) noexcept nogil:
    return <char *> (n + 1)
# The copy at an address, current or not; NULL: there is none.
cdef node *cache_find(frontend *fe, uint64_t address) noexcept nogil
# Adds an entry for a node; its bytes are not set.  NULL: no memory.
cdef node *cache_add(instance *s, uint64_t address, uint32_t length) noexcept nogil
# Takes a copy out of the tables.  Pointers to it stay valid until cache_trim().
cdef void cache_remove(frontend *fe, node *n) noexcept nogil
# No pointers to nodes are left: frees removed copies, and evicts down to the budget.
cdef void cache_trim(frontend *fe) noexcept nogil
# Frees all copies (of one structure, or of all: NULL), pinned ones included.
cdef void cache_clear(frontend *fe, const instance *s) noexcept nogil
# The same, and the tables.
cdef void cache_free(frontend *fe) noexcept nogil
# A current copy of a node, fetched if need be; its header and CRC are checked.  length 0: as its
# header says.  NULL: s.error says why.
cdef node *cache_get(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil
# The same, of a node that is read: usually soon after the one that was read before.
cdef node *cache_follow(instance *s, uint64_t address, uint32_t length,
                        uint16_t type) noexcept nogil
# Reads the first bytes of a node without any check, to find a way around a damaged one.
cdef int cache_peek(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil

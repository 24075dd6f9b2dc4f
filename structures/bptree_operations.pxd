# The operations and queries of a B+tree.  bptree_ranges.pxd has the queries of iterations.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance
from structures.ordered_operations cimport OWN_ORDERED_CODES

cdef enum:
    SPLIT = OWN_ORDERED_CODES  # a pair without its value: the key and the sizes that need room

cdef int tree_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Context: a lookup.
cdef int find_key(instance *s, void *context) noexcept nogil
# Answers with the item that a POP_ITEM would remove.
cdef int find_first(instance *s, void *context) noexcept nogil

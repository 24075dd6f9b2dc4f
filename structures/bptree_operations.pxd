# The operations and queries of a B+tree.  bptree_ranges.pxd has the queries of iterations.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance
from structures.mapping_operations cimport pair
from structures.ordered_operations cimport OWN_ORDERED_CODES

cdef enum:
    SPLIT = OWN_ORDERED_CODES  # a pair without its value: the key and the sizes that need room

cdef int tree_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Its parts, which a multi-version tree has too: for mapping_apply, and SPLIT.
cdef int tree_put(instance *s, const pair *p, bint keep) noexcept nogil
cdef int tree_take(instance *s, const pair *p, uint32_t code) noexcept nogil
cdef int tree_pop(instance *s, bint last, const pair *same) noexcept nogil
cdef int tree_split(instance *s, const char *bytes, uint32_t length) noexcept nogil
# Context: a lookup.
cdef int find_key(instance *s, void *context) noexcept nogil
# Answers with the item that a POP_ITEM would remove.
cdef int find_first(instance *s, void *context) noexcept nogil

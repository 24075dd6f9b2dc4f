# The operations and queries of a binary search tree.  bst_ranges.pxd has the queries of iterations.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance
from structures.mapping_operations cimport pair

cdef int bst_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Those operations that a multi-version tree has, too: put, remove, pop of ordered_apply().
cdef int bst_put(instance *s, const pair *p, bint keep) noexcept nogil
cdef int bst_take(instance *s, const pair *p, uint32_t code) noexcept nogil
cdef int bst_pop(instance *s, bint last, const pair *same) noexcept nogil
# Context: a lookup.
cdef int find_key(instance *s, void *context) noexcept nogil
# Answers with the item that a POP_ITEM would remove.
cdef int find_first(instance *s, void *context) noexcept nogil

# The operations of a multi-version binary search tree, as far as they are not those of a BST.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int mvbst_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
cdef int mvbst_collect(instance *s) noexcept nogil
cdef int mvbst_walk(instance *s, visitor visit, void *context) noexcept nogil

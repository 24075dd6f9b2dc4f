# Walk all nodes of a binary search tree and verify its invariants.

from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int bst_walk(instance *s, visitor visit, void *context) noexcept nogil

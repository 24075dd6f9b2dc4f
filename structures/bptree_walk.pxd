# A walk over all nodes of a B+tree, which verifies its invariants.

from rnvm.frontend._front cimport instance
from rnvm.frontend._structure cimport visitor

cdef int tree_walk(instance *s, visitor visit, void *context) noexcept nogil

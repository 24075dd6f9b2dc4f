# Walk all nodes of a B+tree and verify its invariants.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int tree_walk(instance *s, visitor visit, void *context) noexcept nogil
# The same for the pages of a multi-version tree below one that was retired.
cdef int subtree_walk(instance *s, uint64_t address, uint32_t height, visitor visit,
                      void *context) noexcept nogil

# Walk all nodes of a binary search tree and verify its invariants.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

# A tree from its top link on; balanced: it must be; *count: of its keys.
cdef int subtree_walk(instance *s, uint64_t link, bint balanced, visitor visit, void *context,
                      uint64_t *count) noexcept nogil
# All of a structure; of a multi-version one, its newest version.
cdef int bst_walk(instance *s, visitor visit, void *context) noexcept nogil

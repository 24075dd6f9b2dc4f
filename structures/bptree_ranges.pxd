# Ranges of a B+tree, one leaf at a time; ordered_mapping.pxd is their contract.

from rnvm.frontend.state cimport instance

# Answers with items of one leaf.
cdef int read_leaf(instance *s, void *context) noexcept nogil
# Answers with the key at which the next page begins.
cdef int read_next_bound(instance *s, void *context) noexcept nogil
# Counts the keys of some leaves.
cdef int count_leaves(instance *s, void *context) noexcept nogil

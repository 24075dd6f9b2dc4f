# Ranges of a binary search tree, some nodes at a time; ordered_mapping.pxd is their contract.

from rnvm.frontend.state cimport instance

cdef int read_nodes(instance *s, void *context) noexcept nogil
# Answers with the next key on the way to the damage: whatever is between is below the damaged node.
cdef int read_next_bound(instance *s, void *context) noexcept nogil
cdef int count_nodes(instance *s, void *context) noexcept nogil

# The operations and queries of a skip list; ordered_mapping.pxd is the contract of the last three.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance

cdef int skip_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Context: a lookup.
cdef int skip_find_key(instance *s, void *context) noexcept nogil
# Answers with the item that a POP_ITEM would remove.
cdef int skip_find_first(instance *s, void *context) noexcept nogil
# Answers with the items of some nodes.
cdef int read_towers(instance *s, void *context) noexcept nogil
# Answers with the lowest key that a readable node leads to.
cdef int next_readable(instance *s, void *context) noexcept nogil
# Counts the keys of some hundred nodes.
cdef int count_towers(instance *s, void *context) noexcept nogil

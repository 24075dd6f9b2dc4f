# What the classes of both kinds of binary search tree share.

from structures.ordered_mapping cimport OrderedMapping

# Sets the queries of a tree.
cdef int bst_made(OrderedMapping tree) except -1

# What the classes of both kinds of B+tree share.

from structures.ordered_mapping cimport OrderedMapping

# Sets the queries of a tree, and the operation that splits its pages.
cdef int tree_made(OrderedMapping tree) except -1

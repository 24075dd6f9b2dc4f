# What the classes of both kinds of B+tree share.

from rnvm.frontend.structure cimport Structure

# Splits pages in operations of their own until a SET of this pair fits into the log.
cdef int split_for(Structure tree, bytes key, bytes value, object timeout) except -1

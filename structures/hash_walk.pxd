# Walk all nodes of a hash table and verify its invariants.

from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int hash_walk(instance *s, visitor visit, void *context) noexcept nogil

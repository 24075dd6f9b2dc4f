# Visits all nodes of a skip list and verifies them.

from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int skip_walk(instance *s, visitor visit, void *context) noexcept nogil

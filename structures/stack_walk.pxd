# Visits all nodes of a stack and verifies them.

from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int stack_walk(instance *s, visitor visit, void *context) noexcept nogil

# Walk all nodes of a queue and verify its invariants.

from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport visitor

cdef int queue_walk(instance *s, visitor visit, void *context) noexcept nogil

# Whether what a structure has allocated is what can be reached from its root.

from rnvm.frontend._front cimport instance

# A query under the writer lock: OK, or DAMAGED with the reason.
cdef int reach(instance *s, void *context) noexcept nogil

# Queries of a front-end: restarts, or the writer lock.  Answers as _structure.pxd says.

from rnvm.frontend.state cimport instance

cdef int query_ask(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil
# Under the writer lock.
cdef int query_alone(instance *s, int (*ask)(instance *s, void *context) noexcept nogil, void *context) noexcept nogil

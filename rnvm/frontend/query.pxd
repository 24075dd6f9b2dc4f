# Queries of a front-end: on a state that is whole, without the writer lock if possible.  They
# return the result of the structure's function, 0 or more, or a status below 0.

from rnvm.frontend.state cimport instance

cdef int query_execute(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                       void *context) noexcept nogil
# Under the writer lock.
cdef int query_under_lock(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                          void *context) noexcept nogil

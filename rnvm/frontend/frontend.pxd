# The front-end: a session at a back-end, and what is open in it.

from rnvm.frontend.session cimport Attachment
from rnvm.frontend.state cimport instance

cdef class FrontEnd(Attachment):
    cdef readonly str durability
    cdef object __weakref__

    cdef int open_structure(self, object structure, instance *s, bint create, object timeout) except -1
    cdef int find(self, object structure, instance *s, bint create) except -1
    cdef void forget(self, instance *s) noexcept

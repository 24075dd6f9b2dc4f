# The front-end: a session at a back-end, and the structures that are open in it.

from libc.stdint cimport uint32_t
from rnvm.format.messages cimport rnvm_opened
from rnvm.frontend.session cimport Session
from rnvm.frontend.state cimport instance

cdef class FrontEnd(Session):
    cdef readonly str durability
    cdef object __weakref__

    cdef int open_structure(self, object structure, instance *s, bint create,
                            object timeout) except -1
    cdef int confirm(self, object structure, instance *s, object timeout) except -1
    cdef int give_up(self, object structure, instance *s) except -1
    cdef int find(self, object structure, instance *s, bint create, bint reads=*) except -1
    cdef int look_up(self, object structure, instance *s, bint create, bint reads,
                     rnvm_opened *opened) except -1
    cdef int raise_not_found(self, object structure, uint32_t status, bytes codec) except -1
    cdef list entries(self)
    cdef int make_first_nodes(self, object structure, instance *s) except -1
    cdef void forget(self, instance *s) noexcept

# Operations of a front-end: from the writer lock to what its logs say.  Answers as _structure.pxd says.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance

cdef int operation_execute(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil

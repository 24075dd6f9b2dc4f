# A read transaction: queries of several structures, all on the states of one moment.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport frontend, instance

# Opens one over these structures, in the order of their naming entries.  Their array must last
# until moment_end().  locked: acquire the locks at once, so that it cannot fail with CONFLICT.
cdef int moment_begin(frontend *fe, instance **named, uint32_t count, bint locked) noexcept nogil
# Within one: as query_execute(), at its moment.  CONFLICT: a node that it has read was changed.
cdef int moment_query(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                      void *context) noexcept nogil
# The session is lost.  Whether the next session may continue it, because it has read nothing yet.
cdef bint moment_begin_again(frontend *fe) noexcept nogil
# Closes it, if one is open; gives its locks back.  Returns the status that ended it before, or OK.
cdef int moment_end(frontend *fe) noexcept nogil

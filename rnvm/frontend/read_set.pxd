# The nodes that the open read transaction has read: it moves on to a later moment if none of them
# has changed (moment.pyx).

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport frontend, instance, node

# From now on each node that a query gets is noted, or none.
cdef void read_set_noting(frontend *fe, bint on) noexcept nogil
# Notes a copy whose header is checked; each node once, and NOTED_MAX nodes at most: then
# read_set.over.  False: no memory.
cdef bint read_set_add(instance *s, node *n) noexcept nogil
# Forgets what was noted after the first `count`.
cdef void read_set_truncate(frontend *fe, uint32_t count) noexcept nogil
cdef void read_set_free(frontend *fe) noexcept nogil

# The sweep that gives back the memory of values whose time is over and that nobody asks for.

from rfp.store.server.records cimport partition

# Looks at some blocks, if there is reason to.  True: the sweep is not over.
cdef bint expiry_tick(partition *p) noexcept nogil

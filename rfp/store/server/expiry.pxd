# The sweep that frees the memory of expired values that no request touches.

from rfp.store.server.records cimport partition

# Visits some blocks, if there is reason to.  Returns True if the sweep has not finished.
cdef bint expiry_tick(partition *p) noexcept nogil

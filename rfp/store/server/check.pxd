# Verification of a partition's memory.

from rfp.store.server.records cimport partition

# Returns the first invariant that does not hold, or NULL.
cdef const char *partition_check(partition *p) noexcept nogil

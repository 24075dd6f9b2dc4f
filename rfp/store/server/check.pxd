# Whether a partition's memory is as it should be.

from rfp.store.server.records cimport partition

# The first invariant that does not hold, or NULL.
cdef const char *partition_check(partition *p) noexcept nogil

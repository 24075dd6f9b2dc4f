# The medium of pools in persistent memory: its mapping.

from libc.stdint cimport uint64_t
from rnvm.media.medium cimport Medium

cdef extern from "rnvm/media/libpmem2.h":
    struct rnvm_pmem2:
        void *library
        void *(*address)(void *map) noexcept nogil
        void (*flush)(const void *start, size_t n) noexcept nogil
        void (*drain)() noexcept nogil
        void *map
        char *trouble
    int rnvm_pmem2_open(rnvm_pmem2 *p, int fd)
    void rnvm_pmem2_close(rnvm_pmem2 *p)


cdef class Direct(Medium):
    """A mapping of the medium itself."""
    cdef int fd
    cdef uint64_t mapped
    cdef rnvm_pmem2 library
    cdef readonly str flushing         # "clwb", ..., "libpmem2", or "none"
    cdef void release(self) noexcept

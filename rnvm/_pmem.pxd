# The media that persist: direct (memory that is the medium) and image (memory beside a file).

from libc.stdint cimport uint64_t
from rnvm._persistence cimport Medium

cdef extern from "rnvm/flush.h" nogil:
    void rnvm_flush(const void *start, size_t n)
    void rnvm_flush_drain()
    void rnvm_store_flushed(void *to, const void *source, size_t n)
    int rnvm_flush_kind()

cdef extern from "rnvm/group.h" nogil:
    struct rnvm_group:
        uint64_t begun
        int broken
        int error
    void rnvm_group_open(rnvm_group *g)
    void rnvm_group_close(rnvm_group *g)
    int rnvm_group_fail(rnvm_group *g, int error)
    int rnvm_group_sync(rnvm_group *g, int fd)

cdef extern from "rnvm/pmem2.h":
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
    cdef readonly str flushing         # how: "clwb", ..., "libpmem2", or "none"
    cdef void release(self) noexcept


cdef struct image:             # medium.state
    int fd                     # of the file, or -1
    bint grouped
    rnvm_group group


cdef class Image(Medium):
    """Memory that peers share, and the file that it is written to."""
    cdef image i
    cdef int memory            # the memfd
    cdef uint64_t mapped
    cdef void release(self) noexcept

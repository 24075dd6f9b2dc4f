# Mapped memory: sealed memory that processes share (memfd.h), and memory of this process alone
# (private_map.h).  This file has no module.

from libc.stdint cimport uint64_t

cdef extern from "rfp/core/memfd.h" nogil:
    int rfp_memfd_create()
    char *rfp_memfd_map_new(int fd, uint64_t length)
    char *rfp_memfd_map_empty(int fd, uint64_t length)
    int rfp_memfd_fill(int fd, char *base, uint64_t offset, uint64_t length)
    char *rfp_memfd_map(int fd, uint64_t length, int writable)
    int rfp_memfd_check(int fd, uint64_t length, int writable)
    int rfp_memfd_seal(int fd, int writable)
    enum:
        RFP_MEMFD_GOOD

cdef extern from "rfp/core/private_map.h" nogil:
    char *rfp_anonymous_map(uint64_t length)

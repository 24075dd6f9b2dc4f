# Header and superblock: the first bytes of a pool.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_header, rnvm_superblock
from rnvm.media.medium cimport medium

cdef enum:                     # bits of a damaged copy in reports
    FIRST_COPY = 1
    SECOND_COPY = 2

cdef bint header_whole(const rnvm_header *h) noexcept nogil
# Writes both copies with their CRC, which completes them last.  Returns 0, or -1: the medium
# failed.
cdef int header_write(medium *m, rnvm_header *h) noexcept nogil
# Reads both copies; returns which of them are whole.  0: neither.
cdef int header_read(const medium *m, rnvm_header *h) noexcept nogil
cdef int superblock_read(const medium *m, const rnvm_header *h, rnvm_superblock *s) noexcept nogil
# Writes the next generation, one copy after the other.  Returns 0, or -1: the medium failed.
cdef int superblock_write(medium *m, rnvm_superblock *s) noexcept nogil

"""Write and read the two copies of header and superblock."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp
from rfp.core.core cimport rfp_copy_in, rfp_crc32c
from rnvm.format.layout cimport (
    RNVM_HEADERS, RNVM_MAGIC, RNVM_PAGE, RNVM_SUPERBLOCKS, RNVM_SUPERBLOCK_MAGIC, rnvm_header,
    rnvm_superblock,
)
from rnvm.media.medium cimport medium, medium_drain, medium_write, medium_write64

cdef enum:
    UUID = 16                  # bytes


cdef bint header_whole(const rnvm_header *h) noexcept nogil:
    return h.magic == RNVM_MAGIC and rfp_crc32c(0, h, sizeof(rnvm_header) - sizeof(h.crc)) == h.crc


cdef int header_write(medium *m, rnvm_header *h) noexcept nogil:
    cdef uint64_t at, copy
    h.crc = rfp_crc32c(0, h, sizeof(rnvm_header) - sizeof(h.crc))
    # The magic number last: a header with a magic number that is not whole is damaged, and not
    # merely unfinished.
    for copy in range(2):
        at = RNVM_HEADERS + copy * RNVM_PAGE
        medium_write(m, at + sizeof(h.magic), <char *> h + sizeof(h.magic),
                     sizeof(rnvm_header) - sizeof(h.magic))
    if medium_drain(m):
        return -1
    for copy in range(2):
        medium_write64(m, RNVM_HEADERS + copy * RNVM_PAGE, h.magic)
    return medium_drain(m)


cdef int header_read(const medium *m, rnvm_header *h) noexcept nogil:
    cdef rnvm_header second
    cdef int whole = 0
    rfp_copy_in(h, m.base + RNVM_HEADERS, sizeof(rnvm_header))
    rfp_copy_in(&second, m.base + RNVM_HEADERS + RNVM_PAGE, sizeof(rnvm_header))
    if header_whole(h):
        whole |= FIRST_COPY
    if header_whole(&second):
        whole |= SECOND_COPY
        if not whole & FIRST_COPY:
            h[0] = second
    return whole


cdef bint superblock_whole(const rnvm_header *h, const rnvm_superblock *s) noexcept nogil:
    return (s.magic == RNVM_SUPERBLOCK_MAGIC
            and rfp_crc32c(0, s, sizeof(rnvm_superblock) - sizeof(s.crc)) == s.crc
            and not memcmp(s.uuid, h.uuid, UUID))


cdef int superblock_read(const medium *m, const rnvm_header *h, rnvm_superblock *s) noexcept nogil:
    cdef rnvm_superblock second
    cdef int whole = 0
    rfp_copy_in(s, m.base + RNVM_SUPERBLOCKS, sizeof(rnvm_superblock))
    rfp_copy_in(&second, m.base + RNVM_SUPERBLOCKS + RNVM_PAGE, sizeof(rnvm_superblock))
    if superblock_whole(h, s):
        whole |= FIRST_COPY
    if superblock_whole(h, &second):
        whole |= SECOND_COPY
        if not whole & FIRST_COPY or second.generation > s.generation:
            s[0] = second
    return whole


cdef int superblock_write(medium *m, rnvm_superblock *s) noexcept nogil:
    # Overwrite the copy that counts only when the other one is durable.
    cdef uint64_t counts = RNVM_SUPERBLOCKS + (s.generation & 1) * RNVM_PAGE
    cdef uint64_t other = RNVM_SUPERBLOCKS + (~s.generation & 1) * RNVM_PAGE
    s.generation += 1
    s.crc = rfp_crc32c(0, s, sizeof(rnvm_superblock) - sizeof(s.crc))
    medium_write(m, other, s, sizeof(rnvm_superblock))
    if medium_drain(m):
        return -1
    medium_write(m, counts, s, sizeof(rnvm_superblock))
    return medium_drain(m)

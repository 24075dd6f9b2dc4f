# Declarations of wal.h.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "rnvm/format/wal.h" nogil:
    const uint64_t RNVM_WAL_MAGIC
    enum:
        RNVM_WAL_FRAMES

    struct rnvm_wal_header:
        uint64_t magic
        uint64_t generation
        unsigned char *uuid
        uint32_t crc

    struct rnvm_frame:
        uint32_t crc
        uint32_t length
        uint64_t generation
        uint64_t sequence
        uint32_t ranges
        uint32_t reserved

    struct rnvm_range:
        uint64_t offset
        uint64_t length

    uint32_t rnvm_wal_seed(uint32_t pool_seed, uint64_t wal_at)
    uint32_t rnvm_wal_header_crc(uint32_t seed, const rnvm_wal_header *a)
    uint32_t rnvm_frame_crc(uint32_t seed, const rnvm_frame *f)
    bint rnvm_frame_fits(const rnvm_frame *f, uint64_t generation, uint64_t room)
    const rnvm_range *rnvm_range_next(const rnvm_frame *f, uint64_t *at)

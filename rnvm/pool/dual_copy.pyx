"""Read and write dual-copy records."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from rfp.core.core cimport rfp_copy_in
from rnvm.format.layout cimport rnvm_copy, rnvm_copy_crc
from rnvm.media.medium cimport medium, medium_write


cdef int load(const medium *m, uint32_t seed, uint64_t at, rnvm_copy *copies,
              int *counts) noexcept nogil:
    """Load both copies; return which of them are whole, and the index of the one that counts."""
    cdef int whole = 0
    rfp_copy_in(copies, m.base + at, 2 * sizeof(rnvm_copy))
    if rnvm_copy_crc(seed, at, &copies[0]) == copies[0].crc:
        whole |= FIRST_WHOLE
    if rnvm_copy_crc(seed, at, &copies[1]) == copies[1].crc:
        whole |= SECOND_WHOLE
    counts[0] = 0 if whole == FIRST_WHOLE else 1
    if whole == FIRST_WHOLE | SECOND_WHOLE:
        if not memcmp(&copies[0], &copies[1], sizeof(rnvm_copy)):
            whole |= ALIKE
        counts[0] = <int32_t> (copies[1].generation - copies[0].generation) > 0
    return whole


cdef void put(medium *m, uint32_t seed, uint64_t at, int index, rnvm_copy *copy) noexcept nogil:
    copy.crc = rnvm_copy_crc(seed, at, copy)
    medium_write(m, at + index * sizeof(rnvm_copy), copy, sizeof(rnvm_copy))


cdef int dual_copy_read(medium *m, uint32_t seed, uint64_t at, uint64_t *words) noexcept nogil:
    cdef rnvm_copy[2] copies
    cdef int counts
    cdef int whole = load(m, seed, at, copies, &counts)
    if whole:
        memcpy(words, copies[counts].words, 3 * sizeof(uint64_t))
    return whole


cdef void dual_copy_begin(medium *m, uint32_t seed, uint64_t at,
                          const uint64_t *words) noexcept nogil:
    cdef rnvm_copy[2] copies
    cdef rnvm_copy new
    cdef int counts
    cdef int whole = load(m, seed, at, copies, &counts)
    new.generation = copies[counts].generation + 1 if whole else 1
    memcpy(new.words, words, 3 * sizeof(uint64_t))
    put(m, seed, at, 1 - counts, &new)


cdef void dual_copy_finish(medium *m, uint32_t seed, uint64_t at) noexcept nogil:
    cdef rnvm_copy[2] copies
    cdef int counts
    cdef int whole = load(m, seed, at, copies, &counts)
    if whole and not whole & ALIKE:
        put(m, seed, at, 1 - counts, &copies[counts])


cdef void dual_copy_format(medium *m, uint32_t seed, uint64_t at,
                           const uint64_t *words) noexcept nogil:
    cdef rnvm_copy new
    new.generation = 1
    memcpy(new.words, words, 3 * sizeof(uint64_t))
    put(m, seed, at, 0, &new)
    put(m, seed, at, 1, &new)

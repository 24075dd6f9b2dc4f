# Which partition of a mapping a key belongs to (docs/structures.md).

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_crc32c
from rnvm.frontend.state cimport instance

cdef inline uint32_t partition_of_key(const char *key, uint32_t length,
                                      uint32_t partitions) noexcept nogil:
    return <uint32_t> (<uint64_t> rfp_crc32c(0, key, length) * partitions >> 32)

# Whether the partition that a structure is does not contain this key, according to its name.
cdef inline bint key_is_misplaced(const instance *s, const char *key,
                                  uint32_t length) noexcept nogil:
    return s.partitions and partition_of_key(key, length, s.partitions) != s.partition

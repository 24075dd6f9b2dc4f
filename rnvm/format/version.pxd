# Declarations of version.h.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport rnvm_node

cdef extern from "rnvm/format/version.h" nogil:
    const uint64_t RNVM_USES_SNAPSHOT
    enum:
        RNVM_VERSIONS

    struct rnvm_version:
        uint64_t version
        uint64_t top
        uint64_t count
        uint32_t height
        uint32_t crc

    struct rnvm_versions:
        rnvm_node node
        rnvm_version *halves

    uint32_t rnvm_version_crc(uint32_t seed, uint64_t root, const rnvm_version *v)
    bint rnvm_version_whole(uint32_t seed, uint64_t root, const rnvm_version *v)
    int rnvm_version_newest(uint32_t seed, uint64_t root, const rnvm_version *halves,
                            uint64_t most)
    uint64_t rnvm_uses(uint64_t version, uint64_t turn, bint snapshot)
    uint64_t rnvm_uses_version(uint64_t word)

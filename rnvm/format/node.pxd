# Declarations of node.h.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "rnvm/format/node.h" nogil:
    enum:
        RNVM_NODE
        RNVM_NODE_BYTES_MAX
        RNVM_TYPE_SLABS
        RNVM_TYPE_SLAB
        RNVM_CLASSES
    const uint32_t *rnvm_class_bytes

    struct rnvm_node:
        uint32_t crc
        uint32_t length
        uint32_t structure
        uint16_t type
        uint64_t address
        uint64_t version

    struct rnvm_slabs:
        rnvm_node node
        uint64_t *partial
        uint64_t blocks
        uint64_t bytes

    struct rnvm_slab:
        rnvm_node node
        uint32_t slot
        uint32_t slots
        uint32_t first
        uint32_t used
        uint64_t next
        uint64_t previous
        uint64_t *taken

    uint32_t rnvm_node_crc(uint32_t seed, const rnvm_node *node)
    uint32_t rnvm_class_of(uint32_t length, uint64_t block)
    uint32_t rnvm_slab_slots(uint64_t block, uint32_t slot, uint32_t *first)

# Declarations of descriptor.h.  This file has no module.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rfp/core/descriptor.h" nogil:
    enum:
        RFP_DESCRIPTOR_VERSION
        RFP_DESCRIPTOR_GOOD
        RFP_PROVIDER_SHM
        RFP_PROVIDER_VERBS
        RFP_REGION_MAGIC
        RFP_PAIR_MAGIC
        RFP_FILE_MAGIC

    struct rfp_region_descriptor:
        uint32_t magic
        uint16_t version
        uint16_t provider
        uint64_t length
        uint32_t rights
        uint32_t key
        uint32_t reserved
        uint32_t checksum

    struct rfp_pair_descriptor:
        uint32_t magic
        uint16_t version
        uint16_t provider
        uint64_t eventcount
        uint64_t engine
        uint64_t rtt
        uint64_t in_gap
        uint64_t out_gap
        uint32_t key
        uint32_t reserved
        uint32_t unused
        uint32_t checksum

    struct rfp_file_descriptor:
        uint32_t magic
        uint16_t version
        uint16_t provider
        uint64_t length
        uint64_t offset
        uint32_t rights
        uint32_t key
        uint32_t reserved
        uint32_t checksum

    struct rfp_verbs_region_descriptor:
        uint32_t magic
        uint16_t version
        uint16_t provider
        uint64_t length
        uint32_t rights
        uint32_t key
        uint64_t address
        uint32_t reserved
        uint32_t checksum

    struct rfp_verbs_pair_descriptor:
        uint32_t magic
        uint16_t version
        uint16_t provider
        uint32_t number
        uint32_t sequence
        uint8_t gid[16]
        uint16_t lid
        uint8_t mtu
        uint8_t link
        uint8_t reads_in
        uint8_t reads_out
        uint32_t checksum

    uint32_t rfp_descriptor_sum(const void *descriptor, size_t size)
    int rfp_descriptor_check(const void *received, size_t n, void *copy, size_t size,
                             uint32_t magic, uint16_t provider)

# Declarations of layout.h, and of the functions of rfp/core that the store uses.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rfp/store/layout.h" nogil:
    enum:
        KV_PARTITION_MAGIC
        KV_LAYOUT_VERSION
        KV_LINE
        KV_SLOTS
        KV_UNIT
        KV_MAX_LINES
        KV_MAX_SEALED
        KV_CHAIN
        KV_REARRANGEMENTS
        KV_COUNTS_REARRANGEMENTS
        KV_EVICTS
        KV_EXPIRY_SHIFT

    const uint64_t KV_MAX_REGION
    const uint64_t KV_MAX_BLOCK
    const uint64_t KV_ARENA_START
    const uint64_t KV_MAX_EXPIRY
    const uint64_t KV_STATE_KEY
    const uint64_t KV_STATE_REFERENCED
    const uint64_t KV_STATE_PIN
    const uint64_t KV_STATE_PINS

    enum:
        KV_BLOCK_FREE
        KV_BLOCK_RECORD
        KV_BLOCK_ORPHAN
        KV_BLOCK_RESERVED
        KV_BLOCK_OVERFLOW
        KV_BLOCK_END

    struct kv_partition_header:
        uint64_t magic
        uint32_t version
        uint32_t flags
        uint64_t seed
        uint64_t length
        uint64_t buckets

    struct kv_record:
        uint64_t block
        uint32_t crc
        uint32_t value_length
        uint64_t version
        uint64_t state

    struct kv_overflow:
        uint64_t block
        uint64_t bucket
        uint64_t *slots

    uint64_t kv_block(uint64_t size, uint64_t before, uint32_t kind)
    uint64_t kv_block_size(uint64_t word)
    uint64_t kv_block_before(uint64_t word)
    uint32_t kv_block_kind(uint64_t word)

    uint64_t kv_value_offset(uint64_t key_length)
    uint64_t kv_record_size(uint64_t key_length, uint64_t value_length)

    uint64_t kv_tag(uint64_t hash)
    uint64_t kv_slot(uint64_t tag, uint64_t offset, uint64_t length)
    uint64_t kv_slot_tag(uint64_t slot)
    uint64_t kv_slot_length(uint64_t slot)
    uint64_t kv_slot_offset(uint64_t slot)
    bint kv_slot_link(uint64_t slot)

    uint64_t kv_mask(uint64_t buckets)
    uint64_t kv_bucket(uint64_t hash, uint64_t buckets, uint64_t mask)
    uint32_t kv_match(const uint64_t *slots, uint64_t tag)
    bint kv_same(const char *a, const char *b, uint32_t length)
    uint32_t kv_key_crc(uint64_t seed, const void *key, uint32_t length)
    uint32_t kv_value_crc(uint32_t crc, const void *value, uint32_t length)
    uint32_t kv_seal_crc(uint32_t crc, uint32_t key_length, uint32_t value_length, uint64_t version)

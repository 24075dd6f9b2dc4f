# Declarations of layout.h.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.format.node cimport rnvm_node
from rnvm.format.version cimport rnvm_versions

cdef extern from "structures/layout.h" nogil:
    enum:
        KEY_MAX
        VALUE_MAX
        DIRECTORY_FAN
        TYPE_DIRECTORY
        TYPE_VALUE
        TYPE_SEGMENT
        TYPE_TABLE
        TYPE_BUCKET
        TYPE_PAGE
        TYPE_SHELF
        TYPE_TOWER
        TYPE_LAYER
        TYPE_BST
        TYPE_RETIRED
        RETIRED_ENTRIES
        RETIRED_FIELDS
        RETIRED_SUBTREE
        RETIRED_VALUE
        SEGMENT_BYTES
        SEGMENT_FIRST
        QUEUE_INLINE
        TABLE_SLOTS
        SHELF_FAN
        PLACE_TAKEN
        PLACE_FULL
        BUCKET_BYTES
        BUCKET_FIRST
        BUCKET_ROOM
        HASH_INLINE_KEY
        SKIP_LEVELS
        SKIP_INLINE
        LAYER_BYTES
        LAYER_FIRST
        STACK_INLINE
        BST_INLINE
        MVBST_INLINE
        BST_KEY
    uint32_t UP8(uint32_t n)
    uint32_t VALUE_NODE(uint32_t length)
    uint32_t QUEUE_ENTRY(uint32_t length)
    uint32_t SIZES(uint32_t key, uint32_t value)
    uint32_t KEY_OF(uint32_t sizes)
    uint32_t VALUE_OF(uint32_t sizes)
    bint HASH_SHORT_KEY(uint32_t sizes)
    bint HASH_INSIDE(uint32_t sizes)

    struct versioned_root:
        rnvm_versions versions
        uint64_t first
        uint64_t last
        uint64_t listed
        uint64_t spare

    struct retired_entry:
        uint64_t node
        uint64_t what

    struct retired_chunk:
        rnvm_node node
        uint64_t next
        uint32_t first
        uint32_t end
        retired_entry *entries

    uint64_t RETIRED(uint64_t version, uint32_t size)
    uint64_t RETIRED_VERSION(uint64_t what)
    uint32_t RETIRED_SIZE(uint64_t what)
    uint64_t RETIRED_ADDRESS(uint64_t node)

    struct value_node:
        rnvm_node node
        char *bytes

    struct directory_node:
        rnvm_node node
        uint64_t *children

    uint64_t LEASE_NEVER
    uint32_t ENTRY_HELD
    uint64_t PLACE_ADDRESS(uint64_t child)
    uint32_t SLOT_LENGTH(uint32_t length)
    uint32_t SLOT_AT(uint32_t length)
    uint32_t SLOT_INSIDE(uint32_t length, uint32_t at)

    struct queue_root:
        rnvm_node node
        uint64_t head
        uint64_t dequeued
        uint32_t head_offset
        uint32_t tables
        uint64_t tickets
        uint64_t earliest
        uint32_t reserved
        uint32_t requeued
        uint32_t first
        uint32_t last
        uint64_t tail
        uint64_t top
        uint32_t depth
        uint32_t delayed

    struct queue_segment:
        rnvm_node node
        uint64_t next
        uint64_t first
        uint16_t count
        uint16_t held
        uint32_t end

    struct queue_entry:
        uint32_t length
        uint32_t number

    struct queue_slot:
        uint64_t ticket
        uint64_t deadline
        uint64_t value
        uint32_t length
        uint32_t next
        uint32_t deliveries

    struct queue_table:
        rnvm_node node
        queue_slot *slots

    struct queue_place:
        uint64_t child
        uint64_t earliest

    struct queue_shelf:
        rnvm_node node
        queue_place *places

    struct hash_root:
        rnvm_node node
        uint64_t count
        uint64_t bytes
        uint64_t seed
        uint64_t directory
        uint32_t depth
        uint32_t buckets

    struct hash_bucket:
        rnvm_node node
        uint64_t next
        uint32_t index
        uint16_t end
        uint16_t holes

    struct hash_entry:
        uint32_t hash
        uint32_t sizes

    struct mapping_root:
        rnvm_node node
        uint64_t count

    uint32_t hash_entry_size(uint32_t sizes)
    uint32_t hash_outside(uint32_t sizes)
    uint32_t hash_key_at(uint32_t sizes)
    uint32_t hash_value_at(uint32_t sizes)
    uint32_t hash_reversed(uint32_t h)
    uint32_t hash_level(uint32_t buckets)
    uint32_t hash_bucket_of(uint32_t hash, uint32_t buckets)
    uint32_t hash_bits(uint32_t bucket, uint32_t buckets)

    struct tree_root:
        rnvm_node node
        uint64_t count
        uint64_t top
        uint32_t levels

    struct skip_link:
        uint64_t address
        uint32_t length
        uint16_t common
        uint16_t ahead

    struct skip_root:
        rnvm_node node
        uint64_t count
        uint64_t seed
        skip_link last
        skip_link *next

    struct skip_tower:
        rnvm_node node
        skip_link back
        uint32_t sizes
        uint32_t levels
        skip_link *next

    uint32_t skip_payload(uint32_t sizes)
    uint32_t skip_key_at(uint32_t levels)
    uint32_t skip_length(uint32_t sizes, uint32_t levels)

    struct stack_root:
        rnvm_node node
        uint64_t count
        uint64_t top

    struct stack_layer:
        rnvm_node node
        uint64_t below
        uint64_t jump
        uint64_t first
        uint32_t depth
        uint16_t count
        uint16_t end

    struct stack_entry:
        uint32_t length
        uint32_t number

    uint32_t LAYER_ENTRY(uint32_t length)
    uint32_t layer_jump(uint32_t depth)

    uint64_t LINK_DEEP
    uint64_t bst_link(uint64_t address, uint32_t length)
    uint64_t bst_address(uint64_t link, uint64_t root)
    uint32_t bst_length(uint64_t link)

    struct bst_root:
        rnvm_node node
        uint64_t count
        uint64_t top

    struct bst_node:
        rnvm_node node
        uint64_t[2] links
        uint32_t sizes
        char *key

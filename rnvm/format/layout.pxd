# Declarations of layout.h and log.h.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rnvm/format/layout.h" nogil:
    const uint64_t RNVM_MAGIC
    const uint64_t RNVM_SUPERBLOCK_MAGIC
    const uint64_t RNVM_OFFSET
    const uint64_t RNVM_NO_LIMIT
    const uint64_t RNVM_NO_BLOCK
    const uint64_t RNVM_RING_BYTES_MAX
    enum:
        RNVM_MAJOR
        RNVM_MINOR
        RNVM_LINE
        RNVM_PAGE
        RNVM_HEADERS
        RNVM_SUPERBLOCKS
        RNVM_NAMES
        RNVM_BLOCK_BYTES_MIN
        RNVM_BLOCK_BYTES_MAX
        RNVM_RING_BYTES_MIN
        RNVM_WAL_MIN
        RNVM_NAMES_MAX
        RNVM_SESSIONS_MAX
        RNVM_ASSUME_PERSISTENT
        RNVM_WRITE_AHEAD
        RNVM_CLEAN
        RNVM_OPEN
        RNVM_NAME_MAX
        RNVM_CODEC_MAX
        RNVM_FREE
        RNVM_LIVE
        RNVM_DROPPING
        RNVM_LOST
        RNVM_ATTACHED
        RNVM_FENCED
        RNVM_OWNERS
        RNVM_VALUE_BYTES_MIN
        RNVM_VALUE_BYTES_MAX
        RNVM_OPERATION_HEAD_MAX
        RNVM_OTHER_CHANGES_MAX
        RNVM_ALIGN
        RNVM_NAME_LIVE
        RNVM_PROGRESS
        RNVM_LOCK
        RNVM_SESSION_STATE
        RNVM_OPERATIONS
        RNVM_MEMORY
        RNVM_SESSION_LIVE
    const uint32_t RNVM_NOBODY
    const uint32_t RNVM_GRANTED
    const uint32_t RNVM_USED
    const uint32_t RNVM_UNKNOWN
    const uint32_t RNVM_OWNER_KIND
    const uint32_t RNVM_OWNER_INDEX

    struct rnvm_header:
        uint64_t magic
        uint16_t major
        uint16_t minor
        uint32_t length
        uint64_t incompatible
        uint64_t read_compatible
        uint64_t compatible
        uint8_t *uuid
        uint64_t created
        uint16_t backend
        uint16_t flags
        uint32_t block
        uint32_t names
        uint32_t sessions
        uint64_t operation_ring
        uint64_t memory_ring
        uint64_t names_at
        uint64_t sessions_at
        uint64_t rings_at
        uint64_t groups_at
        uint64_t group_map
        uint64_t wal_at
        uint64_t wal
        uint32_t crc

    struct rnvm_superblock:
        uint64_t magic
        uint64_t generation
        uint64_t size
        uint64_t opened
        uint32_t state
        uint8_t *uuid
        uint32_t crc

    struct rnvm_copy:
        uint32_t generation
        uint32_t crc
        uint64_t *words

    struct rnvm_register:
        rnvm_copy *copies

    struct rnvm_name:
        uint64_t state
        uint32_t crc
        uint32_t kind
        uint32_t format
        uint32_t name_length
        uint8_t *uuid
        uint64_t root
        uint64_t root_blocks
        uint64_t created
        char *codec
        char *name
        uint64_t sequence
        uint64_t revoke
        rnvm_register progress
        rnvm_register lock

    struct rnvm_session:
        rnvm_register state
        rnvm_register operations
        rnvm_register memory
        uint64_t epoch
        uint64_t operations_head
        uint64_t operations_durable
        uint64_t memory_head
        uint64_t memory_durable
        uint64_t awaits
        uint64_t frame

    struct rnvm_geometry:
        uint64_t size
        uint64_t names_at
        uint64_t sessions_at
        uint64_t rings_at
        uint64_t wal_at
        uint64_t groups_at
        uint64_t operation_ring
        uint64_t memory_ring
        uint64_t wal
        uint64_t rings
        uint64_t block
        uint64_t group_map
        uint64_t group
        uint64_t group_blocks
        uint64_t blocks
        uint32_t names
        uint32_t sessions
        uint32_t seed
        uint32_t backend

    uint64_t rnvm_address(uint64_t backend, uint64_t offset)
    uint64_t rnvm_offset(uint64_t address)
    uint64_t rnvm_backend(uint64_t address)
    uint64_t rnvm_sequence_of(uint64_t number)
    uint64_t rnvm_sequence_applying(uint64_t number)
    uint64_t rnvm_transaction_of(uint64_t sequence)
    uint32_t rnvm_structure(uint32_t index, uint32_t incarnation)
    uint32_t rnvm_structure_index(uint32_t structure)
    uint32_t rnvm_structure_incarnation(uint32_t structure)
    uint64_t rnvm_word(uint32_t seed, uint64_t at, uint64_t value)
    uint64_t rnvm_word_value(uint64_t word)
    bint rnvm_word_whole(uint32_t seed, uint64_t at, uint64_t word)
    uint32_t rnvm_copy_crc(uint32_t seed, uint64_t at, const rnvm_copy *c)
    uint64_t rnvm_up(uint64_t n, uint64_t to)
    bint rnvm_parts_of(const rnvm_header *h, rnvm_geometry *g)
    bint rnvm_geometry_of(const rnvm_header *h, uint64_t size, rnvm_geometry *g)
    uint64_t rnvm_name_at(const rnvm_geometry *g, uint32_t index)
    uint64_t rnvm_session_at(const rnvm_geometry *g, uint32_t session)
    uint64_t rnvm_operation_ring_at(const rnvm_geometry *g, uint32_t session)
    uint64_t rnvm_memory_ring_at(const rnvm_geometry *g, uint32_t session)
    uint64_t rnvm_block_at(const rnvm_geometry *g, uint64_t block)
    uint64_t rnvm_owner_word_at(const rnvm_geometry *g, uint64_t block)
    uint64_t rnvm_words(const rnvm_geometry *g)
    uint64_t rnvm_word_at(const rnvm_geometry *g, uint64_t word)
    uint32_t rnvm_owner_shift(const rnvm_geometry *g, uint64_t block)
    uint64_t rnvm_block_of(const rnvm_geometry *g, uint64_t offset)

cdef extern from "rnvm/format/log.h" nogil:
    enum:
        RNVM_PAD
        RNVM_OPERATION
        RNVM_TRANSACTION
        RNVM_PARTS_MAX
        RNVM_WRITE
        RNVM_TAKE
        RNVM_RETURN

    struct rnvm_record:
        uint32_t crc
        uint32_t length
        uint64_t lsn
        uint64_t epoch
        uint16_t kind
        uint16_t parts
        uint32_t payload

    struct rnvm_part:
        uint32_t structure
        uint32_t code
        uint64_t number
        uint64_t covers
        uint32_t length

    struct rnvm_entry:
        uint64_t address
        uint32_t length
        uint32_t kind

    uint64_t rnvm_record_length(uint64_t payload)
    uint64_t rnvm_longest_record(uint64_t ring)
    uint64_t rnvm_first_lsn(uint64_t ring)
    uint64_t rnvm_pad_before(uint64_t lsn, uint64_t length, uint64_t ring)
    uint32_t rnvm_ring_seed(uint32_t pool_seed, uint64_t ring_at)
    uint32_t rnvm_record_crc(uint32_t ring_seed, const rnvm_record *r, const void *payload)
    void rnvm_record_seal(rnvm_record *r, uint32_t ring_seed, uint64_t lsn, uint64_t epoch,
                          uint16_t kind, uint16_t parts, const void *payload, uint32_t length)
    void rnvm_pad_seal(rnvm_record *r, uint32_t ring_seed, uint64_t lsn, uint64_t epoch,
                       uint32_t length)
    bint rnvm_record_fits(const rnvm_record *r, uint64_t lsn, uint64_t epoch, uint64_t room,
                          uint64_t longest)
    const rnvm_part *rnvm_part_next(const char *payload, uint64_t length, uint64_t *at)
    const rnvm_entry *rnvm_entry_next(const rnvm_part *part, uint64_t *at)

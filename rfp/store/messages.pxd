# Declarations of the store's messages in messages.h.  This file has no module of its own.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rfp/store/messages.h" nogil:
    enum:
        KV_MAX_KEY
        KV_MAX_VALUE
        KV_MAX_PIECE
        KV_USES_MAX
        KV_KIND_VIEW
        KV_VIEW_MIN
        KV_MEMORY_VIEWS
        KV_GET
        KV_EXISTS
        KV_PUT
        KV_DELETE
        KV_INCR
        KV_TOUCH
        KV_GET_MANY
        KV_PUT_MANY
        KV_DELETE_MANY
        KV_PUT_BEGIN
        KV_PUT_PIECE
        KV_PUT_ABORT
        KV_RELEASE
        KV_STATS
        KV_REFER
        KV_EXISTS_MANY
        KV_GET_RANGE
        KV_GET_RANGES
        KV_SCAN
        KV_CLEAR
        KV_VIEW
        KV_IF_ABSENT
        KV_IF_VERSION
        KV_NAME_PLACE
        KV_PIECE_CRC
        KV_OK
        KV_NOT_FOUND
        KV_EXISTS_ALREADY
        KV_VERSION_MISMATCH
        KV_OUT_OF_MEMORY
        KV_TOO_LARGE
        KV_NOT_A_NUMBER
        KV_OVERFLOW
        KV_BAD_REQUEST
        KV_QUOTA
        KV_DEFERRED
        KV_UNKNOWN_UPLOAD
        KV_UNSUPPORTED
        KV_PLACED
        KV_PLACE_EXPIRES
        KV_PLACE_EVICTS
        KV_C_GETS
        KV_C_HITS
        KV_C_MISSES
        KV_C_PUTS
        KV_C_DELETES
        KV_C_INCRS
        KV_C_TOUCHES
        KV_C_EVICTIONS
        KV_C_EXPIRATIONS
        KV_C_REFUSED
        KV_C_RECORDS
        KV_C_BYTES_USED
        KV_C_BYTES_TOTAL
        KV_C_INDEX_BYTES
        KV_C_PINS
        KV_C_UPLOADS
        KV_C_BYTES_RESERVED
        KV_C_VALUE_BYTES
        KV_C_UNKNOWN_PINS
        KV_C_VIEWS
        KV_C_VIEW_BYTES
        KV_COUNTERS

    struct kv_put:
        uint32_t key_length
        uint32_t value_length
        uint64_t ttl
        uint64_t version

    struct kv_number:
        uint64_t number

    struct kv_key:
        uint16_t key_length

    struct kv_range:
        uint64_t offset
        uint64_t length

    struct kv_viewed:
        uint64_t offset
        uint64_t length
        uint64_t record
        uint32_t pin
        uint32_t generation

    struct kv_scan:
        uint64_t position
        uint64_t version
        uint64_t limit

    struct kv_scanned:
        uint64_t position
        uint64_t version

    struct kv_pair:
        uint16_t key_length
        uint16_t unused
        uint32_t value_length

    struct kv_item:
        uint8_t status
        uint8_t unused[3]
        uint32_t length
        uint64_t version

    struct kv_use:
        uint64_t hash
        uint64_t slot

    struct kv_place:
        uint64_t slot
        uint32_t flags
        uint32_t unused

    struct kv_piece:
        uint64_t upload
        uint64_t offset
        uint32_t length
        uint32_t crc
        uint64_t staging

# Declarations of messages.h.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "rnvm/format/messages.h" nogil:
    enum:
        RNVM_ATTACH
        RNVM_DETACH
        RNVM_FIND
        RNVM_DROP
        RNVM_LIST
        RNVM_GRANT
        RNVM_ACQUIRE
        RNVM_LEAVE
        RNVM_PENDING
        RNVM_SYNC
        RNVM_APPLY
        RNVM_ROOM
        RNVM_OUTCOME
        RNVM_SHARE
        RNVM_RETAINED
        RNVM_WATCH
        RNVM_SERVING
        RNVM_MIRROR
        RNVM_LEVEL
        RNVM_MOMENT
        RNVM_CLOSE
        RNVM_GOOD
        RNVM_BAD_REQUEST
        RNVM_STOPPED
        RNVM_NO_SESSION_LEFT
        RNVM_NOT_ATTACHED
        RNVM_ABSENT
        RNVM_QUEUED
        RNVM_NO_SPACE
        RNVM_OTHER_KIND
        RNVM_OTHER_CODEC
        RNVM_IN_USE
        RNVM_FORGOTTEN
        RNVM_OTHER_VERSION
        RNVM_OTHER_POOL
        RNVM_TOO_MANY
        RNVM_OTHER_PARTITIONS
        RNVM_FEW_MIRRORS
        RNVM_UNREPLICATED
        RNVM_ABANDONED
        RNVM_MESSAGES
        RNVM_WAITS
        RNVM_MAPS
        RNVM_WAITS_REPLICATED
        RNVM_DIRECT
        RNVM_FLUSHED
        RNVM_FORGETFUL
        RNVM_LAST
        RNVM_REPLICATES
        RNVM_GROUPED
        RNVM_STATUS_REVOKE
        RNVM_STATUS_SPARE
        RNVM_LIVE_HOLDER
        RNVM_LIVE_REPLAYED
        RNVM_LIVE_ORPHANS
        RNVM_LIVE_STRUCTURE
        RNVM_LIVE_FLAGS
        RNVM_WATCHED
        RNVM_ALONE
        RNVM_CREATE
        RNVM_VERSIONED
        RNVM_LIVE_FRAME
        RNVM_SHARED
        RNVM_LOCK_WORDS
    uint64_t RNVM_HELD
    uint64_t RNVM_PATIENT
    uint64_t rnvm_lock_word(uint32_t session, uint64_t epoch, uint64_t turn)
    uint32_t rnvm_lock_session(uint64_t word)
    bint rnvm_lock_of(uint64_t word, uint64_t epoch)

    struct rnvm_number:
        uint64_t number

    struct rnvm_attach:
        uint32_t version
        uint32_t flags
        uint8_t *pool
        uint64_t ticket
        uint32_t previous

    struct rnvm_attached:
        uint32_t session
        uint32_t flags
        uint64_t epoch
        uint64_t operations
        uint64_t memory
        uint64_t lease
        uint64_t snapshot
        uint64_t size
        uint64_t ticket
        uint8_t *pool

    struct rnvm_open:
        uint32_t kind
        uint32_t format
        uint32_t root
        uint32_t flags
        char *codec

    struct rnvm_opened:
        uint32_t structure
        uint32_t kind
        uint64_t root
        uint64_t blocks
        uint64_t number
        uint8_t *uuid

    struct rnvm_listed:
        uint32_t structure
        uint32_t kind
        uint32_t format
        uint32_t name_length
        uint8_t *uuid
        char *codec
        uint64_t created

    struct rnvm_locked:
        uint64_t word
        uint64_t number
        uint64_t covered
        uint64_t operations

    struct rnvm_share:
        uint64_t structure
        uint64_t word

    struct rnvm_after:
        uint64_t structure
        uint64_t number

    struct rnvm_retain:
        uint64_t structure
        uint64_t give_up

    struct rnvm_pending:
        uint64_t number
        uint64_t lsn
        uint32_t session
        uint32_t code
        uint32_t at
        uint32_t length
        uint64_t epoch

    struct rnvm_outcome:
        uint32_t session
        uint32_t ring
        uint64_t epoch
        uint64_t lsn
        uint64_t ticket

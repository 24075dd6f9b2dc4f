# Declarations of replication.h.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.wal cimport rnvm_frame

cdef extern from "rnvm/format/replication.h" nogil:
    const uint64_t RNVM_STREAM_MAGIC
    const uint64_t RNVM_IDENTITY_MAGIC
    enum:
        RNVM_REPLICATION
        RNVM_MIRRORS_MAX
        RNVM_MIRROR_WAITS
        RNVM_MEMBER_MAX
        RNVM_STREAM_RING
        RNVM_PIECE_MAX
        RNVM_STREAM_MIN
        RNVM_FIRST_FRAME
        RNVM_PIECE_MORE
        RNVM_PIECE_PAD
        RNVM_PIECE_INDEX
        RNVM_SLOT_FREE
        RNVM_COPYING
        RNVM_JOINING
        RNVM_IN_SYNC
        RNVM_LEAVING
        RNVM_GONE
        RNVM_LOST_PATIENCE
        RNVM_LOST_OVERRUN
        RNVM_LOST_LIE
        RNVM_LOST_REMOVED
        RNVM_LOST_CLOSED
        RNVM_REPLICATION_LINE
        RNVM_IDENTITY
        RNVM_IDENTITY_NONE
        RNVM_WHOLE
        RNVM_CATCHING_UP
        RNVM_MIRROR_MEMBER

    struct rnvm_stream:
        uint64_t tail
        uint64_t published
        uint64_t ended
        uint64_t state
        uint64_t acked
        uint64_t magic
        uint32_t version
        uint32_t slot
        uint64_t size
        uint64_t epoch
        uint64_t first
        uint8_t opening[16]
        uint8_t group[16]
        uint8_t uuid[16]

    struct rnvm_ack:
        uint64_t acked
        uint64_t received
        uint64_t consumed
        uint64_t waits

    struct rnvm_replication_line:
        uint64_t acked
        uint64_t published
        uint64_t in_sync
        uint64_t min_mirrors
        uint64_t epoch
        uint64_t flags
        uint64_t until
        uint64_t clock

    struct rnvm_identity:
        uint64_t magic
        uint64_t generation
        uint8_t identity[16]
        uint8_t group[16]
        uint8_t member[32]
        uint64_t epoch
        uint32_t state
        uint32_t version
        uint8_t opening[16]
        uint32_t crc

    uint32_t rnvm_stream_seed(uint32_t pool_seed, const uint8_t *opening, const uint8_t *group)
    uint64_t rnvm_piece_room(uint64_t length)
    bint rnvm_piece_fits(const rnvm_frame *f)
    uint32_t rnvm_piece_crc(uint32_t seed, const rnvm_frame *f)
    uint32_t rnvm_identity_crc(uint64_t at, const rnvm_identity *i)
    uint64_t rnvm_own_part(const rnvm_geometry *g, uint64_t at, uint64_t *begin)
    uint64_t rnvm_replicated(const rnvm_geometry *g, uint64_t at, uint64_t end, uint64_t *stop)
    bint rnvm_replicated_line(const rnvm_geometry *g, uint64_t offset)

    struct rnvm_mirror:
        uint32_t version
        uint32_t flags
        uint64_t ticket
        uint64_t stream
        uint8_t pool[16]
        uint8_t member[32]

    struct rnvm_mirrored:
        uint64_t ticket
        uint64_t stream
        uint64_t epoch
        uint64_t published
        uint64_t size
        uint8_t opening[16]

    struct rnvm_level:
        uint64_t ticket
        uint8_t identity[16]

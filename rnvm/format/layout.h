/* The layout of a pool, from byte 0 to its end.  docs/pool.md gives the reasons.
 *
 *   offset       +----------------------------------+
 *   0            | header, copy 1                   |  written once, when the pool is made
 *   4096         | header, copy 2                   |
 *   8192         | superblock, copy 1               |  generation, size, CLEAN or OPEN
 *   12288        | superblock, copy 2               |
 *   names_at     +----------------------------------+  16384
 *                | naming entry 0  (512 bytes)      |  the catalog: name -> structure
 *                | naming entry 1 ...               |
 *   sessions_at  +----------------------------------+  at a multiple of 4 KiB
 *                | session 0  (256 bytes)           |
 *                | session 1 ...                    |
 *   rings_at     +----------------------------------+  at a multiple of 64 KiB
 *                | session 0: operation ring        |
 *                |            memory ring           |  each pair fills up to 64 KiB
 *                | session 1: operation ring ...    |
 *   wal_at       +----------------------------------+
 *                | write-ahead area (wal.h)         |  of a pool in a file; may be missing
 *   groups_at    +----------------------------------+  at a multiple of 64 KiB and of a block
 *                | group 0: owner map               |  8 bytes describe three blocks
 *                |          block 0, block 1 ...    |  data: the only part that grows
 *                +----------------------------------+
 *                | group 1: map, blocks ...         |  the last group may be short of blocks
 *   size         +----------------------------------+
 *
 * Little-endian, naturally aligned.  Two means make each change of metadata atomic, and each damage
 * visible, without a log: the checksummed word (8 bytes: 48 of value, 16 of check) and the
 * dual-copy record (struct rnvm_register, a cache line: two checksummed copies).  Data blocks have
 * neither: they change by transactions of the memory log (the redo log) alone, and the structures
 * that own them check them.
 */
#ifndef RNVM_FORMAT_LAYOUT_H
#define RNVM_FORMAT_LAYOUT_H

#include "rfp/core/atomics.h"
#include "rfp/core/crc32c.h"
#include "rfp/core/limits.h"

#define RNVM_MAGIC 0x6c6f6f704d564e72ull            /* "rNVMpool" */
#define RNVM_SUPERBLOCK_MAGIC 0x7265707553564e72ull /* "rNVSuper" */
#define RNVM_MAJOR 2
#define RNVM_MINOR 0
#define RNVM_LINE RFP_LINE
#define RNVM_PAGE RFP_PAGE
/* A front-end maps its two rings alone, and a kernel maps whole pages of 4, 16 or 64 KiB.  So the
 * rings of a session begin and end at multiples of the largest page, on every machine, and a pool
 * can be carried from one machine to another. */
#define RNVM_ALIGN 65536
#define RNVM_HEADERS 0       /* offsets of the first copies; the second ones are a page later */
#define RNVM_SUPERBLOCKS 8192
#define RNVM_NAMES 16384

#define RNVM_BLOCK_BYTES_MIN 512
#define RNVM_BLOCK_BYTES_MAX (1u << 20)
#define RNVM_RING_BYTES_MIN RNVM_PAGE
#define RNVM_RING_BYTES_MAX (1ull << 30)
#define RNVM_WAL_MIN (8 * RNVM_PAGE)
#define RNVM_NAMES_MAX 0x3fff    /* the most that an owner can encode */
#define RNVM_SESSIONS_MAX 1025 /* 1024 front-ends, and one for a front-end that recovers (see
                                * service.attach()) */

/* Addresses: 16 bits of back-end, 48 of offset; 0 is null; the low 3 bits are the structures'
 * own. */
#define RNVM_OFFSET ((1ull << 48) - 1)
static inline uint64_t rnvm_address(uint64_t backend, uint64_t offset)
{
    return backend << 48 | offset;
}
static inline uint64_t rnvm_offset(uint64_t address) { return address & RNVM_OFFSET; }
static inline uint64_t rnvm_backend(uint64_t address) { return address >> 48; }

/* Constant once the pool is made. */
struct rnvm_header {
    uint64_t magic;
    uint16_t major;             /* a pool with another one is refused */
    uint16_t minor;
    uint32_t length;            /* of this structure */
    uint64_t incompatible;      /* features: a pool with an unknown one is refused */
    uint64_t read_compatible;   /* a pool with an unknown one can only be read */
    uint64_t compatible;        /* unknown ones may be ignored */
    uint8_t uuid[16];
    uint64_t created;           /* seconds since 1970 */
    uint16_t backend;           /* ID of the logical back-end, 1...65535 */
    uint16_t flags;
    uint32_t block;             /* bytes, a power of two */
    uint32_t names;             /* entries */
    uint32_t sessions;
    uint64_t operation_ring;    /* bytes of each */
    uint64_t memory_ring;
    uint64_t names_at;
    uint64_t sessions_at;
    uint64_t rings_at;
    uint64_t groups_at;
    uint64_t group_map;         /* bytes of a group's map */
    uint64_t wal_at;            /* the write-ahead area */
    uint64_t wal;               /* its bytes; 0: none */
    uint64_t reserved[12];
    uint32_t unused;
    uint32_t crc;               /* of all before it */
};
#define RNVM_ASSUME_PERSISTENT 1 /* flags: the medium is volatile, and the pool's creator
                                  * accepted that */
#define RNVM_WRITE_AHEAD 1       /* incompatible: durable data may be in the write-ahead area
                                  * alone */

/* Changes when a pool is opened, closed or grown. */
struct rnvm_superblock {
    uint64_t magic;
    uint64_t generation;        /* the greater one of two whole copies counts */
    uint64_t size;              /* bytes that the pool takes; its file may be longer */
    uint64_t opened;            /* rises with each opening for writing */
    uint32_t state;
    uint32_t reserved;
    uint8_t uuid[16];
    uint32_t unused;
    uint32_t crc;               /* of all before it */
};
#define RNVM_CLEAN 1 /* closed in order: no log has to be replayed */
#define RNVM_OPEN 2

/* A dual-copy record: words that change together; after any crash either the old or the new ones
 * are read.
 *
 * A change writes the copy that does not count, makes it durable, then makes the other one equal.
 * An action that would do harm if the record fell back (reusing log space, granting a freed block)
 * waits for the second copy; so damage to either copy is found and does no harm.  The CRC is seeded
 * with pool and offset.
 */
struct rnvm_copy {
    uint32_t generation;        /* the later one of two whole copies counts; it wraps */
    uint32_t crc;               /* of the generation and the words */
    uint64_t words[3];
};
struct rnvm_register {
    struct rnvm_copy copies[2];
};

/* A naming entry.  Its state is a checksummed word; while that is RNVM_LIVE, the first 256 bytes do
 * not change. */
#define RNVM_NAME_MAX 160
#define RNVM_CODEC_MAX 16
struct rnvm_name {
    uint64_t state;             /* word: state, incarnation << 8 */
    uint32_t crc;               /* of all from here to `live` */
    uint32_t kind;
    uint32_t format;            /* version of the kind's layout in blocks and operations */
    uint32_t name_length;
    uint8_t uuid[16];
    uint64_t root;              /* address of its first block */
    uint64_t root_blocks;
    uint64_t created;           /* seconds since 1970 */
    char codec[RNVM_CODEC_MAX]; /* padded with zeros */
    char name[RNVM_NAME_MAX];
    uint64_t spare[2];
    /* the status line (live words): peers READ it, only the back-end stores it; it means nothing
     * once the back-end has exited */
    uint64_t sequence;          /* odd while a transaction is being applied; rises */
    uint64_t revoke;            /* the epoch whose lock must be given back, or 0 */
    uint64_t live[6];
    struct rnvm_register progress; /* number of the last transaction applied; highest operation
                                    * number covered */
    struct rnvm_register lock;     /* epoch; session that holds it + 1, or 0; operation number up
                                    * to which none is pending */
    uint64_t future[8];
};

/* A structure's sequence when its n-th transaction is the last one applied, and while the back-end
 * is applying it. */
static inline uint64_t rnvm_sequence_of(uint64_t number) { return 2 * number; }
static inline uint64_t rnvm_sequence_applying(uint64_t number) { return 2 * number - 1; }
static inline uint64_t rnvm_transaction_of(uint64_t sequence) { return sequence / 2; }

/* States of a naming entry. */
#define RNVM_FREE 1
#define RNVM_LIVE 2
#define RNVM_DROPPING 3 /* its blocks are being freed */
#define RNVM_LOST 4     /* damaged beyond repair; its blocks are kept */

/* A structure's ID is its entry's index + 1 and the entry's incarnation, so that log records of a
 * dropped structure are not applied to its successor. */
static inline uint32_t rnvm_structure(uint32_t index, uint32_t incarnation)
{
    return incarnation << 16 | (index + 1);
}
static inline uint32_t rnvm_structure_index(uint32_t structure) { return (structure & 0xffff) - 1; }
static inline uint32_t rnvm_structure_incarnation(uint32_t structure) { return structure >> 16; }

/* A front-end's session and its two rings. */
struct rnvm_session {
    struct rnvm_register state; /* epoch; RNVM_FREE, RNVM_ATTACHED or RNVM_FENCED; the service's
                                 * own word */
    struct rnvm_register operations; /* of the ring: head, limit, end (LSNs) */
    struct rnvm_register memory;
    /* live words, as above */
    uint64_t epoch;             /* a front-end reads it again before it acknowledges; if it is
                                 * not its own: fenced */
    uint64_t operations_head;   /* space before it may be reused */
    uint64_t operations_durable; /* records before it are durable */
    uint64_t memory_head;
    uint64_t memory_durable;
    uint64_t awaits;            /* 1: the front-end acknowledges only records that are published
                                 * as durable */
    uint64_t frame;             /* records before the durable positions are replicated once this
                                 * frame is; stored before them; 0: nothing is replicated here */
    uint64_t live[1];
};
#define RNVM_ATTACHED 5
#define RNVM_FENCED 6
#define RNVM_NO_LIMIT (~0ull) /* a ring's limit is where its session was fenced; records from
                               * there on do not count */

/* Owners of blocks, three to a word. */
#define RNVM_NOBODY 0u
#define RNVM_GRANTED 0x4000u /* | session: handed out, not used by a structure yet */
#define RNVM_USED 0x8000u    /* | structure index + 1 */
#define RNVM_UNKNOWN 0xc000u /* its word was damaged: not handed out again */
#define RNVM_OWNERS 3        /* per word */
#define RNVM_OWNER_KIND 0xc000u
#define RNVM_OWNER_INDEX 0x3fffu /* of a session, or of a structure + 1 */

/* Limits of a value, in bytes: see Structure.largest_value. */
#define RNVM_VALUE_BYTES_MIN 256        /* of a value that fits in any case */
#define RNVM_VALUE_BYTES_MAX (1u << 20)
#define RNVM_OPERATION_HEAD_MAX 2048    /* of an operation's record before the value */
#define RNVM_OTHER_CHANGES_MAX 8192     /* that an operation may change beside the value */

_Static_assert(sizeof(struct rnvm_header) == 256, "header");
_Static_assert(sizeof(struct rnvm_superblock) == 64, "superblock");
_Static_assert(sizeof(struct rnvm_register) == RNVM_LINE, "register");
_Static_assert(sizeof(struct rnvm_name) == 512, "naming entry");
_Static_assert(sizeof(struct rnvm_session) == 256, "session");

/* Offsets of dual-copy records in a naming entry and in a session; and of the words that peers
 * READ. */
#define RNVM_NAME_LIVE 256
#define RNVM_PROGRESS 320
#define RNVM_LOCK 384
#define RNVM_SESSION_STATE 0
#define RNVM_OPERATIONS 64
#define RNVM_MEMORY 128
#define RNVM_SESSION_LIVE 192
_Static_assert(__builtin_offsetof(struct rnvm_name, sequence) == RNVM_NAME_LIVE,
               "live words of a name");
_Static_assert(__builtin_offsetof(struct rnvm_name, progress) == RNVM_PROGRESS, "progress");
_Static_assert(__builtin_offsetof(struct rnvm_name, lock) == RNVM_LOCK, "lock");
_Static_assert(__builtin_offsetof(struct rnvm_session, operations) == RNVM_OPERATIONS,
               "operation ring");
_Static_assert(__builtin_offsetof(struct rnvm_session, memory) == RNVM_MEMORY, "memory ring");
_Static_assert(__builtin_offsetof(struct rnvm_session, epoch) == RNVM_SESSION_LIVE,
               "live words of a session");

/* Checksummed words.  The seed is the pool's, `at` the word's offset: a word that was written to a
 * wrong place is not whole. */
static inline uint64_t rnvm_word(uint32_t seed, uint64_t at, uint64_t value)
{
    uint64_t covered[2] = {at, value & RNVM_OFFSET};
    uint32_t crc = rfp_crc32c(seed, covered, sizeof covered);
    return (uint64_t)(uint16_t)(crc ^ crc >> 16) << 48 | covered[1];
}
static inline uint64_t rnvm_word_value(uint64_t word) { return word & RNVM_OFFSET; }
static inline int rnvm_word_whole(uint32_t seed, uint64_t at, uint64_t word)
{
    return rnvm_word(seed, at, word) == word;
}

static inline uint32_t rnvm_copy_crc(uint32_t seed, uint64_t at, const struct rnvm_copy *c)
{
    uint32_t crc = rfp_crc32c(seed, &at, sizeof at);
    crc = rfp_crc32c(crc, &c->generation, sizeof c->generation);
    return rfp_crc32c(crc, c->words, sizeof c->words);
}

/* The offsets and sizes of all parts, derived from header and superblock; private memory. */
struct rnvm_geometry {
    uint64_t size;
    uint64_t names_at, sessions_at, rings_at, wal_at, groups_at;
    uint64_t operation_ring, memory_ring, wal;
    uint64_t rings;                   /* bytes from one session's rings to the next session's;
                                       * a front-end maps this range */
    uint64_t block, group_map, group; /* bytes; group: of a whole one */
    uint64_t group_blocks;
    uint64_t blocks;                  /* in the pool */
    uint32_t names, sessions;
    uint32_t seed;                    /* CRC of the UUID: seed of all checks */
    uint32_t backend;
};

static inline uint64_t rnvm_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/* Returns whether the numbers of a header are possible; if so, derives the parts, for a pool of any
 * size. */
static inline int rnvm_parts_of(const struct rnvm_header *h, struct rnvm_geometry *g)
{
    if (h->block < RNVM_BLOCK_BYTES_MIN || h->block > RNVM_BLOCK_BYTES_MAX
        || h->block & (h->block - 1))
        return 0;
    if (!h->names || h->names > RNVM_NAMES_MAX || !h->sessions || h->sessions > RNVM_SESSIONS_MAX)
        return 0;
    if (!h->group_map || h->group_map % h->block || h->group_map > RNVM_RING_BYTES_MAX
        || !h->backend)
        return 0;
    if (h->operation_ring % RNVM_PAGE || h->memory_ring % RNVM_PAGE) return 0;
    if (h->operation_ring < RNVM_RING_BYTES_MIN || h->memory_ring < RNVM_RING_BYTES_MIN) return 0;
    if (h->operation_ring > RNVM_RING_BYTES_MAX || h->memory_ring > RNVM_RING_BYTES_MAX) return 0;
    g->names_at = RNVM_NAMES;
    g->sessions_at = g->names_at + rnvm_up(h->names * sizeof(struct rnvm_name), RNVM_PAGE);
    g->rings_at = rnvm_up(g->sessions_at + h->sessions * sizeof(struct rnvm_session), RNVM_ALIGN);
    g->rings = rnvm_up(h->operation_ring + h->memory_ring, RNVM_ALIGN);
    if (h->wal % RNVM_PAGE || h->wal > RNVM_RING_BYTES_MAX || (h->wal && h->wal < RNVM_WAL_MIN))
        return 0;
    if (!h->wal != !(h->incompatible & RNVM_WRITE_AHEAD)) return 0;
    g->wal_at = g->rings_at + h->sessions * g->rings;
    g->groups_at = rnvm_up(g->wal_at + h->wal, h->block > RNVM_ALIGN ? h->block : RNVM_ALIGN);
    if (g->names_at != h->names_at || g->sessions_at != h->sessions_at
        || g->rings_at != h->rings_at)
        return 0;
    if (h->wal && g->wal_at != h->wal_at) return 0;
    if (g->groups_at != h->groups_at) return 0;
    g->operation_ring = h->operation_ring;
    g->memory_ring = h->memory_ring;
    g->wal = h->wal;
    g->block = h->block;
    g->group_map = h->group_map;
    g->group_blocks = h->group_map / 8 * RNVM_OWNERS;
    g->group = h->group_map + g->group_blocks * h->block;
    g->names = h->names;
    g->sessions = h->sessions;
    g->seed = rfp_crc32c(0, h->uuid, sizeof h->uuid);
    g->backend = h->backend;
    return 1;
}

/* The same for a pool of this size in bytes. */
static inline int rnvm_geometry_of(const struct rnvm_header *h, uint64_t size,
                                   struct rnvm_geometry *g)
{
    uint64_t rest;
    if (!rnvm_parts_of(h, g) || size > RNVM_OFFSET || size < g->groups_at + g->group_map + g->block)
        return 0;
    g->size = size;
    rest = (size - g->groups_at) % g->group;
    if (rest && (rest <= g->group_map || (rest - g->group_map) % g->block)) return 0;
    g->blocks = (size - g->groups_at) / g->group * g->group_blocks
                + (rest ? (rest - g->group_map) / g->block : 0);
    return 1;
}

static inline uint64_t rnvm_name_at(const struct rnvm_geometry *g, uint32_t index)
{
    return g->names_at + index * sizeof(struct rnvm_name);
}
static inline uint64_t rnvm_session_at(const struct rnvm_geometry *g, uint32_t session)
{
    return g->sessions_at + session * sizeof(struct rnvm_session);
}
static inline uint64_t rnvm_operation_ring_at(const struct rnvm_geometry *g, uint32_t session)
{
    return g->rings_at + session * g->rings;
}
static inline uint64_t rnvm_memory_ring_at(const struct rnvm_geometry *g, uint32_t session)
{
    return rnvm_operation_ring_at(g, session) + g->operation_ring;
}

/* Blocks are numbered from 0; these return the offset of a block, and of its owner word. */
#define RNVM_NO_BLOCK (~0ull)
static inline uint64_t rnvm_block_at(const struct rnvm_geometry *g, uint64_t block)
{
    return g->groups_at + block / g->group_blocks * g->group + g->group_map
           + block % g->group_blocks * g->block;
}
static inline uint64_t rnvm_owner_word_at(const struct rnvm_geometry *g, uint64_t block)
{
    return g->groups_at + block / g->group_blocks * g->group
           + block % g->group_blocks / RNVM_OWNERS * 8;
}
static inline uint32_t rnvm_owner_shift(const struct rnvm_geometry *g, uint64_t block)
{
    return (uint32_t)(block % g->group_blocks % RNVM_OWNERS * 16);
}
/* Number of owner words in all groups, in order; includes those at the end of the last map, whose
 * blocks do not exist yet. */
static inline uint64_t rnvm_words(const struct rnvm_geometry *g)
{
    return (g->size - g->groups_at + g->group - 1) / g->group * (g->group_map / 8);
}
static inline uint64_t rnvm_word_at(const struct rnvm_geometry *g, uint64_t word)
{
    return g->groups_at + word / (g->group_map / 8) * g->group + word % (g->group_map / 8) * 8;
}
/* Returns the block that contains an offset, or RNVM_NO_BLOCK. */
static inline uint64_t rnvm_block_of(const struct rnvm_geometry *g, uint64_t offset)
{
    uint64_t within, block;
    if (offset < g->groups_at || offset >= g->size) return RNVM_NO_BLOCK;
    within = (offset - g->groups_at) % g->group;
    if (within < g->group_map) return RNVM_NO_BLOCK;
    block = (offset - g->groups_at) / g->group * g->group_blocks
            + (within - g->group_map) / g->block;
    return block < g->blocks ? block : RNVM_NO_BLOCK;
}

#endif

/* Replication: what a primary publishes for one mirror, what the mirror acknowledges, and what each
 * copy of a pool knows about itself.  docs/replication.md explains it.
 *
 *   stream (the primary stores, the mirror READs)        acknowledgements (the mirror stores)
 *   0      | tail, published, ended ... |  polled        | acked, received, consumed, waits |
 *   64     | magic, sizes, opening ...  |  constant
 *   4096   +----------------------------+
 *          | piece | piece |   pad      |  ring: a piece never wraps, begins at a multiple of 64
 *   bytes  +----------------------------+
 *
 * A frame is everything that changed between two drains of the primary, and has a number that rises
 * by one.  It is published as one or more pieces (struct rnvm_frame and its ranges, wal.h), whose
 * generation is the epoch and whose sequence is the frame's number.
 */
#ifndef RNVM_FORMAT_REPLICATION_H
#define RNVM_FORMAT_REPLICATION_H

#include "rnvm/format/wal.h"

#define RNVM_STREAM_MAGIC 0x6d61657274734e72ull   /* "rNstream" */
#define RNVM_IDENTITY_MAGIC 0x79746e6564694e72ull /* "rNidenty" */
#define RNVM_REPLICATION 1       /* version of everything here */
#define RNVM_MIRRORS_MAX 8
#define RNVM_MEMBER_MAX 32       /* bytes of a member's name */
#define RNVM_STREAM_RING RNVM_PAGE /* offset of the ring in a stream */
#define RNVM_PIECE_MAX 65536     /* bytes, with the header */
#define RNVM_STREAM_MIN (16 * RNVM_PIECE_MAX) /* bytes of the ring; a multiple of 64 */
/* The number of the virtual frame that contains everything of an opening: a mirror that became
 * level has it. */
#define RNVM_FIRST_FRAME 1

struct rnvm_stream {
    /* the line that a mirror polls */
    uint64_t tail;               /* bytes ever published; never wraps */
    uint64_t published;          /* number of the last frame that is whole before tail */
    uint64_t ended;              /* 0, or RNVM_LOST_PATIENCE ...: nothing more will come */
    uint64_t state;              /* of this mirror: RNVM_COPYING ... */
    uint64_t acked;              /* by all mirrors that count */
    uint64_t live[3];
    /* constant */
    uint64_t magic;
    uint32_t version;            /* RNVM_REPLICATION */
    uint32_t slot;
    uint64_t size;               /* bytes of the ring */
    uint64_t epoch;              /* of all frames */
    uint64_t first;              /* number of the last frame that is not in this stream */
    uint8_t opening[16];         /* random, of this start of the primary */
    uint64_t spare;
    uint8_t group[16];           /* zeros: no group */
    uint8_t uuid[16];            /* the pool's */
    uint64_t future[4];
};

/* struct rnvm_frame.reserved: flags, and the piece's index within its frame << 8. */
#define RNVM_PIECE_MORE 1        /* the frame continues in the next piece */
#define RNVM_PIECE_PAD 2         /* the header alone; `length` reaches to the end of the ring */
#define RNVM_PIECE_INDEX 8

struct rnvm_ack {                /* one line; the mirror stores it, the primary copies it once */
    uint64_t acked;              /* number of the last frame that is applied and durable */
    uint64_t received;           /* number of the last frame that was received whole */
    uint64_t consumed;           /* bytes ever read of the stream: may be overwritten */
    uint64_t waits;              /* 1: the mirror sleeps on the stream's tail (futex) */
    uint64_t live[4];
};

/* States of a mirror. */
#define RNVM_SLOT_FREE 0
#define RNVM_COPYING 1           /* frames are sent, its acknowledgements do not count */
#define RNVM_JOINING 2           /* required; in sync as soon as it has every frame up to now */
#define RNVM_IN_SYNC 3           /* required */
#define RNVM_LEAVING 4           /* still required, until it is removed */
#define RNVM_GONE 5              /* lost: its stream has ended, the slot is not free yet */

/* Why a stream ended. */
#define RNVM_LOST_PATIENCE 1     /* the mirror did not acknowledge in time */
#define RNVM_LOST_OVERRUN 2      /* no room was left in the stream */
#define RNVM_LOST_LIE 3          /* the mirror acknowledged what cannot be */
#define RNVM_LOST_REMOVED 4      /* removed by the primary */
#define RNVM_LOST_CLOSED 5       /* the primary closed the pool: everything was published */

/* The replication line of a served pool, at RNVM_REPLICATION_LINE: live words, stored by the
 * primary's service thread alone. */
#define RNVM_REPLICATION_LINE (RNVM_SUPERBLOCKS + 2048)
struct rnvm_replication_line {
    uint64_t acked;              /* frames up to it are durable on all mirrors that count */
    uint64_t published;          /* number of the last frame */
    uint64_t in_sync;            /* number of mirrors in sync */
    uint64_t min_mirrors;
    uint64_t epoch;
    uint64_t flags;
    /* In a group, both in ns of CLOCK_BOOTTIME; zeros: no group.  The primary may answer until
     * `until`; it was extended at `clock`. */
    uint64_t until;
    uint64_t clock;
};

/* The identity of a copy, twice, at RNVM_IDENTITY and a page later.  The CRC is seeded with the
 * offset alone: a copy may have no header yet. */
#define RNVM_IDENTITY (RNVM_SUPERBLOCKS + 1024)
struct rnvm_identity {
    uint64_t magic;              /* written after the rest, if neither copy is whole */
    uint64_t generation;         /* the greater one of two whole copies counts */
    uint8_t identity[16];        /* random; zeros: none */
    uint8_t group[16];           /* zeros: none */
    uint8_t member[RNVM_MEMBER_MAX]; /* name, padded with zeros */
    uint64_t epoch;              /* the highest seen; lower ones are refused */
    uint32_t state;
    uint32_t version;            /* RNVM_REPLICATION */
    uint8_t opening[16];         /* the primary's start that it followed last */
    uint64_t spare;
    uint32_t unused;
    uint32_t crc;                /* of all before it */
};
#define RNVM_IDENTITY_NONE 0
#define RNVM_WHOLE 1
#define RNVM_CATCHING_UP 2       /* not whole: something is being copied over it */

_Static_assert(sizeof(struct rnvm_stream) == 3 * RNVM_LINE, "stream");
_Static_assert(__builtin_offsetof(struct rnvm_stream, magic) == RNVM_LINE, "line of a stream");
_Static_assert(sizeof(struct rnvm_ack) == RNVM_LINE, "acknowledgements");
_Static_assert(sizeof(struct rnvm_replication_line) == RNVM_LINE, "replication line");
_Static_assert(sizeof(struct rnvm_identity) == 2 * RNVM_LINE, "identity of a copy");

/* Seed of the CRC of all pieces of a primary's start. */
static inline uint32_t rnvm_stream_seed(uint32_t pool_seed, const uint8_t *opening,
                                        const uint8_t *group)
{
    return rfp_crc32c(rfp_crc32c(pool_seed, opening, 16), group, 16);
}

/* Returns the bytes that a piece takes in a stream. */
static inline uint64_t rnvm_piece_room(uint64_t length) { return rnvm_up(length, RNVM_LINE); }

/* Returns whether this header can be that of a piece. */
static inline int rnvm_piece_fits(const struct rnvm_frame *f)
{
    if (f->reserved & RNVM_PIECE_PAD)
        return f->length >= RNVM_LINE && f->length < RNVM_PIECE_MAX && f->length % RNVM_LINE == 0
               && !f->ranges;
    return f->length >= sizeof *f && f->length <= RNVM_PIECE_MAX && f->length % 8 == 0;
}

/* CRC of a piece that fits; a pad's bytes behind its header do not count. */
static inline uint32_t rnvm_piece_crc(uint32_t seed, const struct rnvm_frame *f)
{
    uint64_t n = f->reserved & RNVM_PIECE_PAD ? sizeof *f : f->length;
    return rfp_crc32c(seed, (const char *)f + sizeof f->crc, n - sizeof f->crc);
}

static inline uint32_t rnvm_identity_crc(uint64_t at, const struct rnvm_identity *i)
{
    return rfp_crc32c(rfp_crc32c(0, &at, sizeof at), i, sizeof *i - sizeof i->crc);
}

/* Parts that belong to each copy alone, or mean nothing after a crash: neither replicated nor
 * compared, and left alone by catch-up.  All begin and end at multiples of RNVM_LINE.  Returns the
 * end of the first one that ends behind `at`, and its beginning; or ~0. */
static inline uint64_t rnvm_own_part(const struct rnvm_geometry *g, uint64_t at, uint64_t *begin)
{
    uint64_t i, behind;
    for (i = 0; i < 2; i++) {
        *begin = RNVM_IDENTITY + i * RNVM_PAGE;
        behind = *begin + sizeof(struct rnvm_identity);
        if (at < behind) return behind;
        *begin = RNVM_REPLICATION_LINE + i * RNVM_PAGE;
        behind = *begin + sizeof(struct rnvm_replication_line);
        if (at < behind) return behind;
    }
    i = at < g->names_at ? 0 : (at - g->names_at) / sizeof(struct rnvm_name);
    for (; i < g->names && at < g->sessions_at; i++) {
        *begin = g->names_at + i * sizeof(struct rnvm_name) + RNVM_NAME_LIVE;
        if (at < *begin + RNVM_LINE) return *begin + RNVM_LINE;
    }
    i = at < g->sessions_at ? 0 : (at - g->sessions_at) / sizeof(struct rnvm_session);
    for (; i < g->sessions && at < g->rings_at; i++) {
        *begin = g->sessions_at + i * sizeof(struct rnvm_session) + RNVM_SESSION_LIVE;
        if (at < *begin + RNVM_LINE) return *begin + RNVM_LINE;
    }
    *begin = g->wal_at;
    if (g->wal && at < g->wal_at + g->wal) return g->wal_at + g->wal;
    *begin = ~0ull;
    return ~0ull;
}

/* Returns the first byte from `at` on that is replicated, and in *stop where that run ends; `end`:
 * there is none before `end`. */
static inline uint64_t rnvm_replicated(const struct rnvm_geometry *g, uint64_t at, uint64_t end,
                                       uint64_t *stop)
{
    uint64_t begin, behind;
    while (at < end) {
        behind = rnvm_own_part(g, at, &begin);
        if (at < begin) {
            *stop = begin < end ? begin : end;
            return at;
        }
        at = behind;
    }
    *stop = end;
    return end;
}

/* Returns whether the line at this offset is replicated. */
static inline int rnvm_replicated_line(const struct rnvm_geometry *g, uint64_t offset)
{
    uint64_t begin;
    rnvm_own_part(g, offset, &begin);
    return offset < begin;
}

/* Calls of a mirror (RNVM_MIRROR, RNVM_LEVEL of messages.h).  A mirror reserves a stream with
 * RNVM_MIRROR, gets both memories with GetMemory, and begins with a second RNVM_MIRROR.  When its
 * copy is whole, RNVM_LEVEL makes the primary wait for it. */
struct rnvm_mirror {             /* RNVM_MIRROR                        -> rnvm_mirrored */
    uint32_t version;            /* RNVM_REPLICATION */
    uint32_t flags;              /* RNVM_MIRROR_... */
    uint64_t ticket;             /* 0: reserve a stream; else publish frames from now on */
    uint64_t stream;             /* bytes of the ring that it requests; 0: the primary decides */
    uint8_t pool[16];            /* UUID of its copy */
    uint8_t member[RNVM_MEMBER_MAX]; /* its name, padded with zeros */
};

/* It is a member of the primary's group: without this, a mirror of a group's primary is never in
 * sync, because no process could open its copy as primary. */
#define RNVM_MIRROR_MEMBER 1

/* The primary waits for room in this stream also while the copy is not whole.  A mirror requests it
 * if the longest stream was full before. */
#define RNVM_MIRROR_WAITS 2

struct rnvm_mirrored {
    uint64_t ticket;             /* even; number of GetMemory of the stream; | 1: of the
                                  * acknowledgements */
    uint64_t stream;             /* bytes of the ring */
    uint64_t epoch;
    uint64_t published;          /* number of the last frame */
    uint64_t size;               /* of the pool */
    uint8_t opening[16];
};

struct rnvm_level {              /* RNVM_LEVEL                         -> - */
    uint64_t ticket;
    uint8_t identity[16];
};

_Static_assert(sizeof(struct rnvm_mirror) == 72, "mirror");
_Static_assert(sizeof(struct rnvm_mirrored) == 56, "mirrored");
_Static_assert(sizeof(struct rnvm_level) == 24, "level");

#endif

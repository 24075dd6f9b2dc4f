/* The write-ahead area of a pool in a file: its layout, and the checks that make a frame whole.
 * docs/pool.md explains it.
 *
 *   0            header, copy 1     generation of the frames that count
 *   4096         header, copy 2
 *   8192         +-------+-------+-------+-------+-------+--------+  frame 0
 *                | frame | range | bytes | range | bytes |  ...   |
 *   next page    +-------+-------+-------+-------+-------+--------+  frame 1
 *                | frame | range | bytes |
 *   ...          +-------+-------+-------+
 *
 * A frame begins at a page's beginning and contains everything that became durable together, in one
 * write and one sync.
 *
 * A frame counts if it is whole, of the header's generation, and all frames before it count.  Pages
 * of frames are never written twice within a generation, so a durable frame cannot be torn; and the
 * next frame is begun only when this one is durable, so a whole frame behind one that is not whole
 * proves that the latter was damaged.
 */
#ifndef RNVM_FORMAT_WAL_H
#define RNVM_FORMAT_WAL_H

#include "rnvm/format/layout.h"

#define RNVM_WAL_MAGIC 0x6461656861564e72ull /* "rNVahead" */
#define RNVM_WAL_FRAMES (2 * RNVM_PAGE)       /* offset of the first frame */

struct rnvm_wal_header {
    uint64_t magic;
    uint64_t generation;  /* of the frames that count; the greater one of two whole copies */
    uint8_t uuid[16];     /* the pool's */
    uint32_t reserved[7];
    uint32_t crc;         /* of all before it, seeded with the pool and the area's offset */
};

struct rnvm_frame {
    uint32_t crc;         /* of the rest of the frame, with the same seed */
    uint32_t length;      /* bytes, with this header */
    uint64_t generation;
    uint64_t sequence;    /* within its generation, from 0 */
    uint32_t ranges;      /* number of ranges that follow */
    uint32_t reserved;
};

struct rnvm_range {       /* its bytes follow */
    uint64_t offset;      /* in the pool; a multiple of 8 */
    uint64_t length;      /* bytes, a multiple of 8 */
};

_Static_assert(sizeof(struct rnvm_wal_header) == 64, "header of the write-ahead area");
_Static_assert(sizeof(struct rnvm_frame) == 32, "frame");
_Static_assert(sizeof(struct rnvm_range) == 16, "range");

static inline uint32_t rnvm_wal_seed(uint32_t pool_seed, uint64_t wal_at)
{
    return rfp_crc32c(pool_seed, &wal_at, sizeof wal_at);
}

static inline uint32_t rnvm_wal_header_crc(uint32_t seed, const struct rnvm_wal_header *a)
{
    return rfp_crc32c(seed, a, sizeof *a - sizeof a->crc);
}

static inline uint32_t rnvm_frame_crc(uint32_t seed, const struct rnvm_frame *f)
{
    return rfp_crc32c(seed, (const char *)f + sizeof f->crc, f->length - sizeof f->crc);
}

/* Returns whether this can be a frame, given the bytes left; its CRC is checked later. */
static inline int rnvm_frame_fits(const struct rnvm_frame *f, uint64_t generation, uint64_t room)
{
    return f->generation == generation && f->length >= sizeof *f + sizeof(struct rnvm_range)
           && f->length <= room && f->length % 8 == 0;
}

/* Returns the next range of a whole frame, followed by its bytes, or NULL; advances *at, which
 * begins at the size of the header. */
static inline const struct rnvm_range *rnvm_range_next(const struct rnvm_frame *f, uint64_t *at)
{
    const struct rnvm_range *range = (const struct rnvm_range *)((const char *)f + *at);
    if (*at >= f->length || f->length - *at < sizeof *range
        || range->length > f->length - *at - sizeof *range)
        return 0;
    if (range->offset & 7 || range->length & 7 || !range->length) return 0;
    *at += sizeof *range + range->length;
    return range;
}

#endif

/* Log records: their layout, and the checks that make a record whole.  docs/pool.md explains the
 * logs.
 *
 *   a ring of S bytes; LSN x is at place x % S
 *   0                                                                  S
 *   +----------+----------+----------------------+----------+-----+----+
 *   | record   | record   | free                 | record   | ... |PAD |
 *   +----------+----------+----------------------+----------+-----+----+
 *                         ^ tail: the next LSN   ^ head: the oldest record that is needed
 *
 *   a record, a multiple of 64 bytes
 *   0     4        8      16       24     26      28        32
 *   +-----+--------+------+--------+------+-------+---------+------+------+-----+-------+
 *   | crc | length | lsn  | epoch  | kind | parts | payload | part | part | ... | zeros |
 *   +-----+--------+------+--------+------+-------+---------+------+------+-----+-------+
 *
 *   a part, a multiple of 8 bytes
 *   0           4      8        16       24       28  32
 *   +-----------+------+--------+--------+--------+---+------------------------------+
 *   | structure | code | number | covers | length |   | an operation's bytes, or the |
 *   +-----------+------+--------+--------+--------+---+ entries of a transaction     |
 *                                                     +------------------------------+
 *   an entry: address (8), length (4), kind (4), then for RNVM_WRITE its bytes
 *
 * An LSN is the byte position in a log that never ends.  So the next LSN expected is LSN + length,
 * no LSN is ever used twice, and one number says both how far a log has come and where.  A record
 * never straddles the end of the ring: RNVM_PAD fills the rest of a lap.
 */
#ifndef RNVM_FORMAT_LOG_H
#define RNVM_FORMAT_LOG_H

#include "rnvm/format/layout.h"

#define RNVM_PAD 1
#define RNVM_OPERATION 2   /* parts: operations; their bytes are the structure's own */
#define RNVM_TRANSACTION 3 /* parts: entries that the structure's memory takes over, all or
                            * nothing */
#define RNVM_PARTS_MAX 64

struct rnvm_record {
    uint32_t crc;      /* of the rest of the header and of the payload, seeded with pool and ring */
    uint32_t length;   /* to the next record, a multiple of 64 */
    uint64_t lsn;
    uint64_t epoch;    /* of the session that wrote it */
    uint16_t kind;
    uint16_t parts;
    uint32_t payload;  /* bytes that follow; parts, each a multiple of 8 */
};

struct rnvm_part {
    uint32_t structure; /* rnvm_structure() */
    uint32_t code;      /* of an operation: the structure's own */
    uint64_t number;    /* of an operation or a transaction: one more than the structure's last */
    uint64_t covers;    /* of a transaction: highest operation number that need not be
                         * re-executed */
    uint32_t length;    /* bytes that follow and count; the next part begins at a multiple of 8 */
    uint32_t reserved;
};

struct rnvm_entry {     /* of a transaction; the bytes follow RNVM_WRITE */
    uint64_t address;   /* a multiple of 8 */
    uint32_t length;    /* bytes, a multiple of 8; RNVM_TAKE and RNVM_RETURN: blocks */
    uint32_t kind;
};
#define RNVM_WRITE 1
#define RNVM_TAKE 2   /* blocks granted to the session become the structure's */
#define RNVM_RETURN 3 /* the structure's blocks become free */

_Static_assert(sizeof(struct rnvm_record) == 32, "record");
_Static_assert(sizeof(struct rnvm_part) == 32, "part");
_Static_assert(sizeof(struct rnvm_entry) == 16, "entry");

static inline uint64_t rnvm_record_length(uint64_t payload)
{
    return (sizeof(struct rnvm_record) + payload + RNVM_LINE - 1) & ~(uint64_t)(RNVM_LINE - 1);
}

/* The longest record of a ring: it must fit beside the pad that may end a lap. */
static inline uint64_t rnvm_longest_record(uint64_t ring)
{
    return ring / 2 & ~(uint64_t)(RNVM_LINE - 1);
}

/* The first LSN of a ring that was never used; LSN 0 is never valid. */
static inline uint64_t rnvm_first_lsn(uint64_t ring) { return ring; }

/* Bytes of padding that a record of this length needs before it at this LSN. */
static inline uint64_t rnvm_pad_before(uint64_t lsn, uint64_t length, uint64_t ring)
{
    uint64_t left = ring - lsn % ring;
    return left < length ? left : 0;
}

static inline uint32_t rnvm_ring_seed(uint32_t pool_seed, uint64_t ring_at)
{
    return rfp_crc32c(pool_seed, &ring_at, sizeof ring_at);
}

static inline uint32_t rnvm_record_crc(uint32_t ring_seed, const struct rnvm_record *r,
                                       const void *payload)
{
    uint32_t crc = rfp_crc32c(ring_seed, (const char *)r + sizeof r->crc,
                              sizeof *r - sizeof r->crc);
    return rfp_crc32c(crc, payload, r->payload);
}

/* Fills in the header of a record whose payload is complete. */
static inline void rnvm_record_seal(struct rnvm_record *r, uint32_t ring_seed, uint64_t lsn,
                                    uint64_t epoch, uint16_t kind, uint16_t parts,
                                    const void *payload, uint32_t length)
{
    r->length = (uint32_t)rnvm_record_length(length);
    r->lsn = lsn;
    r->epoch = epoch;
    r->kind = kind;
    r->parts = parts;
    r->payload = length;
    r->crc = rnvm_record_crc(ring_seed, r, payload);
}

/* Fills in the header of a pad of exactly this length. */
static inline void rnvm_pad_seal(struct rnvm_record *r, uint32_t ring_seed, uint64_t lsn,
                                 uint64_t epoch, uint32_t length)
{
    r->length = length;
    r->lsn = lsn;
    r->epoch = epoch;
    r->kind = RNVM_PAD;
    r->parts = 0;
    r->payload = 0;
    r->crc = rnvm_record_crc(ring_seed, r, r);
}

/* Returns whether a header, in private memory, is that of the record expected here; its CRC is
 * checked after the payload was copied.  room: bytes from the LSN to the end of the ring. */
static inline int rnvm_record_fits(const struct rnvm_record *r, uint64_t lsn, uint64_t epoch,
                                   uint64_t room, uint64_t longest)
{
    if (r->lsn != lsn || r->epoch != epoch || r->length % RNVM_LINE || !r->length
        || r->length > room)
        return 0;
    if (r->kind == RNVM_PAD) return !r->payload && !r->parts && r->length == room;
    return (r->kind == RNVM_OPERATION || r->kind == RNVM_TRANSACTION) && r->parts
           && r->parts <= RNVM_PARTS_MAX && r->length <= longest && r->payload <= longest
           && r->payload % 8 == 0 && r->length == rnvm_record_length(r->payload);
}

/* Returns the next part of a payload that is whole and in private memory, or NULL; advances *at. */
static inline const struct rnvm_part *rnvm_part_next(const char *payload, uint64_t length,
                                                     uint64_t *at)
{
    const struct rnvm_part *part = (const struct rnvm_part *)(payload + *at);
    if (*at > length || length - *at < sizeof *part || part->length > length - *at - sizeof *part)
        return NULL;
    *at += sizeof *part + rnvm_up(part->length, 8);
    return part;
}

/* Returns the next entry of a part, or NULL. */
static inline const struct rnvm_entry *rnvm_entry_next(const struct rnvm_part *part, uint64_t *at)
{
    const struct rnvm_entry *entry = (const struct rnvm_entry *)((const char *)(part + 1) + *at);
    uint64_t left = *at <= part->length ? part->length - *at : 0;
    if (left < sizeof *entry || entry->address & 7) return NULL;
    if (entry->kind == RNVM_WRITE) {
        if (entry->length & 7 || entry->length > left - sizeof *entry) return NULL;
        *at += sizeof *entry + entry->length;
    } else
        *at += sizeof *entry;
    return entry;
}

#endif

/* The memory of a partition: header, arena and index in one region.  docs/store.md draws it.
 *
 *   0        header (struct kv_partition_header)
 *   64       rearrangement counters (KV_REARRANGEMENTS words)
 *   576      arena: blocks of 16-byte granularity, back to back, up to an end block (KV_BLOCK_END)
 *   low      lines reserved for future buckets
 *            buckets: one line of 8 slots each; bucket b is at length - 64 * (b + 1)
 *   length
 *
 * The table grows downwards from the end of the region.  So it needs no directory, and no part of
 * it is ever in the way of a large value.
 *
 * Peers may read all of it at any time.  So its owner writes it by atomic stores only, and a reader
 * uses nothing before the CRC of a record has confirmed it.  One thread writes.
 *
 * Validity.  The version of a record is not 0 exactly while the record is its key's current value,
 * and the CRC covers the version.  So a whole record, found through a slot or at a place where the
 * key had a value before, was the value of its key at a moment within the read.  (The CRC begins
 * with the server's seed, so a value cannot contain the image of a record.)  The owner keeps this order:
 *
 *   put      the record with version 0 and the CRC of its version to be; version of the replaced
 *            record = 0; slot; the new version (release); response
 *   removal  version = 0 (delete, eviction, expiry, victim of a full chain); then the index
 *   move     the copy; slot or link; version of the original = 0, before anything else changes the
 *            record
 *
 * and a release fence between a version of 0 and any other write to that memory.  A reader of a
 * value that the CRC does not cover loads its version before and after the copy.  That does not
 * show that the record was moved to this place, or away and back again, with the same version; so
 * such a move counts as a rearrangement (below), and the reader compares the counter, too.
 *
 * Absence.  A reader that finds no slot of its key has proven a miss only if no slot of the
 * bucket was on its way from one place to another.  So a counter is odd while slots of a bucket
 * are rearranged: a removal, a split, an overflow line that comes, goes or moves; a release fence
 * follows the odd store and precedes the even one.  Filling an empty slot and storing one slot
 * word need no counter.  A fixed table (strict LRU) does not count: its misses prove nothing.
 */
#ifndef RFP_STORE_LAYOUT_H
#define RFP_STORE_LAYOUT_H

#include "rfp/core/atomics.h"
#include "rfp/core/crc32c.h"
#include "rfp/core/limits.h"

#define KV_PARTITION_MAGIC 0x31445242564b4652u /* "RFKVBRD1" */
#define KV_LAYOUT_VERSION 3
#define KV_LINE RFP_LINE
#define KV_SLOTS 8
#define KV_UNIT 16
/* The longest value that the CRC covers: readers do not verify a value that is too large for a slot
 * by its CRC. */
#define KV_MAX_SEALED (4u << 10)
#define KV_MAX_LINES 8              /* overflow lines of one bucket */
#define KV_CHAIN (KV_SLOTS + KV_MAX_LINES * (KV_SLOTS - 1)) /* records that one bucket takes */
#define KV_MAX_REGION (1ull << 39)

/* Flags of the header. */
#define KV_COUNTS_REARRANGEMENTS 1 /* a reader can prove that a key has no value */
#define KV_EVICTS 2                /* memory runs short: readers report the records that they use */

struct kv_partition_header {
    uint64_t magic;     /* written last */
    uint32_t version;
    uint32_t flags;
    uint64_t seed;      /* of the hash, and of the CRC */
    uint64_t length;    /* of the region */
    uint64_t buckets;   /* in use; released after the newest one has been filled */
    uint64_t reserved[3];
};

/* Counters of rearrangements, behind the header in lines of their own; the low bits of a bucket's
 * number choose one.  A power of two that divides the number of buckets added at a time, so that a
 * split concerns one counter. */
#define KV_REARRANGEMENTS 64
#define KV_ARENA_START (sizeof(struct kv_partition_header) + KV_REARRANGEMENTS * sizeof(uint64_t))

/* A block begins with one word: its kind (3 bits), the size of the block before it (25 bits, in
 * units of 16 bytes; 0: that block is free, and its last word contains its size), and its own size
 * (36 bits, in units).  So both neighbours are found without a search.  Only free blocks may be
 * larger than 25 bits can express. */
#define KV_BLOCK_FREE 0
#define KV_BLOCK_RECORD 1
#define KV_BLOCK_ORPHAN 2   /* a record that left the index while a client may still read it */
#define KV_BLOCK_RESERVED 3 /* for an upload, or for room that eviction is making */
#define KV_BLOCK_OVERFLOW 4 /* a line of slots that did not fit into their bucket */
#define KV_BLOCK_END 5
#define KV_MAX_BLOCK (((1ull << 25) - 1) * KV_UNIT)

static inline uint64_t kv_block(uint64_t size, uint64_t before, uint32_t kind)
{
    return (size / KV_UNIT) << 28 | (before / KV_UNIT) << 3 | kind;
}
static inline uint64_t kv_block_size(uint64_t word) { return (word >> 28) * KV_UNIT; }
static inline uint64_t kv_block_before(uint64_t word) { return (word >> 3 & 0x1ffffff) * KV_UNIT; }
static inline uint32_t kv_block_kind(uint64_t word) { return (uint32_t)word & 7; }

/* A record.  The key follows, then the value at the next multiple of 8.  Once the record is in the
 * index, only its state changes, its block word when a neighbour changes, and its version, to 0,
 * when it leaves the index. */
struct kv_record {
    uint64_t block;
    uint32_t crc;          /* kv_key_crc, kv_value_crc, kv_seal_crc: of key, value (up to
                              KV_MAX_SEALED bytes) and struct kv_seal */
    uint32_t value_length;
    uint64_t version;      /* 0: not the current value of its key */
    uint64_t state;        /* expiry (40 bits: CLOCK_MONOTONIC in ms, 0 = never), pins (12),
                              referenced (1), key length (11) */
};

/* The part of a record that the CRC covers beside key and value; it is last because an upload
 * learns its version last. */
struct kv_seal {
    uint32_t key_length;
    uint32_t value_length;
    uint64_t version;
};

#define KV_STATE_KEY 0x7ffull
#define KV_STATE_REFERENCED 0x800ull
#define KV_STATE_PIN 0x1000ull
#define KV_STATE_PINS 0xfff000ull
#define KV_EXPIRY_SHIFT 24
#define KV_MAX_EXPIRY ((1ull << 40) - 1)

struct kv_overflow {
    uint64_t block;
    uint64_t bucket;
    uint64_t slots[KV_SLOTS];
};

_Static_assert(sizeof(struct kv_partition_header) == KV_LINE, "partition header");
_Static_assert(KV_ARENA_START % KV_LINE == 0, "arena start");
_Static_assert(sizeof(struct kv_record) == 32, "record");
_Static_assert(sizeof(struct kv_overflow) == 80, "overflow line");

static inline uint64_t kv_value_offset(uint64_t key_length)
{
    return sizeof(struct kv_record) + ((key_length + 7) & ~7ull);
}
static inline uint64_t kv_record_size(uint64_t key_length, uint64_t value_length)
{
    return (kv_value_offset(key_length) + value_length + KV_UNIT - 1) & ~(uint64_t)(KV_UNIT - 1);
}

/* A slot: tag (16 bits of the hash, never 0), length of the record (12 bits, in units; 0: too long
 * for 12 bits), its offset (36 bits, in units).  0 is an empty slot.  A slot with tag 0 is a link
 * to an overflow line, and always the last of its line.  The hash's low 16 bits are left to callers
 * that choose the partition by them. */
static inline uint64_t kv_tag(uint64_t hash) { return hash >> 48 ? hash >> 48 : 1; }
static inline uint64_t kv_slot(uint64_t tag, uint64_t offset, uint64_t length)
{
    uint64_t units = (length + KV_UNIT - 1) / KV_UNIT;
    return tag << 48 | (units > 0xfff ? 0 : units) << 36 | offset / KV_UNIT;
}
static inline uint64_t kv_slot_tag(uint64_t slot) { return slot >> 48; }
static inline uint64_t kv_slot_length(uint64_t slot) { return (slot >> 36 & 0xfff) * KV_UNIT; }
static inline uint64_t kv_slot_offset(uint64_t slot) { return (slot & 0xfffffffffull) * KV_UNIT; }
static inline int kv_slot_link(uint64_t slot) { return slot && !(slot >> 48); }

/* Linear hashing: mask belongs to the smallest power of two that is not below the number of
 * buckets. */
static inline uint64_t kv_mask(uint64_t buckets)
{
    return buckets < 2 ? 0 : ~0ull >> __builtin_clzll(buckets - 1);
}
static inline uint64_t kv_bucket(uint64_t hash, uint64_t buckets, uint64_t mask)
{
    uint64_t bucket = hash >> 16 & mask;
    return bucket < buckets ? bucket : bucket & mask >> 1;
}

/* Returns a bit mask: bit i is set if slot i of the line has this tag. */
static inline uint32_t kv_match(const uint64_t *slots, uint64_t tag)
{
    uint32_t found = 0;
    for (int i = 0; i < KV_SLOTS; i++) found |= (uint32_t)(slots[i] >> 48 == tag) << i;
    return found;
}

/* Returns whether two keys of the same length are equal.  The function reads nothing before or
 * behind the keys. */
static inline int kv_same(const char *a, const char *b, uint32_t length)
{
    uint64_t x, y;
    if (length < 8) {
        for (uint32_t i = 0; i < length; i++)
            if (a[i] != b[i]) return 0;
        return 1;
    }
    for (uint32_t i = 0; i + 8 <= length; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y) return 0;
    }
    memcpy(&x, a + length - 8, 8);
    memcpy(&y, b + length - 8, 8);
    return x == y;
}

/* Returns the CRC of a key.  It begins with a part of the seed, which a stranger who chooses values
 * does not know; otherwise a value could contain the image of a record that proves itself. */
static inline uint32_t kv_key_crc(uint64_t seed, const void *key, uint32_t length)
{
    return rfp_crc32c((uint32_t)(seed ^ seed >> 32), key, length);
}

/* Returns the CRC of a key, continued over its value. */
static inline uint32_t kv_value_crc(uint32_t crc, const void *value, uint32_t length)
{
    return length <= KV_MAX_SEALED ? rfp_crc32c(crc, value, length) : crc;
}

/* Returns the CRC of a record.  crc: of key and value. */
static inline uint32_t kv_seal_crc(uint32_t crc, uint32_t key_length, uint32_t value_length,
                                   uint64_t version)
{
    struct kv_seal seal = {key_length, value_length, version};
    return rfp_crc32c(crc, &seal, sizeof seal);
}

#endif

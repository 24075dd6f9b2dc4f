/* The key-value store's messages: the payloads of requests and responses.  docs/protocol.md
 * describes them in prose.
 *
 * Integers are little-endian.  Fields of a fixed part are naturally aligned; keys and values follow
 * without padding.
 */
#ifndef RFP_STORE_MESSAGES_H
#define RFP_STORE_MESSAGES_H

#include <stdint.h>
#include <string.h>

#define KV_MAX_KEY 1024
#define KV_MAX_VALUE (256u << 20)
#define KV_MAX_PIECE (256u << 10)

enum kv_opcode {            /* request payload                -> response payload; result */
    KV_GET = 17,            /* key                            -> value or rfp_reference; version */
    KV_EXISTS = 18,         /* key                            -> -; version */
    KV_PUT = 19,            /* kv_put, key, value             -> -; version */
    KV_DELETE = 20,         /* key                            -> -; version deleted */
    KV_INCR = 21,           /* kv_number (delta), key         -> kv_number (the sum); version */
    KV_TOUCH = 22,          /* kv_number (ttl in ms, 0 = none), key -> -; version */
    KV_GET_MANY = 23,       /* count x (kv_key, key)          -> count x kv_item, then the inline
                                                                  values; 0 */
    KV_PUT_MANY = 24,       /* kv_number (ttl in ms, 0 = none), count x (kv_pair, key, value)
                                                                  -> count x kv_item; 0 */
    KV_DELETE_MANY = 25,    /* count x (kv_key, key)          -> count x kv_item; 0 */
    KV_PUT_BEGIN = 26,      /* kv_put, key (value_length announced) -> -; upload */
    KV_PUT_PIECE = 27,      /* kv_piece; the bytes are in staging -> -; version after the last
                                                                  piece, 0 before it */
    KV_PUT_ABORT = 28,      /* kv_number (upload, 0: all of this session's) -> -; 0 */
    KV_RELEASE = 29,        /* - (the pin is in the header)   -> -; 0 */
    KV_STATS = 30,          /* -                              -> KV_COUNTERS x u64; 0 */
    KV_REFER = 31,          /* count x kv_use                 -> -; 0 */
    KV_EXISTS_MANY = 32,    /* count x (kv_key, key)          -> count x kv_item; 0 */
    KV_GET_RANGE = 33,      /* kv_range, key                  -> the bytes in the range, or
                                                                  rfp_reference; version */
    KV_GET_RANGES = 34,     /* count x (kv_key, key, kv_range) -> count x kv_item, then the inline
                                                                  bytes; 0 */
    KV_SCAN = 35,           /* kv_scan, prefix                -> kv_scanned, then kv_key, key for
                                                                  each key; 0 */
    KV_CLEAR = 36,          /* kv_scan, prefix                -> kv_scanned; keys deleted */
    KV_VIEW = 40,           /* key                            -> kv_viewed (KV_KIND_VIEW); a value
                                                                  below KV_VIEW_MIN as KV_GET;
                                                                  version */
};

enum kv_flag {              /* request flags */
    KV_IF_ABSENT = 1,       /* put only if the key has no value */
    KV_IF_VERSION = 2,      /* put only over the value with this version */
    KV_NAME_PLACE = 8,      /* get, get many: name the place of the record (KV_PLACED) */
};

enum kv_status {            /* response status */
    KV_OK = 0,
    KV_NOT_FOUND = 1,
    KV_EXISTS_ALREADY = 2,  /* if_absent, and the key has a value; result: its version */
    /* if_version, and the version differs; result: the value's version, 0 if there is none */
    KV_VERSION_MISMATCH = 3,
    KV_OUT_OF_MEMORY = 4,   /* no further record can be evicted, or eviction is off */
    KV_TOO_LARGE = 5,       /* key or value longer than this server accepts */
    KV_NOT_A_NUMBER = 6,    /* incr of a value that is not a decimal int64 */
    KV_OVERFLOW = 7,        /* incr beyond int64 */
    KV_BAD_REQUEST = 8,     /* the payload does not fit its opcode */
    KV_QUOTA = 9,           /* this client's pins, views or uploads are used up */
    KV_DEFERRED = 10,       /* batch item: its bytes did not fit into the response; request it
                               alone.  KV_PUT_BEGIN: the server is still making room; the same
                               request, sent again, continues */
    KV_UNKNOWN_UPLOAD = 11, /* the upload has ended, or never began */
    KV_UNSUPPORTED = 12,    /* this server has no such opcode */
    KV_PLACED = 13,         /* as KV_OK; a kv_place follows the value.  Batch item: the places
                               follow all values, in the order of their items */
};

struct kv_put {
    uint32_t key_length;
    uint32_t value_length;
    uint64_t ttl;           /* ms, 0 = none */
    uint64_t version;       /* for KV_IF_VERSION */
};

struct kv_number {
    uint64_t number;
};

struct kv_key {
    uint16_t key_length;
};

/* A part of a value.  The server cuts it at the value's end: a range behind the end is empty. */
struct kv_range {
    uint64_t offset;
    uint64_t length;
};

struct kv_pair {
    uint16_t key_length;
    uint16_t unused;
    uint32_t value_length;
};

struct kv_item {
    uint8_t status;
    uint8_t unused[3];
    uint32_t length;        /* of the inline value */
    uint64_t version;
};

struct kv_piece {
    uint64_t upload;
    uint64_t offset;        /* in the value; pieces arrive in order */
    uint32_t length;
    uint32_t crc;           /* CRC32C of the piece, checked if flags contains KV_PIECE_CRC */
    uint64_t staging;       /* offset in the client's staging ring */
};

/* A use of a record by a direct read, which marks nothing itself.  The server marks the record only
 * if its index contains exactly this slot now. */
struct kv_use {
    uint64_t hash;          /* of the key */
    uint64_t slot;          /* as the client read it */
};
#define KV_USES_MAX 64      /* of one request */

/* The place of a record, for later one-sided READs (client/located_read.pyx). */
struct kv_place {
    uint64_t slot;          /* as the index contains it: offset and length of the record */
    uint32_t flags;         /* KV_PLACE_* */
    uint32_t unused;
};
#define KV_PLACE_EXPIRES 1u /* the record has an expiry */
#define KV_PLACE_EVICTS 2u  /* memory runs short: report uses (KV_REFER) */
#define KV_KIND_VIEW 16     /* kind of a response that contains a kv_viewed */
#define KV_VIEW_MIN (64u << 10) /* bytes of the shortest value that is viewed in place */
#define KV_MEMORY_VIEWS 1   /* GetMemory: the view table of the client's process */

/* The place of a value for views, and the pin that keeps it there while a view holds it
 * (view_table.h). */
struct kv_viewed {
    uint64_t offset;        /* of the value in the arena region */
    uint64_t length;
    uint64_t record;        /* offset of its record */
    uint32_t pin;           /* number of the pin's word in this partition's part of the table */
    uint32_t generation;
};

/* One step over all keys of a partition (server/scan.pyx).  position and version: 0 to begin, then
 * from the last response. */
struct kv_scan {
    uint64_t position;
    uint64_t version;
    uint64_t limit;         /* keys of this step at most; not 0 */
};

struct kv_scanned {         /* where to continue; both 0: all keys were visited */
    uint64_t position;
    uint64_t version;
};

#define KV_PIECE_CRC 4u     /* request flag of KV_PUT_PIECE */

_Static_assert(sizeof(struct kv_put) == 24, "kv_put");
_Static_assert(sizeof(struct kv_key) == 2, "kv_key");
_Static_assert(sizeof(struct kv_range) == 16, "kv_range");
_Static_assert(sizeof(struct kv_pair) == 8, "kv_pair");
_Static_assert(sizeof(struct kv_item) == 16, "kv_item");
_Static_assert(sizeof(struct kv_piece) == 32, "kv_piece");
_Static_assert(sizeof(struct kv_use) == 16, "kv_use");
_Static_assert(sizeof(struct kv_place) == 16, "kv_place");
_Static_assert(sizeof(struct kv_viewed) == 32, "kv_viewed");
_Static_assert(sizeof(struct kv_scan) == 24, "kv_scan");
_Static_assert(sizeof(struct kv_scanned) == 16, "kv_scanned");

/* A partition's counters, in the order of a KV_STATS response.  New ones go to the end (minor
 * version). */
enum kv_counter {
    KV_C_GETS, KV_C_HITS, KV_C_MISSES, KV_C_PUTS, KV_C_DELETES, KV_C_INCRS, KV_C_TOUCHES,
    KV_C_EVICTIONS, KV_C_EXPIRATIONS, KV_C_REFUSED,
    KV_C_RECORDS, KV_C_BYTES_USED, KV_C_BYTES_TOTAL, KV_C_INDEX_BYTES,
    KV_C_PINS, KV_C_UPLOADS, KV_C_BYTES_RESERVED,
    KV_C_VALUE_BYTES, /* sum of the lengths of the values stored: the mean size is this / records */
    KV_C_UNKNOWN_PINS, /* releases of pins that this session does not hold (any more) */
    KV_C_VIEWS,        /* pins of views */
    KV_C_VIEW_BYTES,   /* memory of the records that they keep */
    KV_COUNTERS
};

#endif

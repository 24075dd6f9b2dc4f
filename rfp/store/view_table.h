/* The use counts of the views of one client process: memory that it shares with one server.
 *
 *   0        struct kv_view_table
 *   64       KV_VIEW_PINS words for each partition, in order
 *
 * A pin keeps a record's memory for the views of a process.  Its word contains the pin's generation
 * (32 bits), whether no view has held it since its grant (1 bit), and the number of views that hold
 * it (31 bits).
 *
 *   grant    the server stores (generation, not held yet, 0) and tells the client the generation
 *   hold     the client adds one view, if the generation is still the same (compare and swap)
 *   drop     the client subtracts one view
 *   reap     the server replaces (generation, 0) by the next generation (compare and swap); only
 *            then it gives the pin's memory up
 *
 * So a release needs no request, no lock and no connection, and may come from any thread, from a
 * finalizer, and after the connection is lost; a grant whose response is lost keeps nothing; and a
 * release that crosses a new grant cannot end it.  Requests for releases were rejected: clients
 * have no thread that would send the last one.
 *
 * The client may write anything here: the server compares the word with its own copy of the
 * generation and uses no other part of it, so a client can only keep or lose its own pins.
 */
#ifndef RFP_STORE_VIEW_TABLE_H
#define RFP_STORE_VIEW_TABLE_H

#include "rfp/core/atomics.h"
#include "rfp/core/limits.h"

#define KV_VIEW_PINS 4096           /* of one process in one partition */
#define KV_VIEW_FRESH 0x80000000u
#define KV_VIEW_USES_MAX 0x7fffffffu

struct kv_view_table {
    uint64_t serving;               /* 1 until the server closes */
    uint64_t reserved[7];
};
_Static_assert(sizeof(struct kv_view_table) == RFP_LINE, "view table");

static inline uint64_t kv_view_table_size(uint32_t partitions)
{
    return sizeof(struct kv_view_table) + (uint64_t)partitions * KV_VIEW_PINS * sizeof(uint64_t);
}
static inline uint64_t *kv_view_words(char *table, uint32_t partition)
{
    return (uint64_t *)(table + kv_view_table_size(partition));
}

/* Returns whether the view is counted; else the pin has ended. */
static inline int kv_view_hold(uint64_t *word, uint32_t generation)
{
    uint64_t now = rfp_load64_acquire(word);
    while (now >> 32 == generation && (now & KV_VIEW_USES_MAX) < KV_VIEW_USES_MAX)
        if (rfp_compare_swap64(word, &now, (now & ~(uint64_t)KV_VIEW_FRESH) + 1)) return 1;
    return 0;
}

/* All loads from the record come before it. */
static inline void kv_view_drop(uint64_t *word) { rfp_add64(word, ~0ull); }

static inline void kv_view_grant(uint64_t *word, uint32_t generation)
{
    rfp_store64_release(word, (uint64_t)generation << 32 | KV_VIEW_FRESH);
}
/* Another grant of the same pin. */
static inline void kv_view_grant_again(uint64_t *word, uint32_t generation)
{
    uint64_t unused = (uint64_t)generation << 32;
    rfp_compare_swap64(word, &unused, unused | KV_VIEW_FRESH);
}

/* Returns whether the pin has ended: no view holds it, and none can hold it any more.  fresh: also
 * if no view has held it since its grant. */
static inline int kv_view_reap(uint64_t *word, uint32_t generation, int fresh)
{
    uint64_t unused = (uint64_t)generation << 32;
    uint64_t next = (uint64_t)(generation + 1) << 32;
    if (rfp_compare_swap64(word, &unused, next)) return 1;
    unused = (uint64_t)generation << 32 | KV_VIEW_FRESH;
    return fresh && rfp_compare_swap64(word, &unused, next);
}

#endif

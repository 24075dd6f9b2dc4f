/* Nodes of the structures.  docs/structures.md describes them in tables.
 *
 * Little-endian, naturally aligned.  Each begins with the header of rnvm/format/node.h, which
 * proves its owner, its address, and that it is whole.
 */
#ifndef STRUCTURES_LAYOUT_H
#define STRUCTURES_LAYOUT_H

#include <string.h>

#include "rnvm/format/node.h"
#include "rnvm/format/version.h"

#define KEY_MAX 1024u
#define VALUE_MAX (1u << 20)
#define UP8(n) (((n) + 7u) & ~7u)

/* Of all structures: a value too long for the node that lists it.  Its length is in the entry that
 * points to it. */
struct value_node {
    struct rnvm_node node;
    char bytes[];
};
#define VALUE_NODE(length) ((uint32_t)(RNVM_NODE + UP8(length)))

/* An array of addresses that grows: at depth 0 its only element is in the root, at depth d the
 * elements are in the leaves of a tree with FAN^d places. */
#define DIRECTORY_FAN 500u
struct directory_node {
    struct rnvm_node node;
    uint64_t children[DIRECTORY_FAN];
};

#define TYPE_DIRECTORY 2
#define TYPE_VALUE 3
#define TYPE_SEGMENT 4 /* Queue */
#define TYPE_TABLE 5
#define TYPE_BUCKET 6  /* HashTable */
#define TYPE_PAGE 7    /* BPlusTree */
#define TYPE_SHELF 8   /* Queue */
#define TYPE_TOWER 9   /* SkipList */
#define TYPE_LAYER 10  /* Stack */
#define TYPE_BST 12    /* BST, MVBST */
#define TYPE_RETIRED 16 /* multi-version structures */

/* Queue (format 3): segments of entries, in the order of their numbers; and slots for reservations
 * and delayed entries, in tables, below shelves that record where a slot is vacant and when the
 * first lease ends.
 * queue_segments.pxd and queue_reservations.pxd draw them. */
#define SEGMENT_BYTES 2016u
#define SEGMENT_FIRST 56u /* offset of the first entry */
#define QUEUE_INLINE 480u /* longer values have nodes of their own */
#define TABLE_SLOTS 24u
#define SHELF_FAN 60u
#define LEASE_NEVER (~0ull)
struct queue_root {
    struct rnvm_node node;
    uint64_t head;       /* the segment with the next entry, or 0 */
    uint64_t dequeued;   /* number of that entry: how many were taken out of the segments */
    uint32_t head_offset; /* its offset there */
    uint32_t tables;     /* number of tables */
    uint64_t tickets;    /* number of the last reservation */
    uint64_t earliest;   /* with reservations: the end of the first lease to end, ns since 1970 */
    uint32_t reserved;   /* slots under a lease, delayed ones included */
    uint32_t requeued;   /* slots that wait to be delivered again */
    uint32_t first;      /* the first of these, + 1; linked by next */
    uint32_t last;
    uint64_t tail;       /* the segment that takes new entries, or 0 */
    uint64_t top;        /* the top shelf; at depth 0 the only table, or 0 */
    uint32_t depth;      /* levels of shelves */
    uint32_t delayed;    /* slots whose entry waits for its time to come */
};
struct queue_segment {
    struct rnvm_node node;
    uint64_t next;
    uint64_t first;      /* number of its first entry */
    uint16_t count;
    uint16_t held;       /* reserved entries that stay here; a segment with any outlives its turn
                          * at the head */
    uint32_t end;        /* offset behind the last entry */
};
struct queue_entry {     /* then the value, or its address */
    uint32_t length;     /* ENTRY_HELD: reserved, and a slot points here */
    uint32_t number;     /* low half of its number */
};
struct queue_slot {
    uint64_t ticket;     /* of the reservation: its number << 24 | random bits; 0: vacant */
    uint64_t deadline;   /* of the lease; 0: returned */
    uint64_t value;      /* the value's node, or the segment that contains it */
    uint32_t length;     /* of the value; if in a segment: | offset of the entry / 8 << 24 */
    uint32_t next;
    uint32_t deliveries; /* how often it was reserved; 0: it was put with a delay, its lease */
    uint32_t unused;
};
struct queue_table {
    struct rnvm_node node;
    struct queue_slot slots[TABLE_SLOTS];
};
struct queue_place {     /* of a table or shelf below; zeros: none */
    uint64_t child;      /* its address | PLACE_... */
    uint64_t earliest;   /* end of the first lease to end there, or LEASE_NEVER */
};
struct queue_shelf {
    struct rnvm_node node;
    struct queue_place places[SHELF_FAN];
};
#define ENTRY_HELD 0x80000000u
#define PLACE_TAKEN 1u   /* no slot of the tables below is vacant */
#define PLACE_FULL 2u    /* no further table fits below */
#define PLACE_ADDRESS(child) ((child) & ~(uint64_t)7)
#define QUEUE_ENTRY(length) \
    ((uint32_t)(sizeof(struct queue_entry) + ((length) <= QUEUE_INLINE ? UP8(length) : 8)))
#define SLOT_LENGTH(length) ((length) & 0xffffffu)
#define SLOT_AT(length) ((length) >> 24 << 3)      /* entry's offset in its segment; 0: in a node */
#define SLOT_INSIDE(length, at) ((uint32_t)(length) | (uint32_t)(at) << 21)

/* Stack: layers of entries, one on top of the other (stack_layers.pxd draws them). */
#define LAYER_BYTES 2016u
#define LAYER_FIRST 64u    /* offset of the first entry */
#define STACK_INLINE 480u  /* longer values have nodes of their own */
struct stack_root {
    struct rnvm_node node;
    uint64_t count;      /* values */
    uint64_t top;        /* the layer that takes new entries, or 0 */
};
struct stack_layer {
    struct rnvm_node node;
    uint64_t below;      /* the next layer, or 0 */
    uint64_t jump;       /* a layer further down, layer_jump(depth) */
    uint64_t first;      /* number of its first entry: of the values below it */
    uint32_t depth;      /* of the layers below it */
    uint16_t count;
    uint16_t end;        /* offset behind the last entry */
};
struct stack_entry {     /* behind the value, or behind its address */
    uint32_t length;
    uint32_t number;     /* low half of its number */
};
#define LAYER_ENTRY(length) \
    ((uint32_t)(sizeof(struct stack_entry) + ((length) <= STACK_INLINE ? UP8(length) : 8)))

/* Depth of the layer that the jump of a layer at this depth, above 0, leads to: less the smallest
 * of the largest numbers 2^k - 1 that add up to the depth.  So any layer is reached in
 * O(log depth) steps, and the jump of a new layer is its lower neighbour, or the jump of the jump
 * of that (Myers, An applicative random-access stack, 1983). */
static inline uint32_t layer_jump(uint32_t depth)
{
    uint32_t left = depth, weight = 0;
    while (left) {
        weight = 0xffffffffu >> __builtin_clz(left + (left != 0xffffffffu));
        if (weight > left) weight >>= 1;
        left -= weight;
    }
    return depth - weight;
}

/* Mappings: the root begins with the number of keys. */
struct mapping_root {
    struct rnvm_node node;
    uint64_t count;
};

/* Sizes of a key and a value in one word. */
#define SIZES(key, value) ((uint32_t)(key) | (uint32_t)(value) << 11)
#define KEY_OF(sizes) ((sizes) & 0x7ffu)
#define VALUE_OF(sizes) ((sizes) >> 11)

/* HashTable: linear hashing; a bucket is a chain of nodes (hash_buckets.pxd draws it). */
#define BUCKET_BYTES 1008u
#define BUCKET_FIRST 48u
#define BUCKET_ROOM (BUCKET_BYTES - BUCKET_FIRST)
#define HASH_INLINE_KEY 128u   /* a longer key is in a node of its own, with its value */
#define HASH_INLINE 256u       /* maximum of key and value, each rounded up to 8; longer: the
                                * value is in a node of its own */
struct hash_root {
    struct rnvm_node node;
    uint64_t count;      /* keys */
    uint64_t bytes;      /* of their entries in the buckets */
    uint64_t seed;       /* of the hash */
    uint64_t directory;  /* of buckets */
    uint32_t depth;
    uint32_t buckets;
};
struct hash_bucket {
    struct rnvm_node node;
    uint64_t next;       /* in the chain, or 0 */
    uint32_t index;      /* of the bucket */
    uint16_t end;        /* offset behind the last entry */
    uint16_t holes;      /* bytes of holes */
};
struct hash_entry {      /* then: the address of its node if it has one; the key, rounded up to
                          * 8, if it is short; the value, if inline */
    uint32_t hash;
    uint32_t sizes;      /* key | value << 11; key 0: a hole of this many bytes, these 8 included */
};

#define HASH_SHORT_KEY(sizes) (KEY_OF(sizes) <= HASH_INLINE_KEY)
#define HASH_INSIDE(sizes) \
    (HASH_SHORT_KEY(sizes) && UP8(KEY_OF(sizes)) + UP8(VALUE_OF(sizes)) <= HASH_INLINE)
/* Bytes of an entry, and of its node's content. */
static inline uint32_t hash_entry_size(uint32_t sizes)
{
    uint32_t key = HASH_SHORT_KEY(sizes) ? UP8(KEY_OF(sizes)) : 0;
    if (!KEY_OF(sizes)) return VALUE_OF(sizes);
    return (uint32_t)sizeof(struct hash_entry) + key
           + (HASH_INSIDE(sizes) ? UP8(VALUE_OF(sizes)) : 8);
}
static inline uint32_t hash_outside(uint32_t sizes)
{
    return (HASH_SHORT_KEY(sizes) ? 0 : KEY_OF(sizes)) + VALUE_OF(sizes);
}

/* Offset in an entry of its key (a short one), and of its value (one that is inside). */
static inline uint32_t hash_key_at(uint32_t sizes)
{
    return (uint32_t)sizeof(struct hash_entry) + (HASH_INSIDE(sizes) ? 0 : 8);
}

static inline uint32_t hash_value_at(uint32_t sizes)
{
    return (uint32_t)sizeof(struct hash_entry) + UP8(KEY_OF(sizes));
}

static inline uint32_t hash_reversed(uint32_t h)
{
    h = (h & 0x55555555u) << 1 | (h >> 1 & 0x55555555u);
    h = (h & 0x33333333u) << 2 | (h >> 2 & 0x33333333u);
    h = (h & 0x0f0f0f0fu) << 4 | (h >> 4 & 0x0f0f0f0fu);
    return __builtin_bswap32(h);
}
/* The lowest bits of a hash select its bucket: hash_level() bits, and one bit more for buckets that
 * were split in the current round. */
static inline uint32_t hash_level(uint32_t buckets)
{
    return 31u - (uint32_t)__builtin_clz(buckets);
}
static inline uint32_t hash_bucket_of(uint32_t hash, uint32_t buckets)
{
    uint64_t whole = 1ull << hash_level(buckets);
    uint64_t bucket = hash & (2 * whole - 1);
    return (uint32_t)(bucket < buckets ? bucket : hash & (whole - 1));
}
static inline uint32_t hash_bits(uint32_t bucket, uint32_t buckets)
{
    uint32_t level = hash_level(buckets), whole = 1u << level;
    return bucket >= whole || bucket < buckets - whole ? level + 1 : level;
}

/* BPlusTree: pages (page.h draws one). */
struct tree_root {
    struct rnvm_node node;
    uint64_t count;      /* keys */
    uint64_t top;        /* page, or 0 */
    uint32_t levels;     /* of pages */
    uint32_t reserved;
};

/* SkipList: a node for each key, on 1 to SKIP_LEVELS levels (skip_list_nodes.pxd draws it). */
#define SKIP_LEVELS 24u    /* half of the nodes of a level is on the next one */
#define SKIP_INLINE 256u   /* values longer than this have nodes of their own */
struct skip_link {
    uint64_t address;      /* 0: none */
    uint32_t length;       /* of that node */
    uint16_t common;       /* bytes with which its key and that of the node of this link begin */
    uint16_t ahead;        /* the next two bytes of its key, big-endian; zeros behind its end */
};
struct skip_root {
    struct rnvm_node node;
    uint64_t count;        /* keys */
    uint64_t seed;         /* of the keys' hash, which is the level of their nodes; 0: no key yet */
    struct skip_link last; /* the node of the highest key */
    struct skip_link next[SKIP_LEVELS];
};
struct skip_tower {
    struct rnvm_node node;
    struct skip_link back; /* the node before it on the lowest level */
    uint32_t sizes;
    uint32_t levels;
    struct skip_link next[]; /* one for each level; then the key, then the value or its address */
};

static inline uint32_t skip_payload(uint32_t sizes)
{
    return VALUE_OF(sizes) <= SKIP_INLINE ? VALUE_OF(sizes) : 8;
}

static inline uint32_t skip_key_at(uint32_t levels)
{
    return (uint32_t)(sizeof(struct skip_tower) + sizeof(struct skip_link) * levels);
}

static inline uint32_t skip_length(uint32_t sizes, uint32_t levels)
{
    return UP8(skip_key_at(levels) + KEY_OF(sizes) + skip_payload(sizes));
}

/* BST and MVBST: a node for each key (bst_nodes.pxd draws them).  The key follows `sizes` at once,
 * then the value, or the address of its node. */
#define BST_INLINE 256u    /* longer values have nodes of their own */
#define MVBST_INLINE 64u   /* the same of a multi-version tree, which copies nodes */
#define BST_KEY 52u        /* offset of the key */
struct bst_root {
    struct rnvm_node node;
    uint64_t count;      /* keys */
    uint64_t top;        /* link */
};
struct bst_node {
    struct rnvm_node node;
    uint64_t links[2];   /* to the lower keys, to the higher ones */
    uint32_t sizes;
    char key[4];
};
/* A link is one word, so that a descent knows what to READ, and a change of balance is a change of
 * the word that changes anyway:
 *
 *   63                 49   48   47                     0
 *   +--------------------+------+------------------------+
 *   | bytes of child / 8 | DEEP | its offset in the pool |       0: no child
 *   +--------------------+------+------------------------+
 *
 * DEEP: the subtree is one level deeper than the other one of the same node. */
#define LINK_DEEP ((uint64_t)1 << 48)
static inline uint64_t bst_link(uint64_t address, uint32_t length)
{
    return rnvm_offset(address) | (uint64_t)(length / 8) << 49;
}
/* root: any address of the structure. */
static inline uint64_t bst_address(uint64_t link, uint64_t root)
{
    return rnvm_address(rnvm_backend(root), rnvm_offset(link));
}
static inline uint32_t bst_length(uint64_t link) { return (uint32_t)(link >> 49) * 8; }

/* Multi-version structures: the root, and the retire list: nodes that were replaced, in chunks, in
 * the order in which they are freed (multi_version.pxd draws it). */
#define RETIRED_ENTRIES 60u
#define RETIRED_FIELDS 96u  /* offset of the list in the root */
#define RETIRED_SUBTREE 1u  /* the node, and everything below that is reachable from it alone */
#define RETIRED_VALUE 2u    /* a value_node; otherwise a node of the structure's own type */
struct versioned_root {
    struct rnvm_versions versions;
    uint64_t first;      /* chunk, or 0 */
    uint64_t last;
    uint64_t listed;     /* entries */
    uint64_t spare;      /* a chunk without entries, for when blocks run short, or 0 */
};
struct retired_entry {
    uint64_t node;       /* address | RETIRED_SUBTREE or RETIRED_VALUE */
    uint64_t what;       /* number of the transaction that replaced it << 18 | length / 8, or the
                          * height of a subtree */
};
struct retired_chunk {
    struct rnvm_node node;
    uint64_t next;
    uint32_t first;      /* entry that is freed next */
    uint32_t end;        /* behind the last entry */
    struct retired_entry entries[RETIRED_ENTRIES];
};
#define RETIRED(version, size) ((uint64_t)(version) << 18 | (uint32_t)(size))
#define RETIRED_VERSION(what) ((what) >> 18)
#define RETIRED_SIZE(what) ((uint32_t)((what) & 0x3ffffu))
#define RETIRED_ADDRESS(node) ((node) & ~(uint64_t)7)

_Static_assert(sizeof(struct versioned_root) == 128
                   && __builtin_offsetof(struct versioned_root, first) == RETIRED_FIELDS,
               "root of a multi-version structure");
_Static_assert(sizeof(struct retired_chunk) == 1008, "chunk of the retire list");
_Static_assert(RNVM_NODE_BYTES_MAX / 8 <= 0x3ffffu, "length of a retired node");
_Static_assert(sizeof(struct directory_node) == 4032, "directory");
_Static_assert(sizeof(struct queue_root) == 112, "root of a queue");
_Static_assert(sizeof(struct queue_segment) == SEGMENT_FIRST, "segment");
_Static_assert(sizeof(struct queue_entry) == 8, "entry of a queue");
_Static_assert(sizeof(struct stack_root) == 48, "root of a stack");
_Static_assert(sizeof(struct stack_layer) == LAYER_FIRST, "layer");
_Static_assert(sizeof(struct stack_entry) == 8, "entry of a stack");
_Static_assert(sizeof(struct queue_slot) == 40, "slot");
_Static_assert(sizeof(struct queue_table) == 992, "table");
_Static_assert(sizeof(struct queue_shelf) == 992, "shelf");
_Static_assert(VALUE_MAX < 1u << 24 && SEGMENT_BYTES >> 3 < 256,
               "the length of a slot contains the value's place in its segment");
_Static_assert(sizeof(struct hash_root) == 72, "root of a hash table");
_Static_assert(sizeof(struct hash_bucket) == BUCKET_FIRST, "bucket");
_Static_assert(sizeof(struct hash_entry) == 8, "entry of a hash table");
_Static_assert(sizeof(struct tree_root) == 56, "root of a tree");
_Static_assert(sizeof(struct skip_root) == 448, "root of a skip list");
_Static_assert(sizeof(struct skip_tower) == 56, "node of a skip list");
_Static_assert(sizeof(struct bst_root) == 48, "root of a BST");
_Static_assert(sizeof(struct bst_node) == 56 && __builtin_offsetof(struct bst_node, key) == BST_KEY,
               "node of a BST");
_Static_assert(BST_KEY + KEY_MAX + BST_INLINE < 1u << 18, "a link contains the length of a node");

#endif

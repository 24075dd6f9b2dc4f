/* Nodes, the content of a structure's blocks, and the slabs that hold small ones.
 * docs/rnvm-structures.md explains them.
 *
 *   a block cut into slots                             a long node, in blocks of its own
 *   +-----------+------+------+------+-----+------+    +--------+------------------------+
 *   | rnvm_slab | bits | slot | slot | ... | slot |    | header | bytes ...              |
 *   +-----------+------+------+------+-----+------+    +--------+------------------------+
 *                taken  ^ first: the slots end where the block ends
 *
 * A node is the unit in which a structure is read, checked, cached and changed.  Its header proves
 * that it is the node that the pointer names.
 */
#ifndef RNVM_FORMAT_NODE_H
#define RNVM_FORMAT_NODE_H

#include "rnvm/format/layout.h"

struct rnvm_node {
    uint32_t crc;       /* of all that follows, seeded with the pool */
    uint32_t length;    /* bytes, header included; a multiple of 8 */
    uint32_t structure; /* rnvm_structure() of the owner */
    uint16_t type;      /* the structure's own, 1...65535 */
    uint16_t reserved;
    uint64_t address;   /* its own */
    uint64_t version;   /* number of the transaction that changed it last */
};
#define RNVM_NODE 32
#define RNVM_NODE_BYTES_MAX (RNVM_VALUE_BYTES_MAX + RNVM_PAGE)

/* Types that this package uses itself. */
#define RNVM_TYPE_SLABS 0xffff /* heads of the lists of slabs: the first node of a structure */
#define RNVM_TYPE_SLAB 0xfffe  /* the beginning of a block that is cut into slots */

/* Slots of these sizes share a block; a longer node has blocks of its own.  A class is used only if
 * a block takes four of its slots. */
#define RNVM_CLASSES 16
static const uint32_t rnvm_class_bytes[RNVM_CLASSES] = {64, 96, 128, 192, 256, 384, 512, 768, 1008,
                                                        1344, 2016, 4032, 8128, 16320, 32704,
                                                        65472};

struct rnvm_slabs {
    struct rnvm_node node;
    uint64_t partial[RNVM_CLASSES]; /* address of the first slab of each class with a free slot,
                                     * or 0 */
    uint64_t blocks;                /* blocks of the structure, those of its root included */
    uint64_t bytes;                 /* bytes of its allocated nodes */
    uint64_t spare[2];
};

struct rnvm_slab {
    struct rnvm_node node;
    uint32_t slot;      /* bytes of a slot */
    uint32_t slots;
    uint32_t first;     /* offset of the first slot in the block */
    uint32_t used;
    uint64_t next;      /* slab of the class with a free slot, or 0; both are 0 in a full one */
    uint64_t previous;
    uint64_t taken[];   /* a bit for each slot */
};

_Static_assert(sizeof(struct rnvm_node) == RNVM_NODE, "node");
_Static_assert(sizeof(struct rnvm_slabs) == 192, "slabs");
_Static_assert(sizeof(struct rnvm_slab) == 64, "slab");

static inline uint32_t rnvm_node_crc(uint32_t seed, const struct rnvm_node *node)
{
    return rfp_crc32c(seed, (const char *)node + sizeof node->crc, node->length - sizeof node->crc);
}

/* Returns the class for a node of this length, or RNVM_CLASSES: it has blocks of its own. */
static inline uint32_t rnvm_class_of(uint32_t length, uint64_t block)
{
    uint32_t i;
    for (i = 0; i < RNVM_CLASSES && rnvm_class_bytes[i] <= block / 4; i++)
        if (length <= rnvm_class_bytes[i]) return i;
    return RNVM_CLASSES;
}

/* Returns how many slots of this size a block takes; *first: the offset of the first one. */
static inline uint32_t rnvm_slab_slots(uint64_t block, uint32_t slot, uint32_t *first)
{
    uint32_t slots = (uint32_t)((block - sizeof(struct rnvm_slab)) / slot);
    while (sizeof(struct rnvm_slab) + (slots + 63) / 64 * 8 + (uint64_t)slots * slot > block)
        slots--;
    *first = (uint32_t)(block - (uint64_t)slots * slot);
    return slots;
}

#endif

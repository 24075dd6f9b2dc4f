/* The versions of a multi-version structure.
 *
 *   root node   0        32        64        96
 *               +--------+---------+---------+-----------------------+
 *               | header | half 0  | half 1  | the structure's own   |
 *               +--------+---------+---------+-----------------------+
 *
 * A transaction writes the half that is not the newest one, so the version before it stays whole
 * beside it.  A reader checks each half by itself: the CRC of the whole node is that of one moment
 * only, and a reader must not wait for one.  Zeros are whole: version 0, without a node.
 *
 * The root is the last node of its transaction that is applied.  So all nodes of a version are in
 * the pool when its half is.
 */
#ifndef RNVM_FORMAT_VERSION_H
#define RNVM_FORMAT_VERSION_H

#include "rnvm/format/node.h"

struct rnvm_version {
    uint64_t version;   /* number of the transaction that wrote it */
    uint64_t top;       /* address of its first node, or 0 */
    uint64_t count;     /* the structure's own, such as the number of keys */
    uint32_t height;    /* the structure's own */
    uint32_t crc;       /* of all before it, seeded with the pool and the node's address */
};
#define RNVM_VERSIONS 2

struct rnvm_versions {  /* the beginning of the root node */
    struct rnvm_node node;
    struct rnvm_version halves[RNVM_VERSIONS];
};

_Static_assert(sizeof(struct rnvm_version) == 32, "version");
_Static_assert(sizeof(struct rnvm_versions) == 96, "versions");

static inline uint32_t rnvm_version_crc(uint32_t seed, uint64_t root, const struct rnvm_version *v)
{
    uint32_t crc = rfp_crc32c(seed, &root, sizeof root);
    return rfp_crc32c(crc, v, sizeof *v - sizeof v->crc);
}

static inline int rnvm_version_whole(uint32_t seed, uint64_t root, const struct rnvm_version *v)
{
    if (!(v->version | v->top | v->count | v->height | v->crc)) return 1;
    return v->version && v->crc == rnvm_version_crc(seed, root, v);
}

/* Returns the newest whole half whose version is at most `most`, or -1: there is none. */
static inline int rnvm_version_newest(uint32_t seed, uint64_t root,
                                      const struct rnvm_version *halves, uint64_t most)
{
    int i, found = -1;
    for (i = 0; i < RNVM_VERSIONS; i++)
        if (halves[i].version <= most && rnvm_version_whole(seed, root, halves + i)
            && (found < 0 || halves[i].version > halves[found].version))
            found = i;
    return found;
}

/* The word by which a session publishes the oldest version of a structure that it uses; 0: none.
 * `turn` makes each word a new one, so that a word that stays is an abandoned one. */
#define RNVM_USES_SNAPSHOT 1ull
static inline uint64_t rnvm_uses(uint64_t version, uint64_t turn, int snapshot)
{
    return (version + 1) << 16 | (turn & 0x7fff) << 1 | (snapshot ? RNVM_USES_SNAPSHOT : 0);
}
static inline uint64_t rnvm_uses_version(uint64_t word) { return (word >> 16) - 1; }

#endif

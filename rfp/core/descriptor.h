/* What two shm processes tell each other about their memory and their ends of a connection, beside the file descriptors.
 *
 * Fixed size, little-endian, naturally aligned; checksum: CRC32C of all that stands before it.  It finds damage and
 * mismatched versions; honesty is checked elsewhere (memfd.h), against what the kernel says.
 */
#ifndef RFP_CORE_DESCRIPTOR_H
#define RFP_CORE_DESCRIPTOR_H

#include "rfp/core/crc32c.h"

#define RFP_DESCRIPTOR_VERSION 1
#define RFP_PROVIDER_SHM 1
#define RFP_REGION_MAGIC 0x4d504652u /* "RFPM" */
#define RFP_PAIR_MAGIC 0x51504652u   /* "RFPQ" */

struct rfp_region_descriptor {
    uint32_t magic;
    uint16_t version;
    uint16_t provider;
    uint64_t length;
    uint32_t rights;
    uint32_t key;
    uint32_t reserved;
    uint32_t checksum;
};

struct rfp_pair_descriptor {
    uint32_t magic;
    uint16_t version;
    uint16_t provider;
    uint64_t bell;       /* offset of the sleeping word in its region */
    uint64_t engine;     /* offset of the bell line whose in-bound engine this end shares */
    uint64_t rtt;        /* of the network that this end emulates, in ns; all three 0: none */
    uint64_t in_gap;     /* ns between two requests of its in-bound engine; 0: no limit */
    uint64_t out_gap;    /* the same, out-bound */
    uint32_t key;        /* of the region in which the bell stands */
    uint32_t reserved;
    uint32_t unused;
    uint32_t checksum;
};

_Static_assert(sizeof(struct rfp_region_descriptor) == 32, "region descriptor");
_Static_assert(sizeof(struct rfp_pair_descriptor) == 64, "pair descriptor");

/* What rfp_descriptor_check found. */
#define RFP_DESCRIPTOR_GOOD 0
#define RFP_DESCRIPTOR_SIZE 1
#define RFP_DESCRIPTOR_MAGIC 2
#define RFP_DESCRIPTOR_VERSION_UNKNOWN 3
#define RFP_DESCRIPTOR_PROVIDER 4
#define RFP_DESCRIPTOR_CHECKSUM 5

static inline uint32_t rfp_descriptor_sum(const void *descriptor, size_t size)
{
    return rfp_crc32c(0, descriptor, size - sizeof(uint32_t));
}

/* received, n: what the peer sent.  copy: private, `size` bytes; filled when the result is GOOD.  Both kinds begin alike. */
static inline int rfp_descriptor_check(const void *received, size_t n, void *copy, size_t size, uint32_t magic)
{
    struct rfp_region_descriptor start;
    uint32_t checksum;
    if (n != size) return RFP_DESCRIPTOR_SIZE;
    memcpy(copy, received, size);
    memcpy(&start, copy, offsetof(struct rfp_region_descriptor, length));
    if (start.magic != magic) return RFP_DESCRIPTOR_MAGIC;
    if (start.version != RFP_DESCRIPTOR_VERSION) return RFP_DESCRIPTOR_VERSION_UNKNOWN;
    if (start.provider != RFP_PROVIDER_SHM) return RFP_DESCRIPTOR_PROVIDER;
    memcpy(&checksum, (const char *)copy + size - sizeof checksum, sizeof checksum);
    if (checksum != rfp_descriptor_sum(copy, size)) return RFP_DESCRIPTOR_CHECKSUM;
    return RFP_DESCRIPTOR_GOOD;
}

#endif

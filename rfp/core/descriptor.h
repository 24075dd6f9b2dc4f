/* The descriptors by which two processes describe their memory and their ends of a connection (shm:
 * beside the file descriptors).
 *
 * Fixed size, little-endian, naturally aligned; checksum: CRC32C of all bytes before it.  The
 * checksum detects damage and mismatched versions; honesty is checked elsewhere: on shm (memfd.h)
 * against the kernel's view, on verbs by the target's device.
 */
#ifndef RFP_CORE_DESCRIPTOR_H
#define RFP_CORE_DESCRIPTOR_H

#include "rfp/core/crc32c.h"

#define RFP_DESCRIPTOR_VERSION 1
#define RFP_PROVIDER_SHM 1
#define RFP_PROVIDER_VERBS 2
#define RFP_REGION_MAGIC 0x4d504652u /* "RFPM" */
#define RFP_PAIR_MAGIC 0x51504652u   /* "RFPQ" */
#define RFP_FILE_MAGIC 0x46504652u   /* "RFPF" */

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
    uint64_t eventcount; /* offset of the eventcount word in its region */
    uint64_t engine;     /* offset of the eventcount line whose in-bound engine it uses */
    uint64_t rtt;        /* of the network that this end emulates, in ns; all three 0: none */
    uint64_t in_gap;     /* ns between two requests of its in-bound engine; 0: no limit */
    uint64_t out_gap;    /* the same, out-bound */
    uint32_t key;        /* of the region that contains the eventcount word */
    uint32_t reserved;
    uint32_t unused;
    uint32_t checksum;
};

struct rfp_verbs_region_descriptor {
    uint32_t magic;
    uint16_t version;
    uint16_t provider;
    uint64_t length;
    uint32_t rights;
    uint32_t key;        /* rkey */
    uint64_t address;    /* of the first byte, as an address of the owner's device */
    uint32_t reserved;
    uint32_t checksum;
};

struct rfp_verbs_pair_descriptor {
    uint32_t magic;
    uint16_t version;
    uint16_t provider;
    uint32_t number;     /* of the queue pair */
    uint32_t sequence;   /* of the first packet that it sends, 24 bits */
    uint8_t gid[16];
    uint16_t lid;        /* 0 on Ethernet */
    uint8_t mtu;         /* enum ibv_mtu: 1 = 256 ... 5 = 4096 bytes */
    uint8_t link;        /* enum: 1 InfiniBand, 2 Ethernet */
    uint8_t reads_in;    /* READs and atomics that it executes at once */
    uint8_t reads_out;   /* READs and atomics that it sends at once */
    uint8_t unused[2];
    uint32_t reserved;
    uint32_t checksum;
};

/* A region over a range of a file (shm). */
struct rfp_file_descriptor {
    uint32_t magic;
    uint16_t version;
    uint16_t provider;
    uint64_t length;
    uint64_t offset;     /* in the file */
    uint32_t rights;
    uint32_t key;
    uint32_t reserved;
    uint32_t checksum;
};

_Static_assert(sizeof(struct rfp_region_descriptor) == 32, "region descriptor");
_Static_assert(sizeof(struct rfp_file_descriptor) == 40, "file descriptor");
_Static_assert(sizeof(struct rfp_pair_descriptor) == 64, "pair descriptor");
_Static_assert(sizeof(struct rfp_verbs_region_descriptor) == 40, "region descriptor over verbs");
_Static_assert(sizeof(struct rfp_verbs_pair_descriptor) == 48, "pair descriptor over verbs");

/* The results of rfp_descriptor_check. */
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

/* received, n: the bytes that the peer sent.  copy: private, `size` bytes; filled if the result is
 * GOOD.  All kinds begin and end alike.  The provider is checked before the size, which depends on
 * it. */
static inline int rfp_descriptor_check(const void *received, size_t n, void *copy, size_t size,
                                       uint32_t magic, uint16_t provider)
{
    struct rfp_region_descriptor start;
    uint32_t checksum;
    if (n < sizeof start) return RFP_DESCRIPTOR_SIZE;
    memcpy(&start, received, offsetof(struct rfp_region_descriptor, length));
    if (start.magic != magic) return RFP_DESCRIPTOR_MAGIC;
    if (start.version != RFP_DESCRIPTOR_VERSION) return RFP_DESCRIPTOR_VERSION_UNKNOWN;
    if (start.provider != provider) return RFP_DESCRIPTOR_PROVIDER;
    if (n != size) return RFP_DESCRIPTOR_SIZE;
    memcpy(copy, received, size);
    memcpy(&checksum, (const char *)copy + size - sizeof checksum, sizeof checksum);
    if (checksum != rfp_descriptor_sum(copy, size)) return RFP_DESCRIPTOR_CHECKSUM;
    return RFP_DESCRIPTOR_GOOD;
}

#endif

/* The hash of keys: XXH3-64, from the vendored library, compiled into each including module. */
#ifndef RFP_CORE_HASH_H
#define RFP_CORE_HASH_H

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include "rfp/vendor/xxhash.h"

static inline uint64_t rfp_hash(const void *key, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(key, n, seed);
}

#endif

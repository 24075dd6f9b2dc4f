/* A pseudo-random sequence for tests and for sampling (xorshift64*); never for secrets.  The state
 * must not be 0: seed it with rfp_random_mix. */
#ifndef RFP_CORE_RANDOM_H
#define RFP_CORE_RANDOM_H

#include <stdint.h>

#define RFP_RANDOM_STEP 0x9e3779b97f4a7c15ull /* 2^64 / the golden ratio, odd */

/* One number from one number (splitmix64): close inputs give unrelated results. */
static inline uint64_t rfp_random_mix(uint64_t x)
{
    x += RFP_RANDOM_STEP;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t rfp_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* A number from 0 to n - 1; n: below 2^32. */
static inline uint64_t rfp_random_below(uint64_t *state, uint64_t n)
{
    return (rfp_random(state) >> 32) * n >> 32;
}

#endif

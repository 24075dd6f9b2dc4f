/* Appends zero bytes to a CRC32C without reading them: the checksum of a changed block then costs
 * only its changed ranges.
 *
 *   The checksum is linear: for blocks of one length, crc(new) = crc(old) ^ raw(old ^ new), where
 *   raw() begins with 0 and inverts nothing.  Zero bytes before a range do not change raw(); n zero
 *   bytes behind it multiply it by x^8n modulo the polynomial.
 *
 *       old ^ new    | 0 0 0 0 | d d d | 0 0 0 0 0 0 | d | 0 0 0 |
 *       raw                     ^ range ^ append 48   ^     ^ append 24
 */
#ifndef RFP_CORE_CRC32C_ZEROS_H
#define RFP_CORE_CRC32C_ZEROS_H

#include "rfp/core/crc32c.h"

#define RFP_CRC32C_DIGITS 3
#define RFP_CRC32C_DIGIT_BITS 6 /* of a number of words of 8 bytes */
#define RFP_CRC32C_ZEROS_MAX (8u << RFP_CRC32C_DIGITS * RFP_CRC32C_DIGIT_BITS) /* below: 2 MiB */

struct rfp_crc32c_powers { /* x^(64 w - 33) for w = i * 64^d, i above 0; reflected */
    uint32_t of[RFP_CRC32C_DIGITS][1 << RFP_CRC32C_DIGIT_BITS];
};

/* Returns whether this processor appends zeros faster than it reads them. */
static inline int rfp_crc32c_appends_zeros(void)
{
    return rfp_crc32c_kind() == RFP_CRC32C_STREAMS;
}

/* Returns the product of two reflected polynomials. */
static inline uint32_t rfp_crc32c_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0, bit;
    for (bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = b & 1 ? b >> 1 ^ 0x82f63b78u : b >> 1;
    }
    return product;
}

static inline void rfp_crc32c_powers_fill(struct rfp_crc32c_powers *p)
{
    uint32_t power = 1, step = 1u << 31; /* x^(64 - 33), x^0 */
    int digit, i;
    for (i = 0; i < 64; i++) step = rfp_crc32c_multiply(step, 1u << 30); /* x^64 */
    for (digit = 0; digit < RFP_CRC32C_DIGITS; digit++) {
        for (i = 1; i < 1 << RFP_CRC32C_DIGIT_BITS; i++) {
            p->of[digit][i] = power;
            power = rfp_crc32c_multiply(power, step);
        }
        for (i = 0; i < RFP_CRC32C_DIGIT_BITS; i++) step = rfp_crc32c_multiply(step, step);
    }
}

/* Returns raw() of the bytes that were covered by crc, then these. */
static inline uint32_t rfp_crc32c_raw(uint32_t crc, const void *data, size_t n)
{
    return ~rfp_crc32c(~crc, data, n);
}

/* Returns raw() of the bytes that were covered by crc, then n zeros: a multiple of 8, below
 * RFP_CRC32C_ZEROS_MAX.  Only if rfp_crc32c_appends_zeros(). */
static inline uint32_t rfp_crc32c_zeros(const struct rfp_crc32c_powers *p, uint32_t crc, size_t n)
{
#if defined(__x86_64__)
    size_t words = n / 8;
    for (int digit = 0; words; digit++, words >>= RFP_CRC32C_DIGIT_BITS) {
        size_t i = words & ((1 << RFP_CRC32C_DIGIT_BITS) - 1);
        if (i) crc = rfp_crc32c_shift(crc, p->of[digit][i]);
    }
#else
    (void)p;
    (void)n;
#endif
    return crc;
}

#endif

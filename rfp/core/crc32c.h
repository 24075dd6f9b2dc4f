/* CRC32C (Castagnoli), the checksum of every wire and pool format: crc32c(0, "123456789") ==
 * 0xe3069283.
 *
 * Inline so that the few words of a small request cost a few instructions.  The code checks at run
 * time whether the processor has the instruction, so that one wheel serves all; without the
 * instruction a table does the work, some 200 times slower.
 *
 * It queries the processor itself (CPUID, or the kernel's HWCAP), not the compiler: a default build
 * for aarch64 does not define __ARM_FEATURE_CRC32, clang takes no target("+crc"), and
 * __builtin_cpu_supports() needs a runtime library of the compiler. */
#ifndef RFP_CORE_CRC32C_H
#define RFP_CORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

enum rfp_crc32c_kind {
    RFP_CRC32C_UNKNOWN,
    RFP_CRC32C_TABLE,
    RFP_CRC32C_INSTRUCTION,
    RFP_CRC32C_STREAMS
};

static inline int rfp_crc32c_detect(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 20)) return RFP_CRC32C_TABLE; /* SSE 4.2 */
    return c & 1u << 1 ? RFP_CRC32C_STREAMS : RFP_CRC32C_INSTRUCTION;                /* PCLMULQDQ */
#elif defined(__aarch64__)
    /* HWCAP_CRC32 */
    return getauxval(AT_HWCAP) & 1ul << 7 ? RFP_CRC32C_INSTRUCTION : RFP_CRC32C_TABLE;
#else
    return RFP_CRC32C_TABLE;
#endif
}

static inline int rfp_crc32c_kind(void)
{
    static int known = RFP_CRC32C_UNKNOWN;
    int kind = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (kind == RFP_CRC32C_UNKNOWN) {
        kind = rfp_crc32c_detect();
        __atomic_store_n(&known, kind, __ATOMIC_RELAXED);
    }
    return kind;
}

static inline uint32_t rfp_crc32c_portable(uint32_t crc, const unsigned char *p, size_t n)
{
    /* Half-byte table: 64 bytes, enough for the machines without the instruction. */
    static const uint32_t table[16] = {
        0x00000000u, 0x105ec76fu, 0x20bd8edeu, 0x30e349b1u, 0x417b1dbcu, 0x5125dad3u,
        0x61c69362u, 0x7198540du, 0x82f63b78u, 0x92a8fc17u, 0xa24bb5a6u, 0xb21572c9u,
        0xc38d26c4u, 0xd3d3e1abu, 0xe330a81au, 0xf36e6f75u,
    };
    while (n--) {
        crc ^= *p++;
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static inline uint32_t
rfp_crc32c_hardware(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; n; n--) crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}

/* The instruction takes three cycles, but one can start in each: long input uses three streams. */
#define RFP_CRC32C_LONG 512
#define RFP_CRC32C_SHORT 128
/* x^(8n - 33) modulo the polynomial, reflected: appends n zero bytes to a checksum. */
#define RFP_CRC32C_LONG_ONE 0xdd7e3b0cu  /* n = 512 */
#define RFP_CRC32C_LONG_TWO 0x170076fau  /* n = 1024 */
#define RFP_CRC32C_SHORT_ONE 0x0d3b6092u /* n = 128 */
#define RFP_CRC32C_SHORT_TWO 0xb9e02b86u /* n = 256 */

__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
rfp_crc32c_shift(uint32_t crc, uint32_t power)
{
    typedef long long lanes __attribute__((vector_size(16)));
    lanes product = __builtin_ia32_pclmulqdq128((lanes){crc, 0}, (lanes){power, 0}, 0);
    return (uint32_t)__builtin_ia32_crc32di(0, (uint64_t)product[0]);
}

/* Three streams of this many bytes, one behind the other. */
__attribute__((target("sse4.2,pclmul"), always_inline)) static inline uint32_t
rfp_crc32c_three(uint32_t crc, const unsigned char *p, int stream, uint32_t one, uint32_t two)
{
    uint64_t a = crc, b = 0, c = 0, word;
    for (int i = 0; i < stream; i += 8) {
        memcpy(&word, p + i, 8);
        a = __builtin_ia32_crc32di(a, word);
        memcpy(&word, p + i + stream, 8);
        b = __builtin_ia32_crc32di(b, word);
        memcpy(&word, p + i + 2 * stream, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    return rfp_crc32c_shift((uint32_t)a, two) ^ rfp_crc32c_shift((uint32_t)b, one) ^ (uint32_t)c;
}

__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
rfp_crc32c_streams(uint32_t crc, const unsigned char *p, size_t n)
{
    for (; n >= 3 * RFP_CRC32C_LONG; n -= 3 * RFP_CRC32C_LONG, p += 3 * RFP_CRC32C_LONG)
        crc = rfp_crc32c_three(crc, p, RFP_CRC32C_LONG, RFP_CRC32C_LONG_ONE, RFP_CRC32C_LONG_TWO);
    for (; n >= 3 * RFP_CRC32C_SHORT; n -= 3 * RFP_CRC32C_SHORT, p += 3 * RFP_CRC32C_SHORT)
        crc = rfp_crc32c_three(crc, p, RFP_CRC32C_SHORT, RFP_CRC32C_SHORT_ONE,
                               RFP_CRC32C_SHORT_TWO);
    return rfp_crc32c_hardware(crc, p, n);
}
#elif defined(__aarch64__)
/* In assembly, which every compiler accepts without a flag. */
static inline uint32_t rfp_crc32c_hardware(uint32_t crc, const unsigned char *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    for (; n; n--, p++)
        __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)*p));
    return crc;
}
#endif

/* crc: 0, or the checksum of the bytes before these. */
static inline uint32_t rfp_crc32c(uint32_t crc, const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    crc = ~crc;
#if defined(__x86_64__)
    if (n >= 3 * RFP_CRC32C_SHORT && rfp_crc32c_kind() == RFP_CRC32C_STREAMS)
        return ~rfp_crc32c_streams(crc, p, n);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    if (rfp_crc32c_kind() >= RFP_CRC32C_INSTRUCTION) return ~rfp_crc32c_hardware(crc, p, n);
#endif
    return ~rfp_crc32c_portable(crc, p, n);
}

#endif

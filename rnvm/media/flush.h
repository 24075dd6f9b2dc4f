/* From the caches to the medium: the processor's instructions for it, chosen at run time.
 *
 *   x86-64    clwb (keeps the line in the cache), else clflushopt, else clflush; then sfence
 *   aarch64   dc cvap (to the point of persistence), if the kernel reports it; then dsb
 *
 * If there is none, rnvm_flush_kind() says so, and no medium may rely on it.
 */
#ifndef RNVM_MEDIA_FLUSH_H
#define RNVM_MEDIA_FLUSH_H

#include <stddef.h>
#include <stdint.h>

#include "rfp/core/atomics.h"
#include "rfp/core/limits.h"

#define RNVM_STREAM 512 /* stores of this length or more bypass the caches */

enum rnvm_flush_kind { RNVM_FLUSH_UNKNOWN, RNVM_FLUSH_NONE, RNVM_FLUSH_CLFLUSH,
                      RNVM_FLUSH_CLFLUSHOPT, RNVM_FLUSH_CLWB, RNVM_FLUSH_CVAP };

#if defined(__x86_64__)
#include <cpuid.h>
#include <emmintrin.h>

static inline int rnvm_flush_detect(void)
{
    unsigned a, b, c, d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        if (b & 1u << 24) return RNVM_FLUSH_CLWB;
        if (b & 1u << 23) return RNVM_FLUSH_CLFLUSHOPT;
    }
    return RNVM_FLUSH_CLFLUSH; /* part of x86-64 */
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static inline int rnvm_flush_detect(void)
{
    unsigned long capabilities = getauxval(AT_HWCAP);
    return capabilities & 1ul << 16 ? RNVM_FLUSH_CVAP : RNVM_FLUSH_NONE; /* HWCAP_DCPOP */
}
#else
static inline int rnvm_flush_detect(void) { return RNVM_FLUSH_NONE; }
#endif

static inline int rnvm_flush_kind(void)
{
    static int known = RNVM_FLUSH_UNKNOWN;
    int kind = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (kind == RNVM_FLUSH_UNKNOWN) {
        kind = rnvm_flush_detect();
        __atomic_store_n(&known, kind, __ATOMIC_RELAXED);
    }
    return kind;
}

/* Starts the write-back of the lines of a range.  The prefixes encode the newer instructions on top
 * of clflush in a way that every assembler knows: 66 clflush is clflushopt, 66 xsaveopt is clwb. */
static inline void rnvm_flush(const void *from, size_t n)
{
    const char *line = (const char *)((uintptr_t)from & ~(uintptr_t)(RFP_LINE - 1));
    const char *end = (const char *)from + n;
    if (!n) return;
#if defined(__x86_64__)
    switch (rnvm_flush_kind()) {
    case RNVM_FLUSH_CLWB:
        for (; line < end; line += RFP_LINE)
            __asm__ __volatile__(".byte 0x66; xsaveopt %0" : "+m"(*(char *)line));
        break;
    case RNVM_FLUSH_CLFLUSHOPT:
        for (; line < end; line += RFP_LINE)
            __asm__ __volatile__(".byte 0x66; clflush %0" : "+m"(*(char *)line));
        break;
    default:
        for (; line < end; line += RFP_LINE)
            __asm__ __volatile__("clflush %0" : "+m"(*(char *)line));
    }
#elif defined(__aarch64__)
    if (rnvm_flush_kind() == RNVM_FLUSH_CVAP)
        for (; line < end; line += RFP_LINE)
            __asm__ __volatile__("sys #3, c7, c12, #1, %0" : : "r"(line) : "memory");
#endif
}

/* Waits until all started write-backs have completed. */
static inline void rnvm_flush_drain(void)
{
#if defined(__x86_64__)
    __asm__ __volatile__("sfence" ::: "memory");
#elif defined(__aarch64__)
    __asm__ __volatile__("dsb sy" ::: "memory");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Stores whole lines and starts their write-back.  The stores bypass the caches: otherwise each
 * line is first fetched from the processor that read it last. */
static inline void rnvm_store_lines(void *to, const void *from, size_t n)
{
#if defined(__x86_64__)
    for (size_t i = 0; i < n; i += 16)
        _mm_stream_si128((__m128i *)((char *)to + i),
                         _mm_loadu_si128((const __m128i *)((const char *)from + i)));
#else
    rfp_copy_out(to, from, n);
    rnvm_flush(to, n);
#endif
}

/* Stores a range and starts its write-back; a long one bypasses the caches, which it would only
 * evict.  Later stores become visible after these: stores that bypass the caches need sfence for
 * that, since a release fence is no instruction on x86. */
static inline void rnvm_store_flushed(void *to, const void *from, size_t n)
{
    if (n >= RNVM_STREAM) {
        size_t head = -(uintptr_t)to & (RFP_LINE - 1);
        size_t body = (n - head) & ~(size_t)(RFP_LINE - 1);
        rfp_copy_out(to, from, head);
        rnvm_flush(to, head);
        rnvm_store_lines((char *)to + head, (const char *)from + head, body);
        to = (char *)to + head + body;
        from = (const char *)from + head + body;
        n -= head + body;
#if defined(__x86_64__)
        _mm_sfence();
#endif
    }
    rfp_copy_out(to, from, n);
    rnvm_flush(to, n);
}

#endif

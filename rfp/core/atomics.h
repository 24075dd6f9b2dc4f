/* Every access to memory that a peer can write goes through this file.
 *
 * The model is C11's, through the compiler's __atomic builtins (they work on plain integers, so the
 * same bytes can be a wire format).  A plain dereference of shared memory is wrong twice: the
 * compiler may read it again after it was checked, and may reorder it freely.  So a field is loaded
 * once, by a function named after the order it needs, and a longer object is copied into private
 * memory first, checked there, and used from there.
 *
 * RFP_NO_FENCES builds the library without its orders and full fences.  It has one purpose: the
 * tests that guard them must fail on it (see docs/testing.md).
 */
#ifndef RFP_CORE_ATOMICS_H
#define RFP_CORE_ATOMICS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef RFP_NO_FENCES
#define RFP_ACQUIRE __ATOMIC_RELAXED
#define RFP_RELEASE __ATOMIC_RELAXED
#define RFP_FENCES 0
#else
#define RFP_ACQUIRE __ATOMIC_ACQUIRE
#define RFP_RELEASE __ATOMIC_RELEASE
#define RFP_FENCES 1
#endif

static inline uint8_t rfp_load8(const void *p)
{
    return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED);
}
static inline uint32_t rfp_load32(const void *p)
{
    return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}
static inline uint64_t rfp_load64(const void *p)
{
    return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
static inline uint32_t rfp_load32_acquire(const void *p)
{
    return __atomic_load_n((const uint32_t *)p, RFP_ACQUIRE);
}
static inline uint64_t rfp_load64_acquire(const void *p)
{
    return __atomic_load_n((const uint64_t *)p, RFP_ACQUIRE);
}

static inline void rfp_store8(void *p, uint8_t v)
{
    __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELAXED);
}
static inline void rfp_store32(void *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
}
static inline void rfp_store64(void *p, uint64_t v)
{
    __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
}
static inline void rfp_store32_release(void *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)p, v, RFP_RELEASE);
}
static inline void rfp_store64_release(void *p, uint64_t v)
{
    __atomic_store_n((uint64_t *)p, v, RFP_RELEASE);
}

static inline uint32_t rfp_exchange32(void *p, uint32_t v)
{
    return __atomic_exchange_n((uint32_t *)p, v, __ATOMIC_ACQ_REL);
}
static inline uint64_t rfp_add64(void *p, uint64_t v)
{
    return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_ACQ_REL);
}
static inline int rfp_compare_swap64(void *p, uint64_t *expected, uint64_t v)
{
    return __atomic_compare_exchange_n((uint64_t *)p, expected, v, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static inline void rfp_fence_acquire(void) { __atomic_thread_fence(RFP_ACQUIRE); }
static inline void rfp_fence_release(void) { __atomic_thread_fence(RFP_RELEASE); }

/* Orders an earlier store before a later load: the one fence that x86 needs too.  Both sides of
 * every "store mine, then load yours" handshake (publish/WAIT, write/eventcount word) use it. */
static inline void rfp_fence_full(void)
{
#ifdef RFP_NO_FENCES
    __asm__ __volatile__("" ::: "memory");
#elif defined(__x86_64__)
    /* A locked add to the stack is the same fence as mfence at about a third of its cost. */
    __asm__ __volatile__("lock; addl $0,-8(%%rsp)" ::: "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline void rfp_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline void rfp_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void rfp_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

/* From this size on a copy uses the C library's memcpy (vector moves): too long for word loads to
 * pay, and never interpreted before it is complete.  The barriers keep the compiler from merging it
 * with other accesses.  A very long memcpy may store past the caches, and x86 does not order such
 * stores after earlier ones: a fence does. */
#define RFP_BULK 512
#define RFP_STREAMED (256u << 10)

static inline void rfp_copy_bulk(void *to, const void *from, size_t n)
{
#if defined(__x86_64__)
    if (n >= RFP_STREAMED) __builtin_ia32_sfence();
#endif
    __asm__ __volatile__("" : "+r"(to), "+r"(from) : : "memory");
    memcpy(to, from, n);
    __asm__ __volatile__("" : : "r"(to) : "memory");
}

/* Shared memory -> private memory.  Ascending addresses: a word loaded first was published last. */
static inline void rfp_copy_in(void *to, const void *from, size_t n)
{
    char *t = (char *)to;
    const char *f = (const char *)from;
    if (n >= RFP_BULK) {
        rfp_copy_bulk(to, from, n);
        return;
    }
    for (; n && ((uintptr_t)f & 7); n--) *t++ = (char)rfp_load8(f++);
    for (; n >= 8; n -= 8, t += 8, f += 8) {
        uint64_t word = rfp_load64(f);
        memcpy(t, &word, 8);
    }
    for (; n; n--) *t++ = (char)rfp_load8(f++);
}

/* The same, but the first word is loaded before all others, and all of it before later accesses: a
 * writer that publishes with a release store to that word has written the rest before. */
static inline void rfp_fetch(char *to, const char *from, size_t n)
{
    size_t first = 8 - ((uintptr_t)from & 7);
    if (n <= first) {
        rfp_copy_in(to, from, n);
    } else {
        rfp_copy_in(to, from, first);
        rfp_fence_acquire();
        rfp_copy_in(to + first, from + first, n - first);
    }
    rfp_fence_acquire();
}

/* Private memory -> shared memory.  No order: the caller publishes with a release store after. */
static inline void rfp_copy_out(void *to, const void *from, size_t n)
{
    char *t = (char *)to;
    const char *f = (const char *)from;
    if (n >= RFP_BULK) {
        rfp_copy_bulk(to, from, n);
        return;
    }
    for (; n && ((uintptr_t)t & 7); n--) rfp_store8(t++, (uint8_t)*f++);
    for (; n >= 8; n -= 8, t += 8, f += 8) {
        uint64_t word;
        memcpy(&word, f, 8);
        rfp_store64(t, word);
    }
    for (; n; n--) rfp_store8(t++, (uint8_t)*f++);
}

#endif

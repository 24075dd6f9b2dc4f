# The only declarations of rfp/core's headers that all layers use: atomics, assertions, checksum,
# clock, waiting, random numbers, hash.  All are inline, so this file has no module.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "rfp/core/atomics.h" nogil:
    uint8_t rfp_load8(const void *p)
    uint32_t rfp_load32(const void *p)
    uint64_t rfp_load64(const void *p)
    uint32_t rfp_load32_acquire(const void *p)
    uint64_t rfp_load64_acquire(const void *p)
    void rfp_store8(void *p, uint8_t v)
    void rfp_store32(void *p, uint32_t v)
    void rfp_store64(void *p, uint64_t v)
    void rfp_store32_release(void *p, uint32_t v)
    void rfp_store64_release(void *p, uint64_t v)
    uint32_t rfp_exchange32(void *p, uint32_t v)
    uint64_t rfp_add64(void *p, uint64_t v)
    bint rfp_compare_swap64(void *p, uint64_t *expected, uint64_t v)
    void rfp_fence_acquire()
    void rfp_fence_release()
    void rfp_fence_full()
    void rfp_pause()
    void rfp_prefetch(const void *p)
    void rfp_prefetch_write(const void *p)
    void rfp_copy_in(void *to, const void *source, size_t n)
    void rfp_fetch(char *to, const char *source, size_t n)
    void rfp_copy_out(void *to, const void *source, size_t n)

cdef extern from "rfp/core/assert.h" nogil:
    """
    #ifdef NDEBUG
    #define RFP_ASSERTS 0
    #else
    #define RFP_ASSERTS 1
    #endif
    """
    bint RFP_ASSERTS           # whether this build contains assertions
    void RFP_ASSERT(bint condition)

cdef extern from "rfp/core/crc32c.h" nogil:
    enum:
        RFP_CRC32C_TABLE
        RFP_CRC32C_INSTRUCTION
        RFP_CRC32C_STREAMS
    int rfp_crc32c_kind()
    uint32_t rfp_crc32c(uint32_t crc, const void *data, size_t n)

cdef extern from "rfp/core/crc32c_zeros.h" nogil:
    struct rfp_crc32c_powers:
        pass
    bint rfp_crc32c_appends_zeros()
    void rfp_crc32c_powers_fill(rfp_crc32c_powers *p)
    uint32_t rfp_crc32c_raw(uint32_t crc, const void *data, size_t n)
    uint32_t rfp_crc32c_zeros(const rfp_crc32c_powers *p, uint32_t crc, size_t n)

cdef extern from "rfp/core/clock.h" nogil:
    uint64_t rfp_now()
    uint64_t rfp_boot_now()
    uint64_t rfp_ticks()
    double rfp_tick_length(uint64_t now, uint64_t ticks)

cdef extern from "rfp/core/futex.h" nogil:
    int rfp_futex_wait(const void *word, uint32_t expected, uint64_t ns)
    void rfp_futex_wake(const void *word)

cdef extern from "rfp/core/eventcount.h" nogil:
    struct rfp_eventcount:
        uint32_t word
        uint64_t in_bound
    enum:
        RFP_EVENTCOUNT_WAITING
        RFP_EVENTCOUNT_POLLED
    uint32_t rfp_eventcount_prepare_wait(uint32_t *word, uint32_t armed)
    void rfp_eventcount_cancel_wait(uint32_t *word)
    int rfp_eventcount_wait(uint32_t *word, uint32_t armed, uint64_t ns)
    int rfp_eventcount_wait_polled(uint32_t *word, int fd, uint64_t ns, int *ended)
    struct rfp_waker:
        int fd
        int closed
        uint64_t debt
    void rfp_eventcount_notify(uint32_t *word, rfp_waker *w)

cdef extern from "rfp/core/adaptive_spin.h" nogil:
    struct rfp_spin:
        uint64_t ns
        uint32_t skip
    uint64_t rfp_spin_ns(const rfp_spin *s)
    void rfp_spin_won(rfp_spin *s)
    void rfp_spin_lost(rfp_spin *s)

cdef extern from "rfp/core/random.h" nogil:
    const uint64_t RFP_RANDOM_STEP
    uint64_t rfp_random_mix(uint64_t x)
    uint64_t rfp_random(uint64_t *state)
    uint64_t rfp_random_below(uint64_t *state, uint64_t n)

cdef extern from "rfp/core/hash.h" nogil:
    uint64_t rfp_hash(const void *key, size_t n, uint64_t seed)

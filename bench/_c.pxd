# The C headers of rfp/core that the benchmark's loops use: declarations only.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "rfp/core/clock.h" nogil:
    uint64_t now "rfp_now"() noexcept                  # CLOCK_MONOTONIC, ns

cdef extern from "rfp/core/atomics.h" nogil:
    uint8_t load8 "rfp_load8"(const void *p) noexcept
    uint32_t load32 "rfp_load32"(const void *p) noexcept
    uint64_t load64 "rfp_load64"(const void *p) noexcept
    uint32_t load32_acquire "rfp_load32_acquire"(const void *p) noexcept
    uint64_t load64_acquire "rfp_load64_acquire"(const void *p) noexcept
    void store8 "rfp_store8"(void *p, uint8_t v) noexcept
    void store32 "rfp_store32"(void *p, uint32_t v) noexcept
    void store64 "rfp_store64"(void *p, uint64_t v) noexcept
    void store32_release "rfp_store32_release"(void *p, uint32_t v) noexcept
    void store64_release "rfp_store64_release"(void *p, uint64_t v) noexcept
    uint32_t exchange32 "rfp_exchange32"(void *p, uint32_t v) noexcept
    uint64_t add64 "rfp_add64"(void *p, uint64_t v) noexcept
    void fence_full "rfp_fence_full"() noexcept
    void pause "rfp_pause"() noexcept
    void prefetch "rfp_prefetch"(const void *p) noexcept
    void copy_in "rfp_copy_in"(void *to, const void *source, size_t n) noexcept
    void copy_out "rfp_copy_out"(void *to, const void *source, size_t n) noexcept

cdef extern from "rfp/core/hash.h" nogil:
    uint64_t hash_bytes "rfp_hash"(const void *key, size_t n, uint64_t seed) noexcept

/* Time: CLOCK_MONOTONIC, in nanoseconds.  A deadline is an absolute value of it; 0: no deadline. */
#ifndef RFP_CORE_CLOCK_H
#define RFP_CORE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t rfp_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The same clock for all processes of a host, which also counts while the machine sleeps: for what
 * another host relies on. */
static inline uint64_t rfp_boot_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The processor's own counter, at less than half the cost of rfp_now(): to time one request. */
static inline uint64_t rfp_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return rfp_now();
#endif
}

/* Nanoseconds per tick, from an earlier moment (its values of rfp_now and rfp_ticks) to now. */
static inline double rfp_tick_length(uint64_t now, uint64_t ticks)
{
    uint64_t passed = rfp_ticks() - ticks;
    return passed ? (double)(rfp_now() - now) / (double)passed : 1.0;
}

#endif

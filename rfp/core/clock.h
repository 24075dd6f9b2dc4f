/* Time: CLOCK_MONOTONIC in nanoseconds.  Deadlines are absolute values of it; 0 means "no deadline". */
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

/* The processor's own counter, at less than half the cost of rfp_now(): for the time that one request took. */
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

/* Nanoseconds per tick, measured from a moment in the past (what rfp_now and rfp_ticks said then) until now. */
static inline double rfp_tick_length(uint64_t now, uint64_t ticks)
{
    uint64_t passed = rfp_ticks() - ticks;
    return passed ? (double)(rfp_now() - now) / (double)passed : 1.0;
}

#endif

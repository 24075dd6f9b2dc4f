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

#endif

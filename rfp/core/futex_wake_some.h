/* Beside futex.h: wakes some of the threads that sleep on a word. */
#ifndef RFP_CORE_FUTEX_WAKE_SOME_H
#define RFP_CORE_FUTEX_WAKE_SOME_H

#include "rfp/core/futex.h"

/* Wakes at most `most` threads; returns how many were asleep. */
static inline int rfp_futex_wake_some(const void *word, uint64_t most)
{
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, most > INT_MAX ? INT_MAX : (int)most, NULL,
                         NULL, 0);
    return woken > 0 ? (int)woken : 0;
}

#endif

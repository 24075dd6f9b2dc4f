/* Futex calls on a 32-bit word that other processes can see. */
#ifndef RFP_CORE_FUTEX_H
#define RFP_CORE_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word == expected, for at most ns nanoseconds.  Returns 1 if woken or if the word
 * had changed, 0 on time-out. */
static inline int rfp_futex_wait(const void *word, uint32_t expected, uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, NULL, 0) == 0) return 1;
    return errno != ETIMEDOUT;
}

/* Wakes all threads that sleep on the word.  A read-only mapping of it is enough: the kernel uses
 * only its address. */
static inline void rfp_futex_wake(const void *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#endif

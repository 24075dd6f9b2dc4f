/* Eventcount: a word on which one thread sleeps, and which a peer loads after it has written data.
 *
 * It is in memory that the sleeper owns and its peers may write: a waker must be able to reset the
 * word, or a wake-up between the sleeper's last check and its futex call would be lost.
 *
 *   sleeper: word = ARMED; full fence; check the data again; sleep while word == ARMED;
 *            word = AWAKE
 *   waker:   write the data; full fence; if word != AWAKE: exchange it for AWAKE, and wake if it
 *            was not yet
 *
 * The two fences are one handshake: at least one side observes the other's store.  A waker that
 * observes ARMED resets the word first, so a sleeper that has not yet reached the kernel finds the
 * word changed and returns at once.  One bit is enough: a waker that resets a later arming than the
 * one it observed causes one superfluous check and no late wake-up.
 */
#ifndef RFP_CORE_EVENTCOUNT_H
#define RFP_CORE_EVENTCOUNT_H

#include "rfp/core/atomics.h"
#include "rfp/core/futex.h"
#include "rfp/core/limits.h"

#define RFP_EVENTCOUNT_AWAKE 0u
#define RFP_EVENTCOUNT_WAITING 1u

/* A cache line of its own, because peers load it after each notify. */
struct rfp_eventcount {
    uint32_t word;
    uint32_t reserved;
    /* emulated network: when the owner's in-bound engine is free (CLOCK_MONOTONIC, ns) */
    uint64_t in_bound;
    uint64_t unused[6];
};
_Static_assert(sizeof(struct rfp_eventcount) == RFP_LINE, "an eventcount fills a cache line");

static inline uint32_t rfp_eventcount_prepare_wait(uint32_t *word)
{
    rfp_store32(word, RFP_EVENTCOUNT_WAITING);
    rfp_fence_full();
    return RFP_EVENTCOUNT_WAITING;
}

static inline void rfp_eventcount_cancel_wait(uint32_t *word)
{
    rfp_store32(word, RFP_EVENTCOUNT_AWAKE);
}

/* Returns 1: woken (perhaps spuriously), 0: time-out.  The word is AWAKE afterwards. */
static inline int rfp_eventcount_wait(uint32_t *word, uint32_t armed, uint64_t ns)
{
    int woken = rfp_futex_wait(word, armed, ns);
    return rfp_exchange32(word, RFP_EVENTCOUNT_AWAKE) != armed || woken;
}

static inline void rfp_eventcount_notify(uint32_t *word)
{
    rfp_fence_full();
    if (rfp_load32(word) == RFP_EVENTCOUNT_AWAKE) return;
    if (rfp_exchange32(word, RFP_EVENTCOUNT_AWAKE) != RFP_EVENTCOUNT_AWAKE) rfp_futex_wake(word);
}

#endif

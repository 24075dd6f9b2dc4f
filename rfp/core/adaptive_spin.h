/* Whether to spin before sleeping: only as long as it pays.
 *
 * Spinning pays where the other side runs on another processor and answers soon.  Where both share one, or the answer takes
 * long, it only keeps others from running; no count of processors tells (threads may be pinned), so it is tried.  A spin that
 * ends in a sleep is lost, and the next 1, 3, 7 ... at most 63 waits sleep at once; one that is won starts afresh. */
#ifndef RFP_CORE_ADAPTIVE_SPIN_H
#define RFP_CORE_ADAPTIVE_SPIN_H

#include <stdint.h>

#define RFP_SPIN_MOST_SKIPPED 63u

struct rfp_spin {
    uint64_t ns;      /* how long; 0: never */
    uint32_t skip;    /* waits that sleep at once before it is tried again */
    uint32_t skipped; /* what skip was set to last */
};

static inline uint64_t rfp_spin_ns(const struct rfp_spin *s) { return s->skip ? 0 : s->ns; }

static inline void rfp_spin_won(struct rfp_spin *s) { s->skipped = 0; }

static inline void rfp_spin_lost(struct rfp_spin *s)
{
    if (s->skip) {
        s->skip--;
        return;
    }
    s->skipped = s->skipped < RFP_SPIN_MOST_SKIPPED ? 2 * s->skipped + 1 : RFP_SPIN_MOST_SKIPPED;
    s->skip = s->skipped;
}

#endif

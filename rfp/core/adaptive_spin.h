/* Whether to spin before sleeping: only as long as it pays.
 *
 * Spinning pays if the other side runs on another processor and responds soon.  If both share a
 * processor, or the response takes long, spinning only keeps other threads from running.  The
 * number of processors does not decide it (threads may be pinned), so the code tries.  A spin that
 * ends in a sleep is lost, and the next 1, 3, 7 ... at most 63 waits sleep at once; a spin that is
 * won resets the count. */
#ifndef RFP_CORE_ADAPTIVE_SPIN_H
#define RFP_CORE_ADAPTIVE_SPIN_H

#include <stdint.h>

#define RFP_SPIN_MOST_SKIPPED 63u

struct rfp_spin {
    uint64_t ns;      /* length of a spin; 0: never spin */
    uint32_t skip;    /* waits that sleep at once before the next try */
    uint32_t skipped; /* value that skip was set to last */
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

/* The parameters of an emulated network, and the engines that model an adapter's rate limits.
 *
 * Each side has one adapter with an out-bound engine, which only its owner advances, and an
 * in-bound engine, which all its peers share; so that word is in the owner's eventcount line
 * (eventcount.h).  An engine is the time at which it is free again: a request takes its turn by
 * advancing it by one gap.  Times are CLOCK_MONOTONIC in nanoseconds: one clock for the host.
 */
#ifndef RFP_CORE_NETEM_H
#define RFP_CORE_NETEM_H

#include "rfp/core/atomics.h"
#include "rfp/core/clock.h"

#define RFP_NETWORK_SLOWEST 1000000000u /* ns; limit of all parameters */

struct rfp_network {
    uint64_t rtt;     /* ns, there and back */
    uint64_t in_gap;  /* ns between two requests of the target's in-bound engine; 0: no limit */
    uint64_t out_gap; /* ns between two requests of the poster's out-bound engine; 0: no limit */
};

static inline int rfp_network_emulated(const struct rfp_network *n)
{
    return (n->rtt | n->in_gap | n->out_gap) != 0;
}

/* The network between two sides, each described by its own adapter.  A side that emulates none is
 * assumed to be like the other; of two round trips the longer one counts. */
static inline struct rfp_network rfp_network_between(const struct rfp_network *from,
                                                     const struct rfp_network *to)
{
    struct rfp_network n;
    n.rtt = from->rtt > to->rtt ? from->rtt : to->rtt;
    n.in_gap = rfp_network_emulated(to) ? to->in_gap : from->in_gap;
    n.out_gap = rfp_network_emulated(from) ? from->out_gap : to->out_gap;
    return n;
}

/* Takes a turn of an engine, not before `earliest`.  Returns when the turn begins. */
static inline uint64_t rfp_engine_turn(uint64_t *engine, uint64_t earliest, uint64_t gap)
{
    uint64_t free, begin;
    if (!gap) return earliest;
    free = rfp_load64(engine);
    do {
        begin = free > earliest ? free : earliest;
        /* Peers can write this word: an absurd value in it must not stop us for ever. */
        if (begin - earliest > RFP_NETWORK_SLOWEST) begin = earliest;
    } while (!rfp_compare_swap64(engine, &free, begin + gap));
    return begin;
}

#endif

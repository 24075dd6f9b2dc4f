# An emulated network between the two ends of a shm connection: requests queue at engines and
# travel for half a round trip.

from libc.stdint cimport uint64_t

from rfp.fabric.fabric cimport provider
from rfp.fabric.shm.datapath cimport pair_state

cdef extern from "rfp/core/netem.h" nogil:
    struct rfp_network:
        uint64_t rtt
        uint64_t in_gap
        uint64_t out_gap
    enum:
        RFP_NETWORK_SLOWEST
    bint rfp_network_emulated(const rfp_network *n)
    uint64_t rfp_engine_turn(uint64_t *engine, uint64_t earliest, uint64_t gap)
    rfp_network rfp_network_between(const rfp_network *from_, const rfp_network *to)

cdef enum:
    SHM_INLINE_BYTES = 256     # bytes of a WRITE that are copied when it is posted

# Queues the requests of a pair from now on.  in_bound: engine of the peer; out_bound: our engine.
# Returns False if there is no memory.
cdef bint emulate(pair_state *state, const rfp_network *network, uint64_t *in_bound,
                  uint64_t *out_bound) noexcept nogil
# Completes all requests under way with a status (FLUSHED) and executes none of them.
cdef void abandon(pair_state *state, int status) noexcept nogil
cdef provider *emulated_operations() noexcept nogil

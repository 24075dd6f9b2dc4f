# The data path of the verbs provider: plain C structs, created and destroyed by _verbs.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from rfp.core.system cimport pthread_mutex_t
from rfp.core.verbs cimport ibv_comp_channel, ibv_cq, ibv_qp, ibv_send_wr, ibv_sge, rfp_verbs
from rfp.fabric.fabric cimport QUEUE_DEPTH, provider

cdef enum:
    RECEIVES = 128             # notifies that a queue pair accepts before its channel is drained
    QUEUES_MAX = 64            # completion queues of a channel
    QUEUE_PAIRS = 64           # queue pairs that share one of them

cdef struct receiver:          # a queue pair, as its channel sees it
    ibv_qp *qp                 # NULL: none
    uint32_t generation        # of this entry: a new queue pair ignores completions of an old one
    uint32_t queue             # index of the completion queue of its receives

cdef struct channel_state:     # the state behind event_channel.state
    const rfp_verbs *verbs
    ibv_comp_channel *events
    int wake                   # eventfd
    # Guards the fields below: queue pairs come and go while the channel's thread works.
    pthread_mutex_t lock
    ibv_cq *queues[QUEUES_MAX]
    uint32_t members[QUEUES_MAX]
    uint32_t used              # queues
    receiver *receivers
    uint32_t places            # capacity of receivers

cdef struct posted:            # an accepted request
    uint64_t id
    uint32_t opcode
    uint32_t status            # status of its completion, unless the device reports another
    bint wanted                # a completion is due also on success

# The state behind queue_pair.state.  Of the requests, indices modulo QUEUE_DEPTH, [head, done) are
# decided and wait to be polled, and [done, tail) are with the device; those from `cut` on were
# posted after the device had failed, and never reached it.
cdef struct pair_state:
    ibv_qp *qp
    ibv_cq *queue
    channel_state *channel
    int pidfd
    int control
    uint32_t head
    uint32_t done
    uint32_t tail
    uint32_t cut
    bint broken
    uint32_t quiet             # posted since the last one that gives a completion on the device
    uint32_t polls
    uint64_t longest           # bytes that a request may have
    int failure                # enum ibv_wc_status of the first request that failed, or 0
    uint32_t failure_detail    # vendor error of that request
    uint32_t failed_opcode     # 0: the probe
    int refused                # errno of a post that the device rejected, or 0
    bint probing               # a WRITE of no bytes is under way, as a liveness probe
    bint waiting               # requests were under way at the last alive()
    uint32_t seen              # value of done at that call
    uint64_t asked             # time of that call, ns
    uint64_t silent            # ns without a response to any of them
    uint64_t patience          # ns of silence after which the peer counts as dead
    posted requests[QUEUE_DEPTH]
    ibv_send_wr work[QUEUE_DEPTH]  # a chain that is built once, and cut for each batch
    ibv_sge ranges[QUEUE_DEPTH]

cdef void pair_prepare(pair_state *p) noexcept nogil
# Completes all requests under way with FLUSHED; the queue pair does not exist any more.
cdef void pair_flush(pair_state *p) noexcept nogil
# Posts n receives for the queue pair at `index` of its channel.  The caller holds the lock, or no
# other thread knows the entry yet.
cdef int receive(receiver *place, uint32_t index, uint32_t n) noexcept nogil
# Takes all completed receives and posts new ones.  The caller holds the lock.
cdef void drain(channel_state *c) noexcept nogil

cdef provider *verbs_operations() noexcept nogil
cdef provider *unconnected_operations() noexcept nogil   # before connect(): flushes all requests
# after close() and in a forked child: flushes all requests too, and touches no memory
cdef provider *closed_operations() noexcept nogil

# One-sided operations on memory that both sides have mapped: the data path of shm, and of the
# providers that build on it.

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_waker
from rfp.fabric.fabric cimport (
    QUEUE_DEPTH, completion, event_channel, provider, queue_pair, work_request,
)

cdef struct pair_state:        # the state behind queue_pair.state
    uint32_t *eventcount       # the eventcount word of the peer; NULL unless connected
    rfp_waker waker            # of a peer that sleeps on a descriptor
    int pidfd
    int control
    uint32_t head              # completions[head % QUEUE_DEPTH] is the oldest one not yet polled
    uint32_t tail
    completion completions[QUEUE_DEPTH]
    void *more                 # state of a provider that queues its requests, else NULL

# Returns the status that a request will complete with, as far as its arguments decide it.
cdef uint32_t check(const work_request *request) noexcept nogil
# Executes a request that has passed check().
cdef void perform(pair_state *state, const work_request *request) noexcept nogil
# Adds a completion; the caller has checked that the ring has room.
cdef void complete(pair_state *state, const work_request *request, uint32_t status) noexcept nogil

# The operations of provider tables that other providers share.
cdef int take_completions(queue_pair *pair, completion *completions, int n) noexcept nogil
cdef int flush_post(queue_pair *pair, work_request *requests, int n) noexcept nogil
cdef bint alive(queue_pair *pair) noexcept nogil
cdef uint32_t prepare_wait(event_channel *channel) noexcept nogil
cdef bint wait(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil
cdef void cancel_wait(event_channel *channel) noexcept nogil
cdef void notify(event_channel *channel) noexcept nogil
cdef void replenish(event_channel *channel) noexcept nogil

cdef provider *direct_operations() noexcept nogil        # at once, on the caller's own core
cdef provider *unconnected_operations() noexcept nogil   # before connect(): flushes all requests
# after close() and in a forked child: flushes all requests too, and touches no memory
cdef provider *closed_operations() noexcept nogil

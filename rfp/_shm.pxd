# The shm provider: the fabric between processes of one host, where a one-sided READ is a load by the reader's own core.
#
# The data path (check, perform, the completion ring) is open to providers that build on shared memory, such as reorder.

from libc.stdint cimport uint32_t, uint64_t

from rfp._fabric cimport (
    EventChannel, Fabric, QueuePair, Region, RemoteRegion, completion, event_channel, provider, queue_pair, work_request)

cdef enum:
    DEPTH = 256                # work requests that may be outstanding; a power of two

cdef struct shm_pair:          # what queue_pair.state points to; providers that build on it put it first in theirs
    uint32_t *bell             # the peer's sleeping word; NULL until connected
    int pidfd
    int control
    uint32_t head              # completions[head % DEPTH] is the oldest one not yet polled
    uint32_t tail
    completion completions[DEPTH]

# The status that a request will complete with, as far as its checks say.
cdef uint32_t check(const work_request *request) noexcept nogil
# Does a request that passed its checks, at once.
cdef void perform(shm_pair *state, const work_request *request) noexcept nogil
# Adds a completion; the caller has seen that there is room.
cdef void complete(shm_pair *state, const work_request *request, uint32_t status) noexcept nogil

# The operations by themselves, for other providers' tables.
cdef int shm_poll(queue_pair *pair, completion *completions, int n) noexcept nogil
cdef int flush_post(queue_pair *pair, work_request *requests, int n) noexcept nogil
cdef bint shm_alive(queue_pair *pair) noexcept nogil
cdef uint32_t shm_arm(event_channel *channel) noexcept nogil
cdef bint shm_sleep(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil
cdef void shm_disarm(event_channel *channel) noexcept nogil
cdef void shm_wake(event_channel *channel) noexcept nogil


cdef class ShmRegion(Region):
    cdef int fd
    cdef object __weakref__
    cdef void release(self) noexcept


cdef class ShmRemoteRegion(RemoteRegion):
    cdef object __weakref__
    cdef void release(self) noexcept


cdef class ShmEventChannel(EventChannel):
    cdef ShmRegion region
    cdef uint64_t offset
    cdef object __weakref__


cdef class ShmQueuePair(QueuePair):
    cdef shm_pair *state
    cdef ShmEventChannel channel
    cdef ShmRemoteRegion bell_region
    cdef bint connected
    cdef bint closed
    cdef object __weakref__
    cdef const provider *operations(self)      # the table from connect() on


cdef class ShmFabric(Fabric):
    # Finishes what queue_pair() of this provider, or of one that builds on it, has begun.
    cdef ShmQueuePair new_pair(self, ShmQueuePair pair, EventChannel channel, int pidfd, int control)

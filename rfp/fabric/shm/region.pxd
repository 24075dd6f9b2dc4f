# The classes of the shm provider: they own the memory, the file descriptors and the structs that
# datapath works on.

from libc.stdint cimport uint32_t, uint64_t

from rfp.fabric.fabric cimport EventChannel, Fabric, QueuePair, Region, RemoteRegion
from rfp.fabric.shm.datapath cimport pair_state
from rfp.fabric.shm.netem cimport rfp_network


cdef class Memory:
    """A memfd mapped in this process; unmapped and closed with the last region over it."""
    cdef char *base
    cdef uint64_t length
    cdef int fd
    # Offset of the eventcount line whose in-bound engine all channels in this memory share.
    cdef uint64_t engine
    cdef void forget(self) noexcept     # in a forked child the mapping does not exist any more


cdef class ShmRegion(Region):
    cdef Memory memory                  # None: over a buffer, or closed
    cdef object buffer                  # the memoryview that keeps the buffer alive
    cdef object __weakref__
    cdef int shared(self) except -1     # raises unless peers can map it


cdef class ShmRemoteRegion(RemoteRegion):
    cdef object __weakref__
    cdef within(self, uint64_t offset, uint64_t n, uint32_t right, str name)
    cdef void release(self) noexcept


cdef class ShmEventChannel(EventChannel):
    cdef ShmRegion region
    cdef uint64_t offset
    cdef object __weakref__


cdef class ShmQueuePair(QueuePair):
    cdef pair_state *state
    cdef rfp_network network            # between this end and the peer
    cdef ShmFabric fabric               # these three are None after close()
    cdef ShmEventChannel channel
    cdef ShmRemoteRegion bell_region    # None before connect()
    cdef object __weakref__
    # For a provider that builds on this one: choose the operations once everything is checked;
    # flush the requests under way.
    cdef begin(self, uint64_t *in_bound)
    cdef void end(self) noexcept


cdef class ShmFabric(Fabric):
    cdef rfp_network network            # of the adapter on this side
    cdef uint64_t out_bound             # the out-bound engine of that adapter
    # Completes the set-up that queue_pair() of this provider, or of one that builds on it, began.
    cdef ShmQueuePair new_pair(self, ShmQueuePair pair, EventChannel channel, int pidfd,
                               int control)

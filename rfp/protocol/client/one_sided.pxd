# READs, WRITEs and atomics over a ring's queue pair, beside its requests: in order, and to their end.
#
# They answer DONE, TIMED_OUT (in both cases nothing can touch local memory any more) or
# DISCONNECTED (then only after the queue pair
# was closed, unless ring.one_sided_done).  ids and flags of the work requests are filled in here;
# deadline: ns of the monotonic clock.

from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport local_region, remote_region, work_request
from rfp.protocol.client.client_ring cimport client_ring

cdef int client_ring_transfers(client_ring *ring, work_request *works, int n, uint64_t deadline) noexcept nogil
cdef int client_ring_staggered(client_ring *ring, work_request *works, int n, uint64_t pause, uint64_t deadline) noexcept nogil
cdef int client_ring_transfer(client_ring *ring, uint32_t opcode, local_region *local, uint64_t local_offset,
                              remote_region *remote, uint64_t remote_offset, uint64_t length, uint64_t deadline) noexcept nogil

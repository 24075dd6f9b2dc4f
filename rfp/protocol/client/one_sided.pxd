# READs, WRITEs and atomics over a ring's queue pair, beside its requests: in order, and complete
# when the call returns.
#
# All return DONE, TIMED_OUT or DISCONNECTED.  After the first two no work request can touch local
# memory any more.  After DISCONNECTED that holds only once the caller has closed the queue pair,
# unless ring.one_sided_done.  The functions fill in ids and flags of the work requests.
# deadline: ns of the monotonic clock; 0: none.

from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport local_region, remote_region, work_request
from rfp.protocol.client.client_ring cimport client_ring, outcome

cdef outcome client_ring_transfers(client_ring *ring, work_request *works, int n,
                                   uint64_t deadline) noexcept nogil
# The last is posted pause_ns after the others.
cdef outcome client_ring_staggered(client_ring *ring, work_request *works, int n,
                                   uint64_t pause_ns, uint64_t deadline) noexcept nogil
cdef outcome client_ring_transfer(client_ring *ring, uint32_t opcode,
                                  local_region *local, uint64_t local_offset,
                                  remote_region *remote, uint64_t remote_offset,
                                  uint64_t length, uint64_t deadline) noexcept nogil

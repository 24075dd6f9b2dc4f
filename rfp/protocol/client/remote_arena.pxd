# A worker's arena as a client reaches it: a range of addresses, attached in chunks of one size.
#
# Over shared memory there is one chunk, attached from the beginning.  A device takes long to
# register memory, so over RDMA the server registers a chunk for a client on request.

from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport RemoteRegion, remote_region

cdef enum:                     # results of remote_arena_find
    ARENA_HERE = 0
    ARENA_MISSING = 1          # the first part of the range is in a chunk that is not attached yet
    ARENA_OUTSIDE = 2          # a part of the range is outside the arena

cdef struct remote_arena:
    uint64_t length
    uint64_t chunk             # bytes of each chunk but the last
    uint32_t count
    remote_region **chunks     # NULL: not attached yet; set once, with the GIL held

# Finds the first part of a range, as far as it is in one chunk: *size bytes at *at of *region.
cdef int remote_arena_find(remote_arena *arena, uint64_t offset, uint64_t length,
                           remote_region **region, uint64_t *at, uint64_t *size) noexcept nogil


cdef class RemoteArena:
    """Owns a remote_arena and the regions it points to."""
    cdef remote_arena c
    cdef list regions

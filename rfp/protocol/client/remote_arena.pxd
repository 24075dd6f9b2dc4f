# A worker's arena as a client sees it: a range of addresses, attached in chunks of one size as they are needed.
#
# Over shared memory there is one chunk, attached from the beginning.  Over a device registering memory takes long, so the server
# registers a chunk for a client when that client asks for it.

from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport RemoteRegion, remote_region

cdef enum:                     # what remote_arena_find found
    ARENA_HERE = 0
    ARENA_MISSING = 1          # in a chunk that is not attached yet: the first part of the range is
    ARENA_OUTSIDE = 2          # (partly) outside the arena

cdef struct remote_arena:
    uint64_t length
    uint64_t chunk             # bytes of each chunk but the last
    uint32_t count
    remote_region **chunks     # NULL: not attached yet; set with the GIL held, and never changed again

# The first part of a range, as far as it stands in one chunk: *size bytes at *at of *region.
cdef int remote_arena_find(remote_arena *arena, uint64_t offset, uint64_t length, remote_region **region, uint64_t *at,
                           uint64_t *size) noexcept nogil


cdef class RemoteArena:
    """Owns a remote_arena and the regions it points to."""
    cdef remote_arena c
    cdef list regions

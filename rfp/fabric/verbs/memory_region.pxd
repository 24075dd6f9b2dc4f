# The memory of the verbs provider: mapped here and registered with the device, or a peer's.

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.verbs cimport ibv_mr
from rfp.fabric.fabric cimport Region, RemoteRegion
from rfp.fabric.verbs.device cimport Domain


cdef class Memory:
    """Anonymous memory mapped in this process; unmapped with the last region over it."""
    cdef char *base
    cdef uint64_t length
    cdef object __weakref__


cdef class VerbsRegion(Region):
    cdef ibv_mr *mr                     # NULL: reserved, or closed
    cdef Domain domain
    cdef object memory                  # owner: Memory, the memoryview of a buffer, or a keeper
    cdef bint leaving                   # a thread is deregistering it
    cdef object __weakref__
    cdef void release(self) noexcept


cdef class VerbsRemoteRegion(RemoteRegion):
    pass


# Returns populated whole pages, filled with zeros.  Raises FabricError.
cdef Memory new_memory(uint64_t length)
# Registers memory that `memory` keeps alive with the device.  Raises InvalidArgument, FabricError.
cdef VerbsRegion give(Domain domain, object memory, char *base, uint64_t length, uint32_t rights)
# Returns a region that is registered with no device.
cdef VerbsRegion keep(object memory, char *base, uint64_t length, uint32_t rights)
# Returns the memory that a descriptor describes.  Raises HandshakeFailed.
cdef VerbsRemoteRegion describe(bytes descriptor)

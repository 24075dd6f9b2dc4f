# The verbs provider's memory: mapped, given to the device, and what peers gave us.

from libc.stdint cimport uint32_t, uint64_t

from rfp.fabric.fabric cimport REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, Region, RemoteRegion
from rfp.fabric.verbs.datapath cimport ibv_mr
from rfp.fabric.verbs.device cimport Domain

cdef enum:
    ALL_RIGHTS = REMOTE_READ | REMOTE_WRITE | REMOTE_ATOMIC


cdef class Memory:
    """Anonymous memory mapped here; unmapped with the last region over it."""
    cdef char *base
    cdef uint64_t length
    cdef object __weakref__


cdef class VerbsRegion(Region):
    cdef ibv_mr *mr                     # NULL: reserved, or closed
    cdef Domain domain
    cdef object memory                  # Memory, the memoryview of a buffer, or a keeper: whose it is
    cdef bint leaving                   # a thread is taking it from the device
    cdef object __weakref__
    cdef void release(self) noexcept


cdef class VerbsRemoteRegion(RemoteRegion):
    pass


# Whole pages, filled with zeros and really there.  Raises FabricError.
cdef Memory new_memory(uint64_t length)
# Gives a device access to memory that `memory` keeps.  Raises InvalidArgument, FabricError.
cdef VerbsRegion give(Domain domain, object memory, char *base, uint64_t length, uint32_t rights)
# A region that no device knows of.
cdef VerbsRegion keep(object memory, char *base, uint64_t length, uint32_t rights)
# Raises HandshakeFailed.
cdef VerbsRemoteRegion describe(bytes descriptor)

# cython: boundscheck=True, wraparound=True, cdivision=False
"""The memory of the verbs provider: mapped here and registered with the device, or a peer's."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport ENOMEM, EOPNOTSUPP, errno
from libc.string cimport memset
from posix.mman cimport munmap
from posix.unistd cimport usleep

from rfp.core.forks import live
from rfp.fabric import memory_limits
from rfp.core.descriptor cimport (
    RFP_DESCRIPTOR_VERSION, RFP_PROVIDER_VERBS, RFP_REGION_MAGIC, rfp_descriptor_sum,
    rfp_verbs_region_descriptor,
)
from rfp.core.limits cimport RFP_MAPPED_BYTES_MAX
from rfp.core.memfd cimport rfp_anonymous_map
from rfp.core.verbs cimport (
    IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_ATOMIC, IBV_ACCESS_REMOTE_READ,
    IBV_ACCESS_REMOTE_WRITE, IBV_ATOMIC_NONE,
)
from rfp.fabric.fabric cimport (
    ALL_RIGHTS, CONSTANT, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, local_region, take_descriptor,
)
from rfp.fabric.verbs.device cimport device_error, verbs
from rfp.errors import CallerError, Closed, FabricError, HandshakeFailed, InvalidArgument
from rfp.fabric.verbs.device import check_lockable, memory_is_not_lockable

UNPINNABLE = ("a device cannot pin a file on a file system with "
              "DAX: use a DAX device (/dev/daxN.M), a file "
              "on another file system, or an shm:// address")


cdef class Memory:
    """Anonymous memory mapped in this process."""

    def __dealloc__(self):
        cdef char *base = self.base
        self.base = NULL
        if base != NULL:
            with nogil:
                munmap(base, self.length)

    def _forget(self):
        self.base = NULL


cdef Memory new_memory(uint64_t length):
    cdef Memory memory = Memory.__new__(Memory)
    # Check first: the kernel grants almost any size, and the OOM killer then ends a process.
    available = memory_limits.available()
    if length > available:
        raise FabricError(f"cannot allocate {length} bytes of memory: {available} are available",
                          hint="request less memory, or stop other programs")
    with nogil:
        memory.base = rfp_anonymous_map(length)
    if memory.base == NULL:
        raise device_error(f"cannot allocate {length} bytes of memory", errno,
                           "request less memory")
    memory.length = length
    live.add(memory)
    return memory


cdef VerbsRegion keep(object memory, char *base, uint64_t length, uint32_t rights):
    """Return a region that is not registered with the device."""
    cdef VerbsRegion region = VerbsRegion.__new__(VerbsRegion)
    region.memory = memory
    region.c = local_region(base=base, length=length, key=0, rights=rights)
    live.add(region)
    return region


cdef VerbsRemoteRegion describe(bytes descriptor):
    cdef VerbsRemoteRegion region
    cdef rfp_verbs_region_descriptor d
    take_descriptor(descriptor, &d, sizeof(d), RFP_REGION_MAGIC, RFP_PROVIDER_VERBS, "region")
    if d.rights & ~ALL_RIGHTS or d.length == 0 or d.length > RFP_MAPPED_BYTES_MAX \
            or d.address > ~<uint64_t>0 - d.length:
        raise HandshakeFailed(
            f"invalid region from the peer: {d.length} bytes at "
            f"{d.address:#x} with rights {d.rights:#x}")
    region = VerbsRemoteRegion.__new__(VerbsRemoteRegion)
    region.c.base, region.c.length = <char *>d.address, d.length
    region.c.key, region.c.rights = d.key, d.rights
    return region


cdef int access(uint32_t rights) noexcept:
    cdef int flags = 0
    if not rights & CONSTANT:
        flags |= IBV_ACCESS_LOCAL_WRITE
    if rights & REMOTE_READ:
        flags |= IBV_ACCESS_REMOTE_READ
    if rights & REMOTE_WRITE:
        flags |= IBV_ACCESS_REMOTE_WRITE
    if rights & REMOTE_ATOMIC:
        flags |= IBV_ACCESS_REMOTE_ATOMIC
    return flags


cdef VerbsRegion give(Domain domain, object memory, char *base, uint64_t length, uint32_t rights):
    """Register memory that `memory` keeps alive with the device."""
    cdef VerbsRegion region = VerbsRegion.__new__(VerbsRegion)
    cdef int flags = access(rights)
    cdef int error
    if length > domain.device.limits.max_mr_size:
        raise InvalidArgument(
            f"cannot register {length} bytes at once: {domain.device.choice.device} takes at most "
            f"{domain.device.limits.max_mr_size}")
    if rights & REMOTE_ATOMIC and domain.device.limits.atomic_cap == IBV_ATOMIC_NONE:
        raise InvalidArgument(f"{domain.device.choice.device} does not support atomic operations")
    check_lockable(length)
    with nogil:
        region.mr = verbs.reg_mr(domain.pd, base, length, flags)
        error = errno
    if region.mr == NULL:
        if error == ENOMEM:
            # Other processes may have pinned memory since, or the control group has its own limit.
            raise memory_is_not_lockable(length, memory_limits.lockable())
        raise device_error(f"cannot register {length} bytes with {domain.device.choice.device}",
                           error, UNPINNABLE if error == EOPNOTSUPP else None)
    region.domain = domain
    region.memory = memory
    region.c = local_region(base=base, length=length, key=region.mr.lkey, rights=rights)
    live.add(region)
    return region


@cython.no_gc_clear                     # destroyed before the objects that it was made in
cdef class VerbsRegion(Region):
    """Memory of this process that is registered with a device, or reserved for later parts."""

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        # Deregister before the memory is unmapped: `memory` is dropped when this function returns.
        cdef ibv_mr *mr = self.mr
        # If another thread is deregistering it, wait: after close() the region must be closed.
        while self.leaving:
            with nogil:
                usleep(100)
        self.mr = NULL
        self.c.base = NULL
        self.c.length = 0
        self.c.key = 0
        if mr != NULL:
            self.leaving = True
            with nogil:
                verbs.dereg_mr(mr)
            self.leaving = False

    cpdef bytes descriptor(self):
        """Return the bytes that a peer's attach() needs.

        Raises:
            CallerError: the region is reserved; only a share of it has a descriptor.
            Closed: the region is closed.
        """
        cdef rfp_verbs_region_descriptor d
        if self.c.base == NULL:
            raise Closed("the region is closed")
        if self.mr == NULL:
            raise CallerError("the memory is reserved and not shared yet",
                              hint="share() it in a domain")
        memset(&d, 0, sizeof(d))
        d.magic, d.version = RFP_REGION_MAGIC, RFP_DESCRIPTOR_VERSION
        d.provider = RFP_PROVIDER_VERBS
        d.length, d.rights, d.key = self.c.length, self.c.rights & ~<uint32_t>CONSTANT, self.mr.rkey
        d.address = <uint64_t>self.c.base
        d.checksum = rfp_descriptor_sum(&d, sizeof(d))
        return PyBytes_FromStringAndSize(<char *>&d, sizeof(d))

    cpdef close(self):
        """Deregister the memory; it is unmapped with the last region over it.

        Call it only if no thread can still post to the region or use it.  Later requests of peers
        for it fail, and end their connections.
        """
        live.discard(self)
        self.release()
        self.memory = self.domain = None

    def _forget(self):
        self.mr = NULL
        self.leaving = False
        self.close()


cdef class VerbsRemoteRegion(RemoteRegion):
    """Memory of a peer, as its descriptor describes it.

    The peer's device enforces bounds and rights, whatever the descriptor contains.
    """

    cpdef close(self):
        """Drop the region.  Call it only if no thread can still post to it."""
        self.c.base = NULL
        self.c.length = 0
        self.c.key = 0

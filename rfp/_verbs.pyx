# cython: boundscheck=True, wraparound=True, cdivision=False
"""The verbs provider: RC queue pairs on any device that libibverbs knows.  docs/verbs.md explains it."""

import os

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close as close_fd

from rfp.core.forks import live
from rfp.fabric.verbs import select_device as devices
from rfp.fabric.fabric cimport (
    CONSTANT, REMOTE_READ, EventChannel, QueuePair, Region, RemoteRegion, buffer_base, buffer_bytes,
)
from rfp.fabric.verbs.device cimport Device, open_library
from rfp.fabric.verbs.device import check_lockable
from rfp.fabric.verbs.memory_region cimport (
    ALL_RIGHTS, Memory, VerbsRegion, describe, give, keep, new_memory,
)
from rfp.fabric.verbs.queue_pair cimport VerbsEventChannel, VerbsQueuePair
from rfp.address import RdmaOptions
from rfp.errors import Closed, InvalidArgument

cdef uint64_t PAGE = os.sysconf("SC_PAGE_SIZE")
cdef uint64_t SHARE = 64 << 20          # bytes; registering 256 MiB takes soft-RoCE three seconds


@cython.no_gc_clear                     # what it was made in goes after it
cdef class VerbsFabric(Fabric):
    """RC queue pairs between processes of any hosts that an RDMA network joins.

    host: the peer's name or address, or the one to listen at: the device is the one with the GID that carries the address which
    routes there ("": the first active one).  options: rfp.address.RdmaOptions, with another device and the time-outs.  Raises
    Unsupported (no libibverbs), FabricError (no device, no rights), InvalidArgument.

    Cost: a work request is posted to the device without a system call (soft-RoCE: with one), and moves without our processor.
    """

    def __init__(self, host="", options=None):
        self.options = options if options is not None else RdmaOptions()
        open_library()
        self.own = Domain(Device(devices.choose(host, self.options)))
        live.add(self)

    @property
    def choice(self):
        """Which device, port and GID this is, and why (rfp.fabric.verbs.select_device.Choice)."""
        return self.here().device.choice

    @property
    def reads_ordered(self):
        """No: one READ may see cache lines of different moments."""
        return False

    @property
    def share_limit(self):
        """Bytes: 64 MiB, or what the device registers at most."""
        return min(SHARE, self.here().device.limits.max_mr_size)

    @property
    def closing_revokes(self):
        """Yes: a peer reaches our memory through the queue pair only."""
        return True

    cdef Domain here(self):
        if self.own is None or self.own.pd == NULL:
            raise Closed("the fabric is closed, or belongs to the parent process")
        return self.own

    cpdef Fabric domain(self):
        """A protection domain of its own on the same device."""
        cdef VerbsFabric other = VerbsFabric.__new__(VerbsFabric)
        other.options = self.options
        other.own = Domain(self.here().device)
        live.add(other)
        return other

    cpdef Region register(self, uint64_t length, uint32_t rights):
        """Memory that peers may use as `rights` says.

        length: bytes, rounded up to whole pages.  Filled with zeros, and really there.  Raises InvalidArgument, FabricError
        (out of memory, or more than may be locked).  Cost: the pages are pinned; on soft-RoCE 256 MiB take three seconds.
        """
        cdef Memory memory
        length = pages(length, rights)
        check_lockable(length)
        memory = new_memory(length)
        return give(self.here(), memory, memory.base, memory.length, rights)

    cpdef Region reserve(self, uint64_t length, uint32_t rights):
        """Memory that share() gives to peers part by part, with no more than these rights; the device is not told of it."""
        cdef Memory memory = new_memory(pages(length, rights))
        return keep(memory, memory.base, memory.length, rights)

    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights):
        """A region in this domain over a part of another region, or of a buffer, which is kept as it is.

        Raises InvalidArgument (outside it, or more rights than it has), WrongBuffer, FabricError, Closed.  Cost: as register().
        """
        cdef VerbsRegion whole
        cdef char *base
        cdef object kept
        if rights & ~ALL_RIGHTS:
            raise InvalidArgument(f"unknown rights {rights:#x}")
        if length == 0:
            raise InvalidArgument("length must be at least 1, got 0")
        if isinstance(memory, Region):
            if not isinstance(memory, VerbsRegion):
                raise InvalidArgument("a verbs fabric can share only its own regions and buffers")
            whole = memory
            whole.within(offset, length)
            if rights & ~whole.c.rights:
                raise InvalidArgument(f"cannot share with rights {rights:#x}: "
                                      f"the region has {whole.c.rights:#x}")
            kept, base = whole.memory, whole.c.base
            rights |= whole.c.rights & CONSTANT
        else:
            kept = buffer_bytes(memory)
            if offset > <uint64_t>len(kept) or length > len(kept) - offset:
                raise InvalidArgument(f"{length} bytes at {offset} are not "
                                      f"within the buffer of {len(kept)}")
            base = buffer_base(kept)
            if kept.readonly:
                if rights & ~<uint32_t>REMOTE_READ:
                    raise InvalidArgument("cannot give peers write access: the buffer is read-only")
                rights |= CONSTANT
        return give(self.here(), kept, base + offset, length, rights)

    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights):
        """A region in this domain over whole pages that are mapped at `base`, for as long as `keeper` is kept.

        fd and offset are not looked at.  Raises InvalidArgument, FabricError (also where the device cannot be given such memory:
        a file on a file system with DAX).  Cost: as register().
        """
        return give(self.here(), keeper, <char *>base, mapped(base, length, rights), rights)

    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights):
        """The same for share() to give part by part, with no more than these rights; the device is not told of it."""
        return keep(keeper, <char *>base, mapped(base, length, rights), rights)

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1, bint files=False):
        """A peer's region.  fd: what came with it is closed.  Raises HandshakeFailed (it is not what it should be)."""
        if fd >= 0:
            close_fd(fd)
        return describe(descriptor)

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        """What one thread sleeps on; region and offset are not looked at.  Raises FabricError."""
        return VerbsEventChannel(self.here().device)

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        """One end of a connection; channel: what its thread sleeps on, of this device.

        pidfd, control: what alive() watches besides the peer's device; -1: nothing.  They stay the caller's, who keeps them open
        until the pair is closed.  Raises InvalidArgument, Closed, FabricError (the device has no more of them).
        """
        cdef VerbsEventChannel its
        cdef Domain domain = self.here()
        if not isinstance(channel, VerbsEventChannel):
            raise InvalidArgument("a verbs queue pair needs a verbs event channel")
        its = channel
        if not its.open:
            raise Closed("the event channel is closed")
        if its.device is not domain.device:
            raise InvalidArgument("the event channel belongs to another device")
        return VerbsQueuePair(domain, its, pidfd, control, self.options)

    cpdef close(self):
        """Gives the device back with the last thing made with it.  Safe to call again."""
        live.discard(self)
        self.own = None

    def _forget(self):
        self.own = None


cdef uint64_t pages(uint64_t length, uint32_t rights) except 0:
    if rights & ~ALL_RIGHTS:
        raise InvalidArgument(f"unknown rights {rights:#x}")
    if length == 0 or length > (<uint64_t>1 << 47):
        raise InvalidArgument(f"length must be between 1 and 2**47, got {length}")
    return (length + PAGE - 1) // PAGE * PAGE


cdef uint64_t mapped(uint64_t base, uint64_t length, uint32_t rights) except 0:
    if base == 0 or base % PAGE or length % PAGE:
        raise InvalidArgument(f"{length} bytes at {base:#x} are not whole pages")
    return pages(length, rights)

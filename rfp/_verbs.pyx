# cython: boundscheck=True, wraparound=True, cdivision=False
"""The verbs provider: RC queue pairs on any device that libibverbs supports.

docs/verbs.md explains it.
"""


cimport cython
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close as close_fd

from rfp.core.forks import live
from rfp.fabric.verbs import select_device as devices
from rfp.core.limits cimport system_page
from rfp.fabric.fabric cimport (
    ALL_RIGHTS, CONSTANT, REMOTE_READ, EventChannel, QueuePair, Region, RemoteRegion, buffer_base,
    buffer_bytes,
)
from rfp.fabric.verbs.device cimport Device, open_library
from rfp.fabric.verbs.device import check_lockable
from rfp.fabric.verbs.memory_region cimport Memory, VerbsRegion, describe, give, keep, new_memory
from rfp.fabric.verbs.queue_pair cimport VerbsEventChannel, VerbsQueuePair
from rfp.address import RdmaOptions
from rfp.errors import Closed, InvalidArgument

cdef uint64_t SHARE = 64 << 20          # bytes; registering 256 MiB takes soft-RoCE three seconds


@cython.no_gc_clear                     # destroyed before the objects that it was made in
cdef class VerbsFabric(Fabric):
    """RC queue pairs between processes of any hosts on one RDMA network.

    Args:
        host: the peer's name or address, or the one to listen at.  The device is the one with the
            GID that carries the address which routes there ("": the first active one).
        options: rfp.address.RdmaOptions, which may name another device, and set the time-outs.

    Raises:
        Unsupported: libibverbs is not installed.
        FabricError: there is no device, or the user has no right to open it.
        InvalidArgument: the options name a device that does not exist.

    Cost:
        A work request is posted to the device without a system call (soft-RoCE: with one), and
        executed without this host's processor.
    """

    def __init__(self, host="", options=None):
        self.options = options if options is not None else RdmaOptions()
        open_library()
        self.own = Domain(Device(devices.choose(host, self.options)))
        live.add(self)

    @property
    def choice(self):
        """Device, port and GID in use, and why (rfp.fabric.verbs.select_device.Choice)."""
        return self.here().device.choice

    @property
    def reads_ordered(self):
        """False: one READ may observe cache lines of different moments."""
        return False

    @property
    def share_limit(self):
        """Bytes: 64 MiB, or the most that the device registers, if that is less."""
        return min(SHARE, self.here().device.limits.max_mr_size)

    @property
    def closing_revokes(self):
        """True: a peer reaches our memory through the queue pair only."""
        return True

    cdef Domain here(self):
        if self.own is None or self.own.pd == NULL:
            raise Closed("the fabric is closed, or belongs to the parent process")
        return self.own

    cpdef Fabric domain(self):
        """Return a protection domain of its own on the same device."""
        cdef VerbsFabric other = VerbsFabric.__new__(VerbsFabric)
        other.options = self.options
        other.own = Domain(self.here().device)
        live.add(other)
        return other

    cpdef Region register(self, uint64_t length, uint32_t rights):
        """Return new memory that peers may use as `rights` permits.

        It is filled with zeros and populated.

        Args:
            length: bytes, rounded up to whole pages.
            rights: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed.

        Raises:
            InvalidArgument: an argument is out of its range.
            FabricError: out of memory, or more than may be locked.

        Cost:
            The pages are pinned; on soft-RoCE 256 MiB take three seconds.
        """
        cdef Memory memory
        length = pages(length, rights)
        check_lockable(length)
        memory = new_memory(length)
        return give(self.here(), memory, memory.base, memory.length, rights)

    cpdef Region reserve(self, uint64_t length, uint32_t rights):
        """Return memory that share() gives to peers part by part, with at most these rights.

        The device does not register it.
        """
        cdef Memory memory = new_memory(pages(length, rights))
        return keep(memory, memory.base, memory.length, rights)

    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights):
        """Return a region in this domain over a part of another region, or of a buffer.

        Args:
            memory: the region, or a contiguous buffer; it is kept alive.
            offset: start in it, in bytes.
            length: bytes.
            rights: at most those of the region.

        Raises:
            InvalidArgument: the range is outside it, or it has fewer rights.
            WrongBuffer: the buffer is not contiguous.
            FabricError: the device cannot register it.
            Closed: the region is closed.

        Cost:
            That of register().
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

    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                            uint64_t length, uint32_t rights):
        """Return a region in this domain over whole pages that are mapped at `base`.

        Args:
            keeper: the object that keeps them mapped; the region keeps it alive.
            base: address of the mapping.
            fd: ignored.
            offset: ignored.
            length: bytes, whole pages.
            rights: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed.

        Raises:
            InvalidArgument: an argument is out of its range.
            FabricError: the device cannot register such memory, for example a file on a file system
                with DAX.

        Cost:
            That of register().
        """
        return give(self.here(), keeper, <char *>base, mapped(base, length, rights), rights)

    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                              uint64_t length, uint32_t rights):
        """Return the same for share() to give part by part, with at most these rights.

        The device does not register it.
        """
        return keep(keeper, <char *>base, mapped(base, length, rights), rights)

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1, bint files=False):
        """Return a peer's region.

        Args:
            descriptor: the bytes that the peer sent.
            fd: a file descriptor that came with them; it is closed.
            files: ignored.

        Raises:
            HandshakeFailed: the descriptor is not valid.
        """
        if fd >= 0:
            close_fd(fd)
        return describe(descriptor)

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        """Return the object on which one thread sleeps; region and offset are ignored.

        Raises:
            FabricError: the device has no more of them.
        """
        return VerbsEventChannel(self.here().device)

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        """Return one end of a connection, not yet connected.

        Args:
            channel: an event channel of this device, on which the thread of this end sleeps.
            pidfd: the peer's process, which alive() watches besides the peer's device; -1: nothing.
            control: the socket to that process, likewise; -1: nothing.  The caller keeps owning
                both, and keeps them open until the pair is closed.

        Raises:
            InvalidArgument: the channel belongs to another device.
            Closed: the channel is closed.
            FabricError: the device has no more queue pairs.
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
        """Give the device back with the last object made with it.  Safe to call again."""
        live.discard(self)
        self.own = None

    def _forget(self):
        self.own = None


cdef uint64_t pages(uint64_t length, uint32_t rights) except 0:
    if rights & ~ALL_RIGHTS:
        raise InvalidArgument(f"unknown rights {rights:#x}")
    if length == 0 or length > (<uint64_t>1 << 47):
        raise InvalidArgument(f"length must be between 1 and 2**47, got {length}")
    return (length + system_page - 1) // system_page * system_page


cdef uint64_t mapped(uint64_t base, uint64_t length, uint32_t rights) except 0:
    if base == 0 or base % system_page or length % system_page:
        raise InvalidArgument(f"{length} bytes at {base:#x} are not whole pages")
    return pages(length, rights)

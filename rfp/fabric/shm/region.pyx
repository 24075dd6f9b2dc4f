# cython: boundscheck=True, wraparound=True, cdivision=False
"""The shm provider: processes of one host share sealed memory.  docs/fabric.md explains it.

It protects against bugs and crashes of processes of the same user, not against a malicious one.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdlib cimport calloc, free
from posix.mman cimport munmap
from posix.unistd cimport close as close_fd

from rfp.core.forks import live
from rfp.fabric import memory_limits
from rfp.core.core cimport (
    rfp_copy_out, rfp_eventcount, rfp_eventcount_cancel_wait, rfp_fence_release, rfp_fetch,
    rfp_store64,
)
from rfp.core.descriptor cimport (
    RFP_DESCRIPTOR_VERSION, RFP_PAIR_MAGIC, RFP_PROVIDER_SHM, RFP_REGION_MAGIC, rfp_descriptor_sum,
    rfp_pair_descriptor, rfp_region_descriptor,
)
from rfp.core.limits cimport RFP_MAPPED_BYTES_MAX, system_page
from rfp.core.memfd cimport (
    RFP_MEMFD_GOOD, rfp_memfd_check, rfp_memfd_create, rfp_memfd_fill, rfp_memfd_map,
    rfp_memfd_map_empty, rfp_memfd_seal,
)
from rfp.fabric.fabric cimport (
    ALL_RIGHTS, CONSTANT, FLUSHED, QUEUE_DEPTH, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE,
    buffer_base, buffer_bytes, local_region, take_descriptor,
)
from rfp.fabric.shm.datapath cimport (
    closed_operations, direct_operations, pair_state, unconnected_operations,
)
from rfp.fabric.shm.netem cimport (
    SHM_INLINE_BYTES, RFP_NETWORK_SLOWEST, abandon, emulate, emulated_operations, rfp_network,
    rfp_network_between, rfp_network_emulated,
)
from rfp.errors import CallerError, Closed, FabricError, HandshakeFailed, InvalidArgument

cdef uint64_t NO_LINE = ~<uint64_t>0
cdef uint64_t FILL = <uint64_t>1 << 28         # bytes to fault in between two checks for signals


cdef object refused(str what, int error, str hint=None):
    failure = FabricError(f"{what}: {os.strerror(error)}", hint=hint)
    failure.errno = error
    return failure


cdef void unmap(char *base, uint64_t length) noexcept:
    if base != NULL:
        with nogil:
            munmap(base, length)


cdef class Memory:
    """A memfd mapped in this process."""

    def __cinit__(self):
        self.fd = -1
        self.engine = NO_LINE

    def __dealloc__(self):
        unmap(self.base, self.length)
        self.forget()

    cdef void forget(self) noexcept:
        cdef int fd = self.fd
        self.base = NULL
        self.fd = -1
        if fd >= 0:
            close_fd(fd)


cdef class ShmRegion(Region):
    """Memory of this process: a sealed memfd, which peers may map; or a buffer, for local use."""

    cpdef bytes descriptor(self):
        """Return the bytes that a peer's attach() needs, beside fileno().

        Raises:
            CallerError: the region is for local use.
            Closed: the region is closed.
        """
        cdef rfp_region_descriptor d
        self.shared()
        d.magic, d.version, d.provider = RFP_REGION_MAGIC, RFP_DESCRIPTOR_VERSION, RFP_PROVIDER_SHM
        d.length, d.rights, d.key, d.reserved = self.c.length, self.c.rights, self.c.key, 0
        d.checksum = rfp_descriptor_sum(&d, sizeof(d))
        return PyBytes_FromStringAndSize(<char *>&d, sizeof(d))

    cpdef int fileno(self) except? -2:
        """Return the file descriptor to send along with descriptor(); the region keeps owning it.

        Raises:
            CallerError: the region is for local use.
            Closed: the region is closed.
        """
        self.shared()
        return self.memory.fd

    cdef int shared(self) except -1:
        if self.c.base == NULL:
            raise Closed("the region is closed")
        if self.memory is None:
            raise CallerError("cannot share the region: it is over a buffer, for local use")
        return 0

    cpdef close(self):
        """Close the region; the memory is unmapped here with the last region over it.

        Peers keep their mapping until they close it.  Call it only if no thread can still post to
        the region or use it.
        """
        live.discard(self)
        self.c.base = NULL
        self.c.length = 0
        self.memory = self.buffer = None

    def _forget(self):
        if self.memory is not None:
            self.memory.forget()
        self.close()


cdef class ShmRemoteRegion(RemoteRegion):
    """Memory of a peer, mapped here with the rights that the peer grants."""

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        cdef char *base = self.c.base
        self.c.base = NULL
        unmap(base, self.c.length)
        self.c.length = 0

    def read(self, uint64_t offset, uint64_t n):
        """Return a copy of n bytes.

        Args:
            offset: start within the region, in bytes.
            n: length in bytes.

        Raises:
            InvalidArgument: the range is outside the region.
            CallerError: the region does not grant REMOTE_READ.
            Closed: the region is closed.
        """
        self.within(offset, n, REMOTE_READ, "REMOTE_READ")
        result = PyBytes_FromStringAndSize(NULL, n)
        rfp_fetch(PyBytes_AS_STRING(result), self.c.base + offset, n)
        return result

    def write(self, uint64_t offset, data):
        """Copy bytes into the region, with release order.

        Args:
            offset: start within the region, in bytes.
            data: a contiguous buffer.

        Raises:
            InvalidArgument: the range is outside the region.
            CallerError: the region does not grant REMOTE_WRITE.
            Closed: the region is closed.
        """
        cdef bytes source = bytes(data)
        self.within(offset, len(source), REMOTE_WRITE, "REMOTE_WRITE")
        rfp_copy_out(self.c.base + offset, PyBytes_AS_STRING(source), len(source))
        rfp_fence_release()

    cdef within(self, uint64_t offset, uint64_t n, uint32_t right, str name):
        if self.c.base == NULL:
            raise Closed("the region is closed")
        if not self.c.rights & right:
            raise CallerError(f"the region does not grant {name}")
        if offset > self.c.length or n > self.c.length - offset:
            raise InvalidArgument(f"{n} bytes at {offset} are not within "
                                  f"the region of {self.c.length}")

    cpdef close(self):
        """Unmap the memory.  Call it only if no thread can still post to it or use it."""
        live.discard(self)
        self.release()

    def _forget(self):
        self.c.base = NULL
        self.release()


cdef class ShmEventChannel(EventChannel):
    """The eventcount of a thread.

    The thread sleeps on a word that its peers read after each notify, and reset if it sleeps.
    """

    cpdef close(self):
        """Close the channel; prepare_wait(), wait() and notify() do nothing from then on.

        Call it only if no thread sleeps on it.
        """
        live.discard(self)
        self._forget()

    cpdef poll_by(self, int fd):
        """Sleep on this end of a socket pair from now on; the channel then owns it."""
        if self.c.word == NULL or self.c.fd >= 0:
            close_fd(fd)
            raise Closed("the event channel is closed, or has a descriptor")
        self.c.fd = fd

    def _forget(self):
        cdef int fd = self.c.fd
        self.c.ops = closed_operations()
        self.c.word = NULL
        self.c.fd = -1
        if fd >= 0:
            close_fd(fd)
        self.region = None

    def __dealloc__(self):
        if self.c.fd >= 0:
            close_fd(self.c.fd)


cdef class ShmQueuePair(QueuePair):
    """One end of a connection between two processes of one host."""

    def __cinit__(self):
        self.state = <pair_state *>calloc(1, sizeof(pair_state))
        if self.state == NULL:
            raise MemoryError
        self.state.pidfd = self.state.control = self.state.waker.fd = -1
        self.c.state = self.state
        self.c.ops = unconnected_operations()
        self.c.reads_ordered = True
        self.c.max_outstanding_reads = QUEUE_DEPTH
        self.c.max_inline = ~<uint32_t>0
        self.c.depth = QUEUE_DEPTH

    def __dealloc__(self):
        if self.state != NULL:
            free(self.state.more)
            free(self.state)

    @property
    def emulated(self):
        """Whether a network is emulated between the two ends: label results over it so."""
        return bool(rfp_network_emulated(&self.network))

    cpdef bytes descriptor(self):
        """Return the bytes that the peer's connect() needs.

        Raises:
            Closed: the queue pair is closed.
        """
        cdef rfp_pair_descriptor d
        if self.channel is None or self.channel.region is None \
                or self.channel.region.memory is None:
            raise Closed("the queue pair, its event channel or the channel's region is closed")
        d.magic, d.version, d.provider = RFP_PAIR_MAGIC, RFP_DESCRIPTOR_VERSION, RFP_PROVIDER_SHM
        d.eventcount, d.engine = self.channel.offset, self.channel.region.memory.engine
        d.key, d.rtt = self.channel.region.c.key, self.fabric.network.rtt
        d.in_gap, d.out_gap = self.fabric.network.in_gap, self.fabric.network.out_gap
        d.reserved = d.unused = 0
        d.checksum = rfp_descriptor_sum(&d, sizeof(d))
        return PyBytes_FromStringAndSize(<char *>&d, sizeof(d))

    cpdef connect(self, bytes descriptor, RemoteRegion region):
        """Connect this end to the peer's.

        Args:
            descriptor: the descriptor() of the peer's queue pair.
            region: the peer's memory that contains its event channel.

        Raises:
            HandshakeFailed: the two ends are not compatible.
            CallerError: the queue pair is already connected.
            Closed: the queue pair or the region is closed.
        """
        cdef rfp_pair_descriptor d
        cdef rfp_network theirs
        if self.channel is None:
            raise Closed("the queue pair is closed")
        if self.bell_region is not None:
            raise CallerError("the queue pair is already connected")
        if not isinstance(region, ShmRemoteRegion):
            raise InvalidArgument("an shm queue pair connects over the region "
                                  "that contains the peer's event channel")
        if region.c.base == NULL:
            raise Closed("the peer's region is closed")
        take_descriptor(descriptor, &d, sizeof(d), RFP_PAIR_MAGIC, RFP_PROVIDER_SHM, "queue pair")
        if d.key != region.c.key:
            raise HandshakeFailed("the peer's event channel is in region "
                                  f"{d.key:#x}, not in {region.c.key:#x}")
        if not region.c.rights & REMOTE_WRITE:
            raise HandshakeFailed("the peer's event channel is in a region "
                                  "that this side may not write")
        if not is_line(d.eventcount, region.c.length) or not is_line(d.engine, region.c.length):
            raise HandshakeFailed(
                f"an event channel at {d.eventcount} is not within the peer's region "
                f"of {region.c.length} bytes")
        if max(d.rtt, d.in_gap, d.out_gap) > RFP_NETWORK_SLOWEST:
            raise HandshakeFailed("peer's emulated network parameters are out of range (max 1 s)")
        theirs = rfp_network(rtt=d.rtt, in_gap=d.in_gap, out_gap=d.out_gap)
        self.network = rfp_network_between(&self.fabric.network, &theirs)
        self.state.eventcount = <uint32_t *>(region.c.base + d.eventcount)
        self.begin(&(<rfp_eventcount *>(region.c.base + d.engine)).in_bound)
        self.bell_region = region

    cpdef wake_by(self, int fd):
        """Wake a peer that sleeps on a descriptor by a byte in this socket."""
        self.state.waker.fd = fd
        self.state.waker.closed = 0
        self.state.waker.debt = 0

    cdef begin(self, uint64_t *in_bound):
        if not rfp_network_emulated(&self.network):
            self.c.ops = direct_operations()
        elif emulate(self.state, &self.network, in_bound, &self.fabric.out_bound):
            self.c.ops = emulated_operations()
            self.c.max_inline = SHM_INLINE_BYTES
        else:
            raise MemoryError

    cdef void end(self) noexcept:
        abandon(self.state, FLUSHED)

    cpdef close(self):
        """Close the queue pair: flush all requests, under way or posted later.

        alive() returns False from then on.  Call it only if no thread uses the pair.
        """
        live.discard(self)
        self._forget()

    def _forget(self):
        self.c.ops = closed_operations()
        self.end()
        self.state.eventcount = NULL
        self.state.pidfd = self.state.control = self.state.waker.fd = -1
        self.channel = self.bell_region = self.fabric = None


cdef bint is_line(uint64_t offset, uint64_t length) noexcept:
    return offset % sizeof(rfp_eventcount) == 0 and offset <= length \
        and sizeof(rfp_eventcount) <= length - offset


cdef uint64_t gap(str name, iops) except? 0:
    if iops == 0:
        return 0
    if not 1 <= iops <= 1e9:
        raise InvalidArgument(f"{name} must be between 1 and 1e9 requests a "
                              f"second, or 0 for no limit, got {iops}")
    return max(1, round(1e9 / iops))


cdef ShmRegion over(Memory memory, uint32_t key, uint32_t rights):
    cdef ShmRegion region = ShmRegion.__new__(ShmRegion)
    region.memory = memory
    region.c = local_region(base=memory.base, length=memory.length, key=key, rights=rights)
    live.add(region)
    return region


cdef ShmRegion over_buffer(object memory, uint64_t offset, uint64_t length):
    cdef ShmRegion region = ShmRegion.__new__(ShmRegion)
    region.buffer = buffer_bytes(memory)
    region.c = local_region(base=buffer_base(region.buffer), length=len(region.buffer), key=0,
                            rights=CONSTANT if region.buffer.readonly else 0)
    region.within(offset, length)
    region.c.base += offset
    region.c.length = length
    live.add(region)
    return region


cdef class ShmFabric(Fabric):
    """Shared memory between the processes of one user on one host.

    The arguments emulate a network.  All 0: no emulation, and no cost.  A side that emulates
    nothing is assumed to be like its peer.

    Args:
        rtt_ns: round trip, in nanoseconds.
        in_iops: requests per second that the adapter on this side takes in; 0: no limit.
        out_iops: requests per second that the adapter on this side sends out; 0: no limit.

    Raises:
        InvalidArgument: an argument is out of its range.

    Cost:
        A READ or WRITE is a copy by the caller's own core; no system call, except the one that
        wakes a sleeping thread.

    >>> from rfp.fabric.fabric import READ, REMOTE_READ, REMOTE_WRITE, SUCCESS
    >>> import os
    >>> server, client = ShmFabric(), ShmFabric()          # in one process here, for the example
    >>> memory = server.register(4096, REMOTE_READ | REMOTE_WRITE)
    >>> with memory, client.register(4096, REMOTE_WRITE) as buffer:
    ...     theirs = client.attach(memory.descriptor(), os.dup(memory.fileno()))
    ...     server_end = server.queue_pair(server.event_channel(memory, 0), -1, -1)
    ...     client_end = client.queue_pair(client.event_channel(buffer, 0), -1, -1)
    ...     client_end.connect(server_end.descriptor(), theirs)
    ...     memory.write(64, b"hello")
    ...     client_end.execute(READ, buffer, 64, theirs, 64, 5) == SUCCESS, buffer.read(64, 5)
    (True, b'hello')
    """

    def __init__(self, *, rtt_ns=0, in_iops=0, out_iops=0):
        if not 0 <= rtt_ns <= RFP_NETWORK_SLOWEST:
            raise InvalidArgument("rtt_ns must be between 0 and "
                                  f"{RFP_NETWORK_SLOWEST}, got {rtt_ns}")
        self.network.rtt = round(rtt_ns)
        self.network.in_gap = gap("in_iops", in_iops)
        self.network.out_gap = gap("out_iops", out_iops)

    @property
    def reads_ordered(self):
        """True: one READ observes the peer's release order, its first word last."""
        return True

    @property
    def share_limit(self):
        """No limit: a region is shared as a whole."""
        return RFP_MAPPED_BYTES_MAX

    @property
    def closing_revokes(self):
        """False: a peer that has mapped a region keeps it."""
        return False

    cpdef Fabric domain(self):
        """Return the fabric itself: only the receivers of a file descriptor reach the memory."""
        return self

    @property
    def emulated(self):
        """Whether this side emulates a network: results over it must be labelled so."""
        return bool(rfp_network_emulated(&self.network))

    cpdef Region register(self, uint64_t length, uint32_t rights):
        """Return new memory that peers may use as `rights` permits.

        It is filled with zeros and populated.

        Args:
            length: bytes, rounded up to whole pages.
            rights: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed.

        Raises:
            InvalidArgument: unknown rights, or a length of 0 or beyond the address space.
            FabricError: out of memory or of file descriptors.
        """
        cdef Memory memory = Memory.__new__(Memory)
        cdef bint writable = rights & (REMOTE_WRITE | REMOTE_ATOMIC)
        cdef uint64_t filled = 0
        cdef int error = 0
        if rights & ~ALL_RIGHTS:
            raise InvalidArgument(f"unknown rights {rights:#x}")
        if length == 0 or length > RFP_MAPPED_BYTES_MAX:
            raise InvalidArgument(
                f"length must be between 1 and {RFP_MAPPED_BYTES_MAX}, got {length}")
        length = (length + system_page - 1) // system_page * system_page
        # Check first: the kernel grants almost any size, and the OOM killer then ends a process.
        available = memory_limits.available()
        if length > available:
            raise FabricError(f"cannot allocate {length} bytes of shared "
                              f"memory: {available} are available",
                              hint="request less memory, or stop other programs")
        with nogil:
            memory.fd = rfp_memfd_create()
            if memory.fd >= 0:
                memory.base = rfp_memfd_map_empty(memory.fd, length)
            if memory.base == NULL:
                error = errno
            else:
                memory.length = length
        while not error and filled < length:
            PyErr_CheckSignals()  # many GiB take long: let Ctrl-C through
            with nogil:
                error = rfp_memfd_fill(memory.fd, memory.base, filled, min(length - filled, FILL))
            if error == EINTR:
                error = 0
            else:
                filled += min(length - filled, FILL)
        if not error and rfp_memfd_seal(memory.fd, writable):
            error = errno
        if error:
            raise refused(f"cannot share {length} bytes of memory", error,
                          "request less memory, or check `ulimit -n`")
        return over(memory, int.from_bytes(os.urandom(4), "little") | 1, rights)

    cpdef Region reserve(self, uint64_t length, uint32_t rights):
        """Return the same as register(): on shm a region without peers saves nothing."""
        return self.register(length, rights)

    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights):
        """Return another region over a whole region, or a local one over a part of a buffer.

        Args:
            memory: a region of this provider, or a contiguous buffer (which is kept alive).
            offset: start in bytes; 0 for a region.
            length: bytes; the whole length for a region.
            rights: the rights that the region has; 0 for a buffer, which is for local use.

        Raises:
            InvalidArgument: only a part of a region, or other rights: peers map a region as it is,
                or not at all.
            WrongBuffer: the buffer is not contiguous.
            Closed: the region is closed.

        Cost:
            None.
        """
        cdef ShmRegion whole
        if isinstance(memory, Region):
            if not isinstance(memory, ShmRegion):
                raise InvalidArgument("an shm fabric can share only its own regions")
            whole = memory
            whole.shared()
            if offset != 0 or length != whole.c.length or rights != whole.c.rights:
                raise InvalidArgument(f"cannot share {length} bytes at {offset} with rights "
                                      f"{rights:#x}: shm can share "
                                      f"only all of it ({whole.c.length} bytes, "
                                      f"rights {whole.c.rights:#x})")
            return over(whole.memory, whole.c.key, rights)
        if rights:
            raise InvalidArgument("cannot share a buffer on shm: peers cannot map it",
                                  hint="register memory and copy into it")
        return over_buffer(memory, offset, length)

    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                            uint64_t length, uint32_t rights):
        """Return a region over a range of a file that is mapped in this process.

        Args:
            keeper: the object that keeps the file mapped at `base`.
            base: address of the mapping.
            fd: descriptor of the file; the caller keeps owning it.
            offset: start in the file, in bytes, whole pages.
            length: bytes, whole pages.
            rights: peers get the file opened read-only, unless `rights` lets them write.

        Raises:
            InvalidArgument: the range or the rights cannot be shared.
            FabricError: the file cannot be opened again.
        """
        from rfp.fabric.shm import file_region
        return file_region.share(keeper, base, fd, offset, length, rights)

    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                              uint64_t length, uint32_t rights):
        """Return the same as share_file()."""
        return self.share_file(keeper, base, fd, offset, length, rights)

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1, bint files=False):
        """Return a peer's region, mapped with the rights that it grants.

        Every field of the descriptor is checked against the kernel's view of the memory first.

        Args:
            descriptor: the bytes that the peer sent.
            fd: the file descriptor that came with them; it is closed in any case.
            files: whether a range of a file (share_file()) is accepted too.  Nothing seals a file,
                so a peer that truncates it makes an access here fault.

        Raises:
            HandshakeFailed: the descriptor or the memory is not valid.
            FabricError: the memory cannot be mapped.
        """
        cdef ShmRemoteRegion region
        cdef rfp_region_descriptor d
        cdef bint writable
        cdef int found
        if files and descriptor is not None and descriptor.startswith(b"RFPF"):
            from rfp.fabric.shm import file_region
            return file_region.attach(descriptor, fd)
        try:
            if descriptor is not None and descriptor.startswith(b"RFPF"):
                raise HandshakeFailed("cannot map the peer's memory: it is a file, "
                                      "and only sealed memory is accepted")
            take_descriptor(descriptor, &d, sizeof(d), RFP_REGION_MAGIC, RFP_PROVIDER_SHM, "region")
            if d.rights & ~ALL_RIGHTS or d.length == 0 or d.length % system_page:
                raise HandshakeFailed(f"invalid region from the peer: {d.length} "
                                      f"bytes with rights {d.rights:#x}")
            writable = d.rights & (REMOTE_WRITE | REMOTE_ATOMIC)
            if fd < 0:
                raise HandshakeFailed("the peer sent no file descriptor with its region")
            found = rfp_memfd_check(fd, d.length, writable)
            if found != RFP_MEMFD_GOOD:
                reason = ("", "it is not a memfd", "it is not sealed as required",
                          f"its size is not {d.length}")[found]
                raise HandshakeFailed(f"cannot map the peer's memory: {reason}")
            region = ShmRemoteRegion.__new__(ShmRemoteRegion)
            with nogil:
                region.c.base = rfp_memfd_map(fd, d.length, writable)
            if region.c.base == NULL:
                raise refused(f"cannot map {d.length} bytes of the peer's memory", errno)
            region.c.length, region.c.rights, region.c.key = d.length, d.rights, d.key
            live.add(region)
            return region
        finally:
            if fd >= 0:
                close_fd(fd)

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        """Return an event channel: the cache line on which one thread sleeps.

        Args:
            region: a region of this process with REMOTE_WRITE.
            offset: of the cache line in it, in bytes, a multiple of 64.

        Raises:
            InvalidArgument: the region or the offset cannot be used.
            Closed: the region is closed.
        """
        cdef ShmEventChannel channel
        if not isinstance(region, ShmRegion):
            raise InvalidArgument("an shm event channel needs a region of its own fabric")
        (<ShmRegion>region).shared()
        if not region.c.rights & REMOTE_WRITE:
            raise InvalidArgument("cannot create an event channel in a region without "
                                  "REMOTE_WRITE: peers could not notify it",
                                  hint="register a small region for event channels")
        if not is_line(offset, region.c.length):
            raise InvalidArgument(f"offset {offset} is not the start of a cache line of "
                                  f"{sizeof(rfp_eventcount)} bytes in the region")
        channel = ShmEventChannel.__new__(ShmEventChannel)
        channel.region = region
        channel.offset = offset
        channel.c.ops = direct_operations()
        channel.c.word = <uint32_t *>(region.c.base + offset)
        if channel.region.memory.engine == NO_LINE:
            channel.region.memory.engine = offset
            rfp_store64(&(<rfp_eventcount *>channel.c.word).in_bound, 0)
        rfp_eventcount_cancel_wait(channel.c.word)
        live.add(channel)
        return channel

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        """Return one end of a connection, not yet connected.

        Args:
            channel: the event channel on which the thread of this end sleeps.
            pidfd: the peer's process, for alive(); -1: nothing to watch.
            control: the socket to that process, for alive(); -1: nothing to watch.  The caller
                keeps owning both, and keeps them open until the pair is closed.

        Raises:
            InvalidArgument: the channel belongs to another provider.
            Closed: the channel is closed.
        """
        return self.new_pair(ShmQueuePair.__new__(ShmQueuePair), channel, pidfd, control)

    cdef ShmQueuePair new_pair(self, ShmQueuePair pair, EventChannel channel, int pidfd,
                               int control):
        if not isinstance(channel, ShmEventChannel):
            raise InvalidArgument("an shm queue pair needs an shm event channel")
        if channel.c.word == NULL:
            raise Closed("the event channel is closed")
        pair.fabric = self
        pair.channel = channel
        pair.state.pidfd = pidfd
        pair.state.control = control
        live.add(pair)
        return pair

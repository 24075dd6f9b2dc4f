# cython: boundscheck=True, wraparound=True, cdivision=False
"""The classes of the fabric: base classes that a provider completes, and errors for completions."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from posix.unistd cimport close as close_fd

from rfp.core.core cimport rfp_copy_out, rfp_fence_release, rfp_fetch, rfp_now
from rfp.core.descriptor cimport RFP_DESCRIPTOR_GOOD, rfp_descriptor_check
from rfp.core.system cimport POLLIN, POLLRDHUP, poll, pollfd

from rfp.errors import (
    Closed, DeadlineExceeded, HandshakeFailed, InvalidArgument, RequestFailed, Unsupported,
    WrongBuffer, not_copied,
)

# In the child of a fork, the mappings do not exist (MADV_DONTFORK).  The child also drops the file
# descriptors, every pointer into memory that may have been reused, and every object whose end would
# destroy the parent's on a device.  Its handles answer FLUSHED and BOUNDS.  This happens before the
# layers above the fabric close their regions in the child (rfp/core/forks.py).


cdef class Resource:
    """Base of all objects that hold memory, descriptors or a device until close()."""

    cpdef close(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __reduce__(self):
        raise not_copied(self, "create another one")


cdef class Region(Resource):
    """Registered memory of this process."""

    @property
    def length(self):
        """Length in bytes, a multiple of the page size."""
        return self.c.length

    @property
    def rights(self):
        """Rights that peers have on it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights & ~<uint32_t>CONSTANT

    def read(self, uint64_t offset, uint64_t n):
        """Return a copy of n bytes.

        Args:
            offset: start within the region, in bytes.
            n: length in bytes.

        Raises:
            InvalidArgument: the range is outside the region.
            Closed: the region is closed.
        """
        result = PyBytes_FromStringAndSize(NULL, self.within(offset, n))
        rfp_fetch(PyBytes_AS_STRING(result), self.c.base + offset, n)
        return result

    def write(self, uint64_t offset, data):
        """Copy bytes into the region, with release order.

        Args:
            offset: start within the region, in bytes.
            data: a contiguous buffer.

        Raises:
            InvalidArgument: the range is outside the region, or the region is read-only.
            Closed: the region is closed.
        """
        cdef bytes source = bytes(data)
        cdef uint64_t n = len(source)
        if self.c.rights & CONSTANT:
            raise InvalidArgument("the region's memory is read-only")
        self.within(offset, n)
        rfp_copy_out(self.c.base + offset, PyBytes_AS_STRING(source), n)
        rfp_fence_release()

    cdef uint64_t within(self, uint64_t offset, uint64_t n) except? 0:
        if self.c.base == NULL:
            raise Closed("the region is closed")
        if offset > self.c.length or n > self.c.length - offset:
            raise InvalidArgument(f"{n} bytes at {offset} are not within "
                                  f"the region of {self.c.length}")
        return n

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef int fileno(self) except? -2:
        return -1


cdef class RemoteRegion(Resource):
    """Memory of a peer, made only from a checked descriptor."""

    @property
    def length(self):
        """Length in bytes."""
        return self.c.length

    @property
    def rights(self):
        """Rights that this process has on it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights


# The operations of an object that no provider has made: they accept, return and wait for nothing.


cdef int no_post(queue_pair *pair, work_request *requests, int n) noexcept nogil:
    return 0


cdef int no_poll(queue_pair *pair, completion *completions, int n) noexcept nogil:
    return 0


cdef bint not_alive(queue_pair *pair) noexcept nogil:
    return False


cdef uint32_t no_prepare_wait(event_channel *channel) noexcept nogil:
    return 0


cdef bint no_wait(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil:
    return False


cdef void nothing(event_channel *channel) noexcept nogil:
    pass


cdef provider unmade = provider(
    post=no_post, poll=no_poll, alive=not_alive, prepare_wait=no_prepare_wait, wait=no_wait,
    cancel_wait=nothing, notify=nothing, replenish=nothing)


cdef class EventChannel(Resource):
    """The object on which one thread sleeps (an eventcount)."""

    def __cinit__(self):
        self.c.ops = &unmade
        self.c.fd = -1

    def fileno(self):
        """Return the descriptor to poll for input between prepare_wait() and wait(); -1: none."""
        return self.c.fd

    cpdef poll_by(self, int fd):
        """Sleep on this end of a socket pair from now on; the channel then owns it (shm).

        Args:
            fd: whose other end the peers have in QueuePair.wake_by().
        """
        close_fd(fd)
        raise Unsupported("this fabric wakes threads by another descriptor")

    def prepare_wait(self):
        """Announce a wait: from here on a notify makes wait() return at once.

        The first of three steps: prepare_wait(), a last check of everything waited for, then wait()
        or cancel_wait().

        Returns:
            The token that wait() takes.
        """
        return self.c.ops.prepare_wait(&self.c)

    def wait(self, uint32_t armed, double seconds):
        """Sleep until a notify or a time-out, after prepare_wait() and a last check.

        Args:
            armed: the token of prepare_wait().
            seconds: longest sleep.

        Returns:
            True if notified, False on time-out.
        """
        cdef bint woken
        cdef uint64_t ns = <uint64_t>(max(seconds, 0.0) * 1e9)
        with nogil:
            woken = self.c.ops.wait(&self.c, armed, ns)
        return woken

    def cancel_wait(self):
        """End the announced wait without sleeping, if the last check found something."""
        self.c.ops.cancel_wait(&self.c)

    def notify(self):
        """Wake the thread that sleeps on this channel, from another thread of this process."""
        self.c.ops.notify(&self.c)

    def replenish(self):
        """Make room for more notifies; wait() and poll() do it too."""
        self.c.ops.replenish(&self.c)


cdef class QueuePair(Resource):
    """One end of a connection."""

    def __cinit__(self):
        self.c.ops = &unmade

    cpdef wake_by(self, int fd):
        """Wake a peer that sleeps on a descriptor by a byte in this socket (shm).

        Args:
            fd: the other end of the peer's socket pair; the caller keeps it open.
        """
        raise Unsupported("this fabric wakes peers by another descriptor")

    @property
    def reads_ordered(self):
        """Whether one READ observes the peer's release order: its first word last."""
        return self.c.reads_ordered

    @property
    def needs_registration(self):
        """Whether local memory must belong to a Region."""
        return self.c.needs_registration

    @property
    def failure(self):
        """Status text of the device for the first request that failed, with a remedy; or None."""
        return None

    @property
    def max_outstanding_reads(self):
        return self.c.max_outstanding_reads

    @property
    def max_inline(self):
        """Bytes: a WRITE up to this length may reuse its local memory before its completion."""
        return self.c.max_inline

    @property
    def depth(self):
        """Number of work requests that may be outstanding."""
        return self.c.depth

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef connect(self, bytes descriptor, RemoteRegion region):
        raise NotImplementedError

    def alive(self):
        """Return whether the peer still runs, according to the operating system."""
        cdef bint alive
        with nogil:
            alive = self.c.ops.alive(&self.c)
        return alive

    def post(self, uint32_t opcode, Region local not None, uint64_t local_offset,
             RemoteRegion remote not None, uint64_t remote_offset, uint64_t length, *,
             uint64_t operand=0, uint64_t compare=0, uint32_t flags=SIGNALED, uint64_t id=0):
        """Post one work request with one doorbell; for set-up and tests.

        Args:
            opcode: READ, WRITE, WRITE_NOTIFY, COMPARE_SWAP or FETCH_ADD.
            local: region of this process; it must stay open until the request is complete.
            local_offset: start in it, in bytes.
            remote: region of the peer; it must stay open until the request is complete.
            remote_offset: start in it, in bytes.
            length: bytes; 8 for an atomic.
            operand: addend of FETCH_ADD, new value of COMPARE_SWAP.
            compare: expected value of COMPARE_SWAP.
            flags: SIGNALED, or 0 for a completion only on error.
            id: returned in the completion.

        Returns:
            1, or 0 if the send queue is full.
        """
        cdef work_request request = work_request(
            id=id, opcode=opcode, flags=flags, length=length, local=&local.c,
            local_offset=local_offset, remote=&remote.c, remote_offset=remote_offset,
            operand=operand, compare=compare)
        return self.c.ops.post(&self.c, &request, 1)

    def poll(self, int n=1):
        """Take up to n completions (1 to 64) in the order of posting.

        Returns:
            A list of (id, opcode, status).

        Raises:
            InvalidArgument: n is out of its range.
        """
        cdef completion completions[64]
        if not 0 < n <= 64:
            raise InvalidArgument(f"n must be between 1 and 64, got {n}")
        n = self.c.ops.poll(&self.c, completions, n)
        return [(completions[i].id, completions[i].opcode, completions[i].status) for i in range(n)]

    def execute(self, uint32_t opcode, Region local not None, uint64_t local_offset,
                RemoteRegion remote not None, uint64_t remote_offset, uint64_t length, *,
                uint64_t operand=0, uint64_t compare=0, double timeout=10.0, bint check=False):
        """Execute one work request and wait for it; for set-up and tests.

        No other request may be outstanding.

        Args:
            opcode: as in post(); likewise local, local_offset, remote, remote_offset, length,
                operand and compare.
            timeout: seconds.
            check: raise unless the status is SUCCESS.

        Returns:
            The status of the completion.

        Raises:
            InvalidArgument: the send queue is full.
            DeadlineExceeded: no completion within the time-out.
            RequestFailed: the status is not SUCCESS, and `check` is set.

        Cost:
            One network round trip.
        """
        cdef completion done
        cdef int n = 0
        cdef uint64_t deadline = rfp_now() + <uint64_t>(timeout * 1e9)
        if not self.post(opcode, local, local_offset, remote, remote_offset, length,
                         operand=operand, compare=compare):
            raise InvalidArgument("the send queue is full",
                                  hint="poll until the posted requests complete")
        with nogil:
            while n == 0:
                n = self.c.ops.poll(&self.c, &done, 1)
                if n == 0 and rfp_now() > deadline:
                    break
        if n == 0:
            raise DeadlineExceeded(f"timed out waiting for a completion ({timeout} s)")
        if check and done.status != SUCCESS:
            raise self.failed(
                done.opcode, done.status,
                f"of {length} bytes, {local_offset} in a local region of {local.c.length}, "
                f"{remote_offset} in a remote one of {remote.c.length}")
        return done.status

    def failed(self, uint32_t opcode, uint32_t status, str arguments=""):
        """Return the exception for a completion that was not SUCCESS.

        Args:
            opcode: of the completion.
            status: of the completion.
            arguments: description of the request, for the message.
        """
        verb = VERBS.get(opcode, f"opcode {opcode}")
        text, hint = STATUSES.get(status, (f"status {status}", None))
        request = f"{verb} {arguments}".rstrip()
        return RequestFailed(f"{request}: {self.failure or text}", verb=verb, status=status,
                             hint=hint)


VERBS = {READ: "READ", WRITE: "WRITE", WRITE_NOTIFY: "WRITE_NOTIFY", COMPARE_SWAP: "COMPARE_SWAP",
         FETCH_ADD: "FETCH_ADD"}
STATUSES = {                   # status: (its meaning, the remedy)
    BOUNDS: ("a range is outside its region",
             "check that the region is open and that the range is inside it"),
    RIGHTS: ("the region does not grant the right",
             "register it with the right that the request needs"),
    PEER_GONE: ("the connection is lost",
                "connect again; requests in flight may or may not have been executed"),
    FLUSHED: ("the queue pair is closed, in error, or not connected", "connect again"),
}


cdef object buffer_bytes(object buffer):
    try:
        view = memoryview(buffer)
        return view.cast("B")
    except (TypeError, ValueError, BufferError) as error:
        raise WrongBuffer(f"{type(buffer).__name__}: {error}",
                          hint="give a contiguous buffer: numpy.ascontiguousarray(array)") from None


cdef char *buffer_base(object view) except? NULL:
    cdef Py_buffer found
    cdef char *base
    PyObject_GetBuffer(view, &found, PyBUF_SIMPLE)
    base = <char *>found.buf
    PyBuffer_Release(&found)       # the view keeps the memory at this address
    return base


cdef take_descriptor(bytes received, void *copy, size_t size, uint32_t magic, uint16_t provider,
                     str what):
    cdef int found
    if received is None:
        raise InvalidArgument(f"the {what} descriptor is missing")
    found = rfp_descriptor_check(PyBytes_AS_STRING(received), len(received), copy, size, magic,
                                 provider)
    if found != RFP_DESCRIPTOR_GOOD:
        reason = ("", f"it has {len(received)} bytes instead of {size}",
                  "its magic number is wrong", "its version is another",
                  "it is of another provider", "its checksum is wrong")[found]
        raise HandshakeFailed(f"invalid {what} descriptor from the peer: {reason}",
                              hint="use the same release of rfp-rnvm on both sides")


cdef class Fabric(Resource):
    """Base of the providers of the fabric."""

    @property
    def reads_ordered(self):
        """Whether one READ of its queue pairs observes the peer's release order."""
        raise NotImplementedError

    @property
    def share_limit(self):
        """Bytes that peers get with one share(): a larger region is shared in several parts."""
        raise NotImplementedError

    @property
    def closing_revokes(self):
        """Whether the peer of a closed queue pair loses access to memory that it has attached."""
        raise NotImplementedError

    cpdef Fabric domain(self):
        raise NotImplementedError

    cpdef Region register(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region reserve(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                            uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                              uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1, bint files=False):
        raise NotImplementedError

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        raise NotImplementedError

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        raise NotImplementedError

    cpdef close(self):
        pass


# What all providers share


cdef bint peer_exists(int pidfd, int control) noexcept nogil:
    # A pidfd becomes readable when its process ends.  Of the control socket only the end of the
    # stream counts: unread data does not mean that the peer has died.
    cdef pollfd[2] watched
    watched[0] = pollfd(fd=pidfd, events=POLLIN, revents=0)
    watched[1] = pollfd(fd=control, events=POLLRDHUP, revents=0)
    return poll(watched, 2, 0) <= 0


cdef provider disconnected_operations(
        int (*post)(queue_pair *pair, work_request *requests, int n) noexcept nogil,
        int (*poll_pair)(queue_pair *pair, completion *completions, int n) noexcept nogil,
        bint (*alive)(queue_pair *pair) noexcept nogil) noexcept nogil:
    cdef provider operations = provider(
        post=post, poll=poll_pair, alive=not_alive, prepare_wait=no_prepare_wait, wait=no_wait,
        cancel_wait=nothing, notify=nothing, replenish=nothing)
    if alive != NULL:
        operations.alive = alive
    return operations

# cython: boundscheck=True, wraparound=True, cdivision=False
"""The fabric's base classes: what a provider must define (the contract is in fabric.pxd)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from rfp.errors import Closed, DeadlineExceeded, HandshakeFailed, InvalidArgument, RequestFailed, WrongBuffer, not_copied

cdef extern from "rfp/core/atomics.h" nogil:
    void rfp_fetch(char *to, const char *source, size_t n)
    void rfp_copy_out(void *to, const void *source, size_t n)
    void rfp_fence_release()

cdef extern from "rfp/core/descriptor.h" nogil:
    int rfp_descriptor_check(const void *received, size_t n, void *copy, size_t size, uint32_t magic, uint16_t provider)
    enum:
        RFP_DESCRIPTOR_GOOD

cdef extern from "rfp/core/clock.h" nogil:
    uint64_t rfp_now()


# The child of a fork has no mappings (MADV_DONTFORK); it also loses the file descriptors, every pointer to what may by then be
# other memory, and what would end the parent's things on a device.  Its handles answer FLUSHED and BOUNDS.  That comes before
# what stands above the fabric closes its regions in the child (rfp/core/forks.py).


cdef class Resource:
    """What is open until it is closed."""

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
        """Bytes, a multiple of the page size."""
        return self.c.length

    @property
    def rights(self):
        """What peers may do with it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights & ~<uint32_t>CONSTANT

    def read(self, uint64_t offset, uint64_t n):
        """A copy of n bytes.  Raises InvalidArgument (outside the region), Closed."""
        result = PyBytes_FromStringAndSize(NULL, self.within(offset, n))
        rfp_fetch(PyBytes_AS_STRING(result), self.c.base + offset, n)
        return result

    def write(self, uint64_t offset, data):
        """Copies bytes in, with release order.  Raises InvalidArgument (outside the region, or it is read-only), Closed."""
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
    """A peer's memory, made only from a checked descriptor."""

    @property
    def length(self):
        """Bytes."""
        return self.c.length

    @property
    def rights(self):
        """What we may do with it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights


# Of an object that no provider has made: nothing is taken, nothing comes, nobody sleeps.


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
    post=no_post, poll=no_poll, alive=not_alive, prepare_wait=no_prepare_wait, wait=no_wait, cancel_wait=nothing,
    notify=nothing, replenish=nothing)


cdef class EventChannel(Resource):
    """What one thread sleeps on."""

    def __cinit__(self):
        self.c.ops = &unmade

    def prepare_wait(self):
        """The first of three steps of going to sleep: from here on a notify makes wait() return at once.  Returns its token."""
        return self.c.ops.prepare_wait(&self.c)

    def wait(self, uint32_t armed, double seconds):
        """Sleeps for at most `seconds` after prepare_wait() and a last look.  True: notified, False: time-out."""
        cdef bint woken
        cdef uint64_t ns = <uint64_t>(max(seconds, 0.0) * 1e9)
        with nogil:
            woken = self.c.ops.wait(&self.c, armed, ns)
        return woken

    def cancel_wait(self):
        """Instead of wait(), when that last look found something."""
        self.c.ops.cancel_wait(&self.c)

    def notify(self):
        """Wakes the thread that sleeps on this channel, from another thread of this process."""
        self.c.ops.notify(&self.c)

    def replenish(self):
        """Makes room for more notifies; wait() and poll() do it too."""
        self.c.ops.replenish(&self.c)


cdef class QueuePair(Resource):
    """One end of a connection."""

    def __cinit__(self):
        self.c.ops = &unmade

    @property
    def reads_ordered(self):
        """Whether one READ sees the peer's release order: its first word last."""
        return self.c.reads_ordered

    @property
    def needs_registration(self):
        """Whether local memory must be a Region's."""
        return self.c.needs_registration

    @property
    def failure(self):
        """What the device said of the first request that failed, or None: the status text, and what to do about it."""
        return None

    @property
    def max_outstanding_reads(self):
        return self.c.max_outstanding_reads

    @property
    def max_inline(self):
        """Bytes: a WRITE up to this length may reuse its local memory at once, without its completion."""
        return self.c.max_inline

    @property
    def depth(self):
        """Work requests that may be outstanding."""
        return self.c.depth

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef connect(self, bytes descriptor, RemoteRegion region):
        raise NotImplementedError

    def alive(self):
        """Whether the peer still lives, by what the operating system says."""
        cdef bint alive
        with nogil:
            alive = self.c.ops.alive(&self.c)
        return alive

    def post(self, uint32_t opcode, Region local not None, uint64_t local_offset, RemoteRegion remote not None,
             uint64_t remote_offset, uint64_t length, *, uint64_t operand=0, uint64_t compare=0, uint32_t flags=SIGNALED,
             uint64_t id=0):
        """Posts one work request, one doorbell; for set-up and tests.  Returns 1, or 0 when the send queue is full.

        operand: FETCH_ADD: addend; COMPARE_SWAP: new value.  compare: COMPARE_SWAP: the value expected.  The regions must stay
        open until the request is complete.
        """
        cdef work_request request = work_request(
            id=id, opcode=opcode, flags=flags, length=length, local=&local.c, local_offset=local_offset, remote=&remote.c,
            remote_offset=remote_offset, operand=operand, compare=compare)
        return self.c.ops.post(&self.c, &request, 1)

    def poll(self, int n=1):
        """Takes up to n completions (at most 64) in the order of posting: a list of (id, opcode, status)."""
        cdef completion completions[64]
        if not 0 < n <= 64:
            raise InvalidArgument(f"n must be between 1 and 64, got {n}")
        n = self.c.ops.poll(&self.c, completions, n)
        return [(completions[i].id, completions[i].opcode, completions[i].status) for i in range(n)]

    def execute(self, uint32_t opcode, Region local not None, uint64_t local_offset, RemoteRegion remote not None,
                uint64_t remote_offset, uint64_t length, *, uint64_t operand=0, uint64_t compare=0, double timeout=10.0,
                bint check=False):
        """Does one work request and waits for it: one network round trip; for set-up and tests, with nothing else outstanding.

        timeout: seconds.  Returns the status of the completion; check: raises RequestFailed unless that is SUCCESS.  Raises
        DeadlineExceeded after the time-out.
        """
        cdef completion done
        cdef int n = 0
        cdef uint64_t deadline = rfp_now() + <uint64_t>(timeout * 1e9)
        if not self.post(opcode, local, local_offset, remote, remote_offset, length, operand=operand, compare=compare):
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
                f"of {length} bytes, {local_offset} in a local region of {local.c.length}, {remote_offset} in a remote one of "
                f"{remote.c.length}")
        return done.status

    def failed(self, uint32_t opcode, uint32_t status, str arguments=""):
        """The exception for a completion that was not SUCCESS; arguments: what was asked for."""
        verb = VERBS.get(opcode, f"opcode {opcode}")
        text, hint = STATUSES.get(status, (f"status {status}", None))
        request = f"{verb} {arguments}".rstrip()
        return RequestFailed(f"{request}: {self.failure or text}", verb=verb, status=status, hint=hint)


VERBS = {READ: "READ", WRITE: "WRITE", WRITE_NOTIFY: "WRITE_NOTIFY", COMPARE_SWAP: "COMPARE_SWAP", FETCH_ADD: "FETCH_ADD"}
STATUSES = {                   # what it means, and the way out
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
    PyBuffer_Release(&found)       # the view keeps it where it is
    return base


cdef take_descriptor(bytes received, void *copy, size_t size, uint32_t magic, uint16_t provider, str what):
    cdef int found
    if received is None:
        raise InvalidArgument(f"the {what} descriptor is missing")
    found = rfp_descriptor_check(PyBytes_AS_STRING(received), len(received), copy, size, magic, provider)
    if found != RFP_DESCRIPTOR_GOOD:
        reason = ("", f"it has {len(received)} bytes instead of {size}", "its magic number is wrong", "its version is another",
                  "it is of another provider", "its checksum is wrong")[found]
        raise HandshakeFailed(f"invalid {what} descriptor from the peer: {reason}",
                              hint="use the same release of rfp-rnvm on both sides")


cdef class Fabric(Resource):
    """A provider of the fabric."""

    @property
    def reads_ordered(self):
        """What its queue pairs will say of themselves: whether one READ sees the peer's release order."""
        raise NotImplementedError

    @property
    def share_limit(self):
        """Bytes that peers get with one share(): a larger region is shared in several."""
        raise NotImplementedError

    @property
    def closing_revokes(self):
        """Whether a closed queue pair's peer can do nothing more to our memory, though it has attached it."""
        raise NotImplementedError

    cpdef Fabric domain(self):
        raise NotImplementedError

    cpdef Region register(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region reserve(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1, bint files=False):
        raise NotImplementedError

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        raise NotImplementedError

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        raise NotImplementedError

    cpdef close(self):
        pass

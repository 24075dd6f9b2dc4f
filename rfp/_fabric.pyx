# cython: language_level=3
"""The fabric's base classes: what a provider must define (the contract is in _fabric.pxd)."""

from rfp.errors import DeadlineExceeded, InvalidArgument

cdef extern from "rfp/core/clock.h" nogil:
    uint64_t rfp_now()


cdef class Region:
    """Registered memory of this process."""

    @property
    def length(self):
        """Bytes, a multiple of the page size."""
        return self.c.length

    @property
    def rights(self):
        """What peers may do with it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef int fileno(self) except? -2:
        return -1

    cpdef close(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


cdef class RemoteRegion:
    """A peer's memory, made only from a checked descriptor."""

    @property
    def length(self):
        """Bytes."""
        return self.c.length

    @property
    def rights(self):
        """What we may do with it: REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or-ed."""
        return self.c.rights

    cpdef close(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


cdef class EventChannel:
    """What one thread sleeps on."""

    def arm(self):
        """The first of three steps of going to sleep: from here on a notify makes sleep() return at once.  Returns its token."""
        return self.c.ops.arm(&self.c)

    def sleep(self, uint32_t armed, double seconds):
        """Sleeps for at most `seconds` after arm() and one more look at what is waited for.  True: woken, False: time-out."""
        cdef bint woken
        cdef uint64_t ns = <uint64_t>(max(seconds, 0.0) * 1e9)
        with nogil:
            woken = self.c.ops.sleep(&self.c, armed, ns)
        return woken

    def disarm(self):
        """Instead of sleep(), when that last look found something."""
        self.c.ops.disarm(&self.c)

    def wake(self):
        """Wakes the thread that sleeps on this channel, from another thread of this process."""
        self.c.ops.wake(&self.c)

    cpdef close(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


cdef class QueuePair:
    """One end of a connection."""

    @property
    def reads_ordered(self):
        """Whether one READ sees the peer's release order: its first word last."""
        return self.c.reads_ordered

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

    cpdef close(self):
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
            raise InvalidArgument(f"poll takes 1 to 64 completions, not {n}")
        n = self.c.ops.poll(&self.c, completions, n)
        return [(completions[i].id, completions[i].opcode, completions[i].status) for i in range(n)]

    def execute(self, uint32_t opcode, Region local not None, uint64_t local_offset, RemoteRegion remote not None,
                uint64_t remote_offset, uint64_t length, *, uint64_t operand=0, uint64_t compare=0, double timeout=1.0):
        """Does one work request and waits for it: one network round trip; for set-up and tests, with nothing else outstanding.

        timeout: seconds.  Returns the status of the completion.  Raises DeadlineExceeded after the time-out.
        """
        cdef completion done
        cdef int n = 0
        cdef uint64_t deadline = rfp_now() + <uint64_t>(timeout * 1e9)
        if not self.post(opcode, local, local_offset, remote, remote_offset, length, operand=operand, compare=compare):
            raise InvalidArgument("the send queue is full", hint="poll until what was posted is complete")
        with nogil:
            while n == 0:
                n = self.c.ops.poll(&self.c, &done, 1)
                if n == 0 and rfp_now() > deadline:
                    break
        if n == 0:
            raise DeadlineExceeded(f"no completion within {timeout} s")
        return done.status

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


cdef class Fabric:
    """A provider of the fabric."""

    @property
    def reads_ordered(self):
        """What its queue pairs will say of themselves: whether one READ sees the peer's release order."""
        raise NotImplementedError

    cpdef Region register(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1):
        raise NotImplementedError

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        raise NotImplementedError

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        raise NotImplementedError

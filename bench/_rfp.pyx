"""This package's store as a native database: requests go straight into the rings of one channel."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from bench._driver cimport (
    DRIVER_GET, DRIVER_LOST, DRIVER_TAKEN, WINDOW_FULL, Connection, finished, operation,
)
from bench._generators cimport KEY_ROOM_BYTES
from bench._tally cimport STATUS_ERROR, STATUS_NOT_FOUND, STATUS_OK, STATUS_UNEXPECTED_STATE
from rfp.core.core cimport rfp_hash, rfp_now
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, PENDING, PROTOCOL_ERROR, TIMED_OUT, client_ring, client_ring_abandon,
    client_ring_flush, client_ring_pop, client_ring_release, client_ring_response, client_ring_step,
    client_ring_tag,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.wire cimport (
    RFP_KIND_REFERENCE, RFP_REFERENCE, RFP_RESPONSE_HEADER, rfp_reference, rfp_response_header,
)
from rfp.store.client.client cimport Client
from rfp.store.client.requests cimport kv_inline_limit, kv_submit, kv_submit_put, kv_worker
from rfp.store.messages cimport KV_GET, KV_NOT_FOUND, KV_OK, KV_PUT

from rfp.errors import InvalidArgument

cdef enum:
    POST = 16                  # requests in one post: more are not held back for others

cdef struct lane:
    channel *c
    uint64_t seed
    uint32_t first             # index of the ring to poll first
    int trouble                # the outcome of a ring that cannot go on, else 0


cdef int submit(void *self, operation *op) noexcept nogil:
    cdef lane *way = <lane *> self
    cdef uint32_t worker = 0
    cdef client_ring *ring
    cdef bint taken
    if way.trouble:
        return DRIVER_LOST
    if way.c.count > 1:
        worker = kv_worker(rfp_hash(op.key, op.key_length, way.seed), way.c.count)
    ring = way.c.rings[worker]
    if op.opcode == DRIVER_GET:
        taken = kv_submit(ring, KV_GET, op.key, op.key_length, op.id)
    else:
        taken = kv_submit_put(ring, KV_PUT, 0, op.key, op.key_length, op.value,
                              <uint32_t> op.value_length, 0, 0, op.id)
    if not taken:
        return DRIVER_LOST if ring.lost else WINDOW_FULL
    if ring.unsent == POST:
        client_ring_flush(ring)
    return DRIVER_TAKEN


cdef void take(client_ring *ring, finished *f) noexcept nogil:
    """Returns the response to the ring's oldest request.  Its payload stays in place until the next
    poll of its slot."""
    cdef const rfp_response_header *header = client_ring_response(ring)
    cdef rfp_reference reference
    f.id = client_ring_tag(ring)
    f.value = <const char *> header + RFP_RESPONSE_HEADER
    f.value_length = header.length
    f.status = STATUS_ERROR
    if header.status == KV_OK:
        f.status = STATUS_OK
    elif header.status == KV_NOT_FOUND:
        f.status = STATUS_NOT_FOUND
    if header.kind == RFP_KIND_REFERENCE and header.length >= RFP_REFERENCE:
        # No record of this workload is so large: another program wrote it.
        memcpy(&reference, f.value, sizeof(reference))
        client_ring_release(ring, reference.pin)
        f.status = STATUS_UNEXPECTED_STATE
    client_ring_pop(ring)


cdef int reap(void *self, finished *done, int n) noexcept nogil:
    cdef lane *way = <lane *> self
    cdef client_ring *ring
    cdef uint32_t i
    cdef int found, taken = 0
    if way.trouble:
        return DRIVER_LOST
    for i in range(way.c.count):
        ring = way.c.rings[(way.first + i) % way.c.count]
        if ring.unsent:
            client_ring_flush(ring)
        while taken < n:
            found = client_ring_step(ring)
            if found == PENDING:
                break
            if found != DONE:
                way.trouble = found
                return taken if taken else DRIVER_LOST
            take(ring, done + taken)
            taken += 1
    way.first = (way.first + 1) % way.c.count
    return taken


cdef void wait(void *self, uint64_t ns) noexcept nogil:
    """Waits for the oldest request of the first ring that has one."""
    cdef lane *way = <lane *> self
    cdef client_ring *ring
    cdef uint32_t i
    cdef int found
    for i in range(way.c.count):
        ring = way.c.rings[(way.first + i) % way.c.count]
        if ring.count:
            found = client_ring_wait(ring, rfp_now() + ns)
            if found != DONE and found != TIMED_OUT:
                way.trouble = found
            return


cdef class StoreConnection(Connection):
    """One thread's channel to a store.

    Args:
        client: an rfp.connect() handle, which must stay open longer than this object.
        largest: bytes of the largest record.
        timeout: seconds to connect.

    Raises:
        InvalidArgument: such records do not fit into a slot.
        Closed: the handle is closed.
        ConnectionFailed: the server cannot be reached.
    """
    cdef lane way
    cdef Client client
    cdef Channel channel

    def __cinit__(self, Client client not None, uint64_t largest, double timeout=10):
        self.client = client
        self.channel = client.checkout_channel(rfp_now() + <uint64_t> (timeout * 1e9))
        limit = kv_inline_limit(self.channel.c.rings[0], KEY_ROOM_BYTES)
        if largest > limit:
            self.close()
            raise InvalidArgument(f"records of {largest} bytes exceed the limit "
                                  f"of {limit}, a slot of the rings",
                                  hint="use smaller records, or -p rfp.api=python")
        self.way.c = &self.channel.c
        self.way.seed = client.seed
        self.window = self.channel.c.rings[0].slots
        self.c.self = &self.way
        self.c.submit, self.c.reap, self.c.wait = submit, reap, wait

    cpdef str failure(self):
        address = self.client.connection.address
        if self.way.trouble == CLOSED:
            return "the handle was closed during the run"
        if self.way.trouble == PROTOCOL_ERROR:
            return f"the server at {address} sent an invalid response (protocol error)"
        return f"the connection to {address} was lost: the server no longer runs"

    cpdef close(self):
        """Return the channel to the handle.  Its next user waits for the responses still
        outstanding."""
        cdef Channel mine = self.channel
        cdef uint32_t i
        if mine is None:
            return
        self.channel = None
        self.way.trouble = self.way.trouble or CLOSED
        for i in range(mine.c.count):
            client_ring_abandon(mine.c.rings[i])
        self.client.return_channel(mine)

    @property
    def counters(self):
        """Return the rings' counters: READs, WRITEs, second READs ..."""
        return {} if self.channel is None else self.channel.counters

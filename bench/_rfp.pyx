"""This package's store as a native database: requests go straight into the rings of one channel.

Where the handle reads directly (mode="auto" on the server's host), a GET is a direct read.
submit() only prefetches the key's line of the index, and reap() prefetches the records of several
GETs before it reads the first of them: so the cache misses of a window overlap.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from bench._driver cimport (
    DRIVER_GET, DRIVER_LOST, DRIVER_TAKEN, REAPED_AT_ONCE, WINDOW_FULL, Connection, finished,
    operation,
)
from bench._generators cimport KEY_ROOM_BYTES
from bench._tally cimport STATUS_ERROR, STATUS_NOT_FOUND, STATUS_OK, STATUS_UNEXPECTED_STATE
from rfp.core.core cimport rfp_hash, rfp_now
from rfp.core.limits cimport RFP_LINE
from rfp.fabric.fabric cimport queue_pair
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_ring cimport (
    CLOSED, DISCONNECTED, DONE, PENDING, PROTOCOL_ERROR, TIMED_OUT, client_ring,
    client_ring_abandon, client_ring_flush, client_ring_pop, client_ring_release,
    client_ring_response, client_ring_step,
    client_ring_tag,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.wire cimport (
    RFP_KIND_REFERENCE, RFP_REFERENCE, RFP_RESPONSE_HEADER, rfp_reference, rfp_response_header,
)
from rfp.store.client.client cimport Client
from rfp.store.client.direct_read cimport (
    DIRECT_FOUND, DIRECT_UNSURE, PREFETCHED, READS_PER_LIVENESS_CHECK, DirectReads,
    direct_arena, direct_find, direct_prefetch_line, direct_prefetch_records, direct_record,
    direct_result, direct_take, direct_use,
)
from rfp.store.client.recency cimport recency, recency_before_request
from rfp.store.client.requests cimport kv_inline_limit, kv_submit, kv_submit_put, kv_worker
from rfp.store.messages cimport KV_GET, KV_NOT_FOUND, KV_OK, KV_PUT

from rfp.errors import InvalidArgument

cdef enum:
    POST = 16                  # requests in one post: more are not held back for others

cdef struct direct_get:        # a GET that has not been read yet
    operation *op
    uint64_t hash

cdef struct direct_lane:       # the direct reads of a connection
    direct_arena *arenas       # by worker; NULL: none
    recency *uses
    direct_get *queue          # of `window` GETs
    uint32_t window
    uint32_t first
    uint32_t count
    char *values               # of the last reap, REAPED_AT_ONCE x largest
    uint64_t largest           # bytes of a value
    uint32_t until_liveness_check

cdef struct lane:
    channel *c
    uint64_t seed
    uint32_t first             # index of the ring to poll first
    int trouble                # the outcome of a ring that cannot go on, else 0
    direct_lane direct


cdef inline uint32_t worker_of(lane *way, uint64_t hash) noexcept nogil:
    return kv_worker(hash, way.c.count) if way.c.count > 1 else 0


cdef int submit(void *self, operation *op) noexcept nogil:
    cdef lane *way = <lane *> self
    cdef direct_lane *d = &way.direct
    cdef uint64_t hash
    cdef uint32_t at
    if way.trouble:
        return DRIVER_LOST
    if op.opcode != DRIVER_GET or d.arenas == NULL:
        return send(way, op)
    if d.count == d.window:
        return WINDOW_FULL
    hash = rfp_hash(op.key, op.key_length, way.seed)
    direct_prefetch_line(&d.arenas[worker_of(way, hash)], hash)
    at = d.first + d.count
    if at >= d.window:
        at -= d.window
    d.queue[at].op = op
    d.queue[at].hash = hash
    d.count += 1
    return DRIVER_TAKEN


cdef int send(lane *way, operation *op) noexcept nogil:
    """Sends an operation as a request."""
    cdef uint32_t worker = 0
    cdef client_ring *ring
    cdef bint taken
    if way.c.count > 1:
        worker = kv_worker(rfp_hash(op.key, op.key_length, way.seed), way.c.count)
    ring = way.c.rings[worker]
    if way.direct.arenas != NULL:
        recency_before_request(way.direct.uses, way.c)
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


cdef bint read(lane *way, direct_get *get, finished *f, char *target) noexcept nogil:
    """Reads a record directly; returns False if the server must be asked."""
    cdef direct_lane *d = &way.direct
    cdef operation *op = get.op
    cdef uint32_t worker = worker_of(way, get.hash)
    cdef direct_arena *a = &d.arenas[worker]
    cdef direct_record record
    cdef direct_result result = direct_find(a, op.key, op.key_length, get.hash, &record)
    if result == DIRECT_FOUND:
        if record.value_length > d.largest:        # another program wrote it
            return False
        result = direct_take(a, op.key, get.hash, &record, target)
    if result == DIRECT_UNSURE:
        return False
    f.id = op.id
    f.status = STATUS_NOT_FOUND
    f.value_length = 0
    if result == DIRECT_FOUND:
        direct_use(a, d.uses, way.c, worker, get.hash, &record)
        f.status = STATUS_OK
        f.value = target
        f.value_length = record.value_length
    return True


cdef int read_directly(lane *way, finished *done, int n) noexcept nogil:
    """Reads at most n records; returns how many.  A GET that only the server can answer becomes a
    request."""
    cdef direct_lane *d = &way.direct
    cdef queue_pair *pair = way.c.rings[0].pair
    cdef direct_get *gets[PREFETCHED]
    cdef int taken = 0, i, some
    cdef uint32_t at
    while d.count and taken < n:
        some = min(<int> d.count, n - taken, <int> PREFETCHED)
        d.until_liveness_check -= min(<uint32_t> some, d.until_liveness_check)
        if not d.until_liveness_check:
            d.until_liveness_check = READS_PER_LIVENESS_CHECK
            if not pair.ops.alive(pair):
                way.trouble = DISCONNECTED
                break
        at = d.first
        for i in range(some):
            gets[i] = &d.queue[at]
            direct_prefetch_records(&d.arenas[worker_of(way, gets[i].hash)], gets[i].hash)
            at = at + 1 if at + 1 < d.window else 0
        for i in range(some):
            if read(way, gets[i], done + taken, d.values + <uint64_t> taken * d.largest):
                taken += 1
            elif send(way, gets[i].op) != DRIVER_TAKEN:
                return taken       # once the ring has room
            d.first = d.first + 1 if d.first + 1 < d.window else 0
            d.count -= 1
    return taken


cdef int reap(void *self, finished *done, int n) noexcept nogil:
    cdef lane *way = <lane *> self
    cdef client_ring *ring
    cdef uint32_t i
    cdef int found, taken = 0
    if way.trouble:
        return DRIVER_LOST
    if way.direct.count:
        taken = read_directly(way, done, min(n, <int> REAPED_AT_ONCE))
        if way.trouble:
            return taken if taken else DRIVER_LOST
    for i in range(way.c.count):
        ring = way.c.rings[(way.first + i) % way.c.count]
        if ring.unsent:
            client_ring_flush(ring)
        if not ring.count:
            continue
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
    cdef DirectReads direct        # this thread's own: it is used without the GIL

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
        # Over a network this driver sends requests: it has no location cache.
        if client.direct_identity and client.direct_identity == client.identity and \
                type(client.direct) is DirectReads:
            self.read_directly(largest)
        self.c.self = &self.way
        self.c.submit, self.c.reap, self.c.wait = submit, reap, wait

    cdef int read_directly(self, uint64_t largest) except -1:
        cdef direct_lane *d = &self.way.direct
        self.direct = DirectReads(self.client.connection)
        d.largest = largest + RFP_LINE - 1 & ~<uint64_t> (RFP_LINE - 1)
        d.window = self.window
        d.until_liveness_check = READS_PER_LIVENESS_CHECK
        d.queue = <direct_get *> malloc(d.window * sizeof(direct_get))
        d.values = <char *> malloc(REAPED_AT_ONCE * d.largest)
        if d.queue == NULL or d.values == NULL:
            raise MemoryError()
        d.uses = &self.direct.uses
        if self.direct.count:
            d.arenas = self.direct.arenas
        return 0

    def __dealloc__(self):
        free(self.way.direct.queue)
        free(self.way.direct.values)

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

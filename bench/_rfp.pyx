# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""This package's store behind the driver's contract: one client thread's rings, filled up to a window, without Python in the way."""

from libc.stdint cimport uint32_t, uint64_t

from bench._driver cimport GET, LOST, TAKEN, WINDOW_FULL, Connection, finished, operation
from bench._tally cimport ERROR, NOT_FOUND, OK
from rfp._client cimport Client
from rfp._core cimport rfp_hash, rfp_now
from rfp._kv cimport kv_inline_limit, kv_submit, kv_submit_put, kv_worker
from rfp.protocol._channel cimport Channel, channel
from rfp.protocol._client_ring cimport (DONE, GONE, MALFORMED, NOT_YET, client_ring, client_ring_abandon, client_ring_flush,
                                        client_ring_pop, client_ring_response, client_ring_step, client_ring_tag,
                                        client_ring_wait)
from rfp.protocol._wire cimport RFP_KIND_INLINE, RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store._messages cimport KV_GET, KV_NOT_FOUND, KV_OK, KV_PUT

from rfp.errors import InvalidArgument

cdef enum:
    TOGETHER = 8               # requests that share a notification: the server starts on them while the next are built

cdef struct line:              # one thread's
    channel *channel
    uint64_t seed
    uint32_t window
    uint32_t in_flight
    uint32_t next              # ring to look at first
    bint too_large


cdef int submit(void *self, operation *op) noexcept nogil:
    cdef line *l = <line *> self
    cdef client_ring *ring = l.channel.rings[0]
    cdef bint taken
    if l.in_flight == l.window:
        return WINDOW_FULL
    if l.channel.count > 1:
        ring = l.channel.rings[kv_worker(rfp_hash(op.key, op.key_length, l.seed), l.channel.count)]
    if op.opcode == GET:
        taken = kv_submit(ring, KV_GET, op.key, op.key_length, op.id)
    elif op.value_length > kv_inline_limit(ring, op.key_length):
        l.too_large = True
        return LOST
    else:
        taken = kv_submit_put(ring, KV_PUT, 0, op.key, op.key_length, op.value, <uint32_t> op.value_length, 0, 0, op.id)
    if not taken:
        return LOST if ring.lost else WINDOW_FULL
    l.in_flight += 1
    if ring.unsent == TOGETHER:
        client_ring_flush(ring)
    return TAKEN


cdef int reap(void *self, finished *done, int n) noexcept nogil:
    cdef line *l = <line *> self
    cdef client_ring *ring
    cdef const rfp_response_header *header
    cdef uint32_t i
    cdef int found
    cdef int taken = 0
    for i in range(l.channel.count):
        if l.channel.rings[i].unsent:
            client_ring_flush(l.channel.rings[i])
    for i in range(l.channel.count):
        ring = l.channel.rings[(l.next + i) % l.channel.count]
        while taken < n and ring.count:
            found = client_ring_step(ring)
            if found == NOT_YET:
                break
            if found != DONE:
                return LOST
            header = client_ring_response(ring)
            done[taken].id = client_ring_tag(ring)
            if header.status == KV_OK and header.kind == RFP_KIND_INLINE:
                done[taken].status = OK
            elif header.status == KV_NOT_FOUND:
                done[taken].status = NOT_FOUND
            else:
                done[taken].status = ERROR
            # The fetched copy stays until its slot is submitted again, which is a later call's.
            done[taken].value = <const char *> header + RFP_RESPONSE_HEADER
            done[taken].value_length = header.length
            client_ring_pop(ring)
            taken += 1
    l.next += 1
    l.in_flight -= taken
    return taken


cdef void wait(void *self, uint64_t ns) noexcept nogil:
    """Spins, then sleeps, until the oldest request of some ring is answered."""
    cdef line *l = <line *> self
    cdef uint32_t i
    for i in range(l.channel.count):
        if l.channel.rings[i].count:
            client_ring_wait(l.channel.rings[i], rfp_now() + ns)
            return


cdef class RfpConnection(Connection):
    """One thread's channel of a client, for as long as the connection is open.

    window: requests in flight, at most the server's slots for each of its workers.
    """
    cdef line l
    cdef Client client
    cdef Channel owner

    def __init__(self, Client client not None, uint32_t window):
        self.client = client
        self.owner = client.enter(client.deadline(None))
        if not 1 <= window <= self.owner.c.rings[0].slots:
            most = self.owner.c.rings[0].slots
            self.close()
            raise InvalidArgument(f"rfp.window={window}", hint=f"1 to {most}, the slots of a ring")
        self.window = window
        self.l.channel = &self.owner.c
        self.l.seed = client.seed
        self.l.window = window
        self.c.self = &self.l
        self.c.submit, self.c.reap, self.c.wait = submit, reap, wait

    cpdef str failure(self):
        if self.l.too_large:
            return "a record does not fit into a slot: make it smaller, or use rfp.api=python"
        return "the server is gone"

    @property
    def counters(self):
        """What the rings have counted, as a dict."""
        return self.owner.counters

    cpdef close(self):
        if self.owner is not None:
            for i in range(self.owner.c.count):
                client_ring_abandon(self.owner.c.rings[i])
            self.client.leave(self.owner)
            self.owner = None

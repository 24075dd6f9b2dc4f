"""The measurements of `rfp tune`: READs of F bytes, and calls to a server with a given time."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from rfp.core.core cimport rfp_now, rfp_store8
from rfp.fabric.fabric cimport READ, SIGNALED, completion, work_request
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_ring cimport (
    DONE, client_ring, client_ring_flush, client_ring_payload, client_ring_pop,
    client_ring_response_offset, client_ring_submit,
)
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.server.service cimport Service, request, response, service_session
from rfp.protocol.wire cimport RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_OPCODE_CALL

from rfp.errors import ConnectionFailed

cdef enum:
    UNDER_WAY = 8      # READs at a time: enough to hide the round trip, too few to queue up


cdef class SpinService(Service):
    """A service that takes the time in the request's flags (ns) and returns `count` bytes."""

    def __cinit__(self):
        self.c.context = NULL
        self.c.opened = ignore
        self.c.closed = ignore
        self.c.prepare = NULL
        self.c.execute = spin
        self.c.tick = NULL


cdef void ignore(void *context, service_session *client) noexcept nogil:
    pass


cdef void spin(void *context, request *asked, response *answer) noexcept nogil:
    cdef uint64_t until = rfp_now() + asked.flags
    cdef uint32_t length = min(<uint32_t> asked.count, answer.capacity)
    if length:
        rfp_store8(answer.payload + length - 1, 1)
    answer.length = length
    if asked.flags:
        while rfp_now() < until:
            pass


def read_rate(Channel channel not None, uint32_t size, double seconds):
    """Return the READs per second of `size` bytes of response memory, with a few under way."""
    cdef client_ring *ring = channel.c.rings[0]
    cdef work_request work
    cdef completion done[UNDER_WAY]
    cdef uint64_t started, until
    cdef uint64_t count = 0
    cdef uint32_t slot = 0
    cdef uint32_t under_way = 0
    cdef int n, i
    cdef bint failed = False
    memset(&work, 0, sizeof(work))
    work.opcode = READ
    work.flags = SIGNALED
    work.length = min(size, ring.slot_size)
    work.local = ring.scratch
    work.local_offset = client_ring_response_offset(ring, 0)
    work.remote = ring.responses
    with nogil:
        started = rfp_now()
        until = started + <uint64_t> (seconds * 1e9)
        while not failed and (rfp_now() < until or under_way):
            while under_way < min(<uint32_t> UNDER_WAY, ring.lookahead) and rfp_now() < until:
                work.remote_offset = ring.response_offset + <uint64_t> slot * ring.slot_size
                slot = (slot + 1) % ring.slots
                if ring.pair.ops.post(ring.pair, &work, 1) == 0:
                    break
                under_way += 1
            n = ring.pair.ops.poll(ring.pair, done, UNDER_WAY)
            for i in range(n):
                failed = failed or done[i].status != 0
            under_way -= n
            count += n
    if failed:
        raise ConnectionFailed("a READ failed while measuring")
    return count / ((rfp_now() - started) / 1e9)


def call_rate(Channel channel not None, uint32_t process_ns, uint32_t size, bint reply,
              double seconds):
    """Return the calls per second to a SpinService, one at a time, and the READs of each call.

    Args:
        process_ns: processing time at the server, in ns.
        size: of the result, in bytes.
        reply: whether the server WRITEs the result instead of the client READing it.
        seconds: duration of the measurement.
    """
    cdef client_ring *ring = channel.c.rings[0]
    cdef uint64_t started, until
    cdef uint64_t count = 0
    cdef uint64_t reads = ring.reads
    cdef int found = DONE
    cdef uint8_t paradigm = ring.paradigm
    ring.paradigm = 2 if reply else 1
    ring.mode = RFP_MODE_REPLY if reply else RFP_MODE_FETCH
    with nogil:
        started = rfp_now()
        until = started + <uint64_t> (seconds * 1e9)
        while found == DONE and rfp_now() < until:
            if client_ring_payload(ring) == NULL:
                found = 0
                break
            client_ring_submit(ring, RFP_OPCODE_CALL, <unsigned short> size, process_ns, 0, 0)
            client_ring_flush(ring)
            found = client_ring_wait(ring, until + 1000000000)
            if found == DONE:
                client_ring_pop(ring)
                count += 1
    ring.paradigm = paradigm
    ring.mode = RFP_MODE_FETCH
    if found != DONE:
        raise ConnectionFailed("a call failed while measuring")
    return count / ((rfp_now() - started) / 1e9), (ring.reads - reads) / max(1, count)

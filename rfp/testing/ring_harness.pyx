"""Both ends of a ring, driven by hand one step at a time.

For tests, and to bring up a new provider.

The functions call the same code as workers and clients, so they behave the same.  One thread may
hold both ends.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from rfp.core.core cimport (
    RFP_CRC32C_INSTRUCTION, RFP_CRC32C_STREAMS, RFP_CRC32C_TABLE, rfp_copy_out, rfp_crc32c,
    rfp_crc32c_appends_zeros, rfp_crc32c_kind, rfp_crc32c_powers, rfp_crc32c_powers_fill,
    rfp_crc32c_raw, rfp_crc32c_zeros, rfp_now, rfp_pause, rfp_random_below, rfp_random_mix,
)
from rfp.fabric.fabric cimport EventChannel, Region, RemoteRegion, event_channel, provider
from rfp.protocol.client cimport client_ring as client
from rfp.protocol.client.client_ring cimport ClientRing
from rfp.protocol.client.client_wait cimport client_ring_wait
from rfp.protocol.client.one_sided cimport client_ring_transfer
from rfp.protocol.server cimport server_ring as server
from rfp.protocol.server.server_ring cimport ServerRing
from rfp.protocol.server.service cimport Service, request, response, service_session
from rfp.protocol.server.worker cimport Worker
from rfp.protocol.wire cimport (
    RFP_KIND_INLINE, RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_OPCODE_CALL, RFP_REQUEST_HEADER,
    RFP_RESPONSE_HEADER, RFP_TAKE_LENGTH, RFP_TAKE_NONE, RFP_TAKE_UNFINISHED, RFP_TAKE_VALID,
    rfp_response_header,
)

from collections import namedtuple

Request = namedtuple("Request", "opcode count flags release payload")
Response = namedtuple("Response", "sequence status kind time result payload")

OUTCOMES = {client.PENDING: "not yet", client.DONE: "done", client.TIMED_OUT: "timed out",
            client.DISCONNECTED: "gone", client.CLOSED: "closed",
            client.PROTOCOL_ERROR: "malformed"}
TAKE_RESULTS = {RFP_TAKE_NONE: "none", RFP_TAKE_VALID: "valid", RFP_TAKE_UNFINISHED: "unfinished",
                RFP_TAKE_LENGTH: "length"}


CHECKSUMS = {RFP_CRC32C_TABLE: "table", RFP_CRC32C_INSTRUCTION: "instruction",
             RFP_CRC32C_STREAMS: "streams"}


def checksum(const unsigned char[::1] data, uint32_t crc=0) -> int:
    """Return the CRC32C of the wire format; crc: that of the bytes before these."""
    return rfp_crc32c(crc, &data[0] if data.shape[0] else NULL, data.shape[0])


def checksum_method() -> str:
    """Return how this build computes it: by a table, the instruction, or three streams of it."""
    return CHECKSUMS[rfp_crc32c_kind()]


def checksum_of_difference(const unsigned char[::1] data, Py_ssize_t zeros) -> int | None:
    """Return by how much the checksum of a block changes if these bytes are added to it (XOR) and
    so many bytes follow.

    None: this processor does not append zeros faster than it reads them.
    """
    cdef rfp_crc32c_powers powers
    if not rfp_crc32c_appends_zeros():
        return None
    rfp_crc32c_powers_fill(&powers)
    return rfp_crc32c_zeros(&powers, rfp_crc32c_raw(0, &data[0], data.shape[0]), zeros)


# The client's end

def begin(ClientRing ring not None, server_ring=None, *, sequence=None, fetch=None,
          fixed_fetch=None, mode=None, paradigm=None, retries=None, polls_per_round_trip=None,
          spin=None, checked=None):
    """Set the initial state of a ring.

    Args:
        ring: the client's end.
        server_ring: a ServerRing, which then expects `sequence` too.
        sequence: of the first request.
        fetch: F, in bytes.
        fixed_fetch: whether F stays fixed.
        mode: of the next request, "fetch" or "reply".
        paradigm: "auto", "fetch" or "reply".
        retries: R.
        polls_per_round_trip: as measured.
        spin: ns before a waiting thread sleeps.
        checked: False relies on the order of the fabric's READs, whatever the fabric reports.
    """
    if sequence is not None:
        ring.c.sequence = sequence
        if server_ring is not None:
            (<ServerRing> server_ring).c.sequence = sequence
    if fetch is not None:
        ring.c.fetch = fetch
    if fixed_fetch is not None:
        ring.c.fixed_fetch = fixed_fetch
    if mode is not None:
        ring.c.mode = {"fetch": RFP_MODE_FETCH, "reply": RFP_MODE_REPLY}[mode]
    if paradigm is not None:
        ring.c.paradigm = {"auto": client.AUTO, "fetch": client.FETCH,
                           "reply": client.REPLY}[paradigm]
    if retries is not None:
        ring.c.retries = retries
    if polls_per_round_trip is not None:
        ring.c.polls_per_round_trip = polls_per_round_trip
    if spin is not None:
        ring.c.spin.ns = spin
    if checked is not None:
        ring.c.checked = checked


def submit(ClientRing ring not None, bytes payload not None, *, uint8_t opcode=RFP_OPCODE_CALL,
           uint16_t count=0, uint32_t flags=0, uint64_t tag=0):
    """Build and seal a request.

    Returns:
        Its sequence, or None if all slots are taken or the ring is lost.
    """
    cdef char *place = client.client_ring_payload(&ring.c)
    if place == NULL:
        return None
    if PyBytes_GET_SIZE(payload) > ring.c.slot_size - RFP_REQUEST_HEADER:
        raise ValueError(f"{len(payload)} bytes do not fit into a slot of {ring.c.slot_size}")
    memcpy(place, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    return client.client_ring_submit(&ring.c, opcode, count, flags,
                                     <uint32_t> PyBytes_GET_SIZE(payload), tag)


def flush(ClientRing ring not None):
    """Send the submitted requests."""
    client.client_ring_flush(&ring.c)


def step(ClientRing ring not None):
    """Poll once for the oldest response: "not yet", "done", "gone" or "malformed"."""
    return OUTCOMES[client.client_ring_step(&ring.c)]


def wait(ClientRing ring not None, double seconds):
    """Wait for it as a client does; returns also "timed out" or "closed"."""
    cdef uint64_t deadline = rfp_now() + <uint64_t> (seconds * 1e9)
    cdef int found
    with nogil:
        found = client_ring_wait(&ring.c, deadline)
    return OUTCOMES[found]


def result(ClientRing ring not None):
    """Return the oldest response, after "done"."""
    cdef const rfp_response_header *header = client.client_ring_response(&ring.c)
    payload = PyBytes_FromStringAndSize(<const char *> header + RFP_RESPONSE_HEADER, header.length)
    return Response(header.sequence, header.status, header.kind, header.time, header.result,
                    payload)


def tag(ClientRing ring not None):
    """Return the tag that the oldest request was submitted with."""
    return client.client_ring_tag(&ring.c)


def pop(ClientRing ring not None):
    """Free the oldest request's slot."""
    client.client_ring_pop(&ring.c)


def abandon(ClientRing ring not None):
    """Abandon all requests in the ring: no thread waits for them any more."""
    client.client_ring_abandon(&ring.c)


def release(ClientRing ring not None, uint64_t pin):
    """Give a pin back with one of the next requests."""
    client.client_ring_release(&ring.c, pin)


def transfer(ClientRing ring not None, uint32_t opcode, Region local not None,
             uint64_t local_offset, RemoteRegion remote not None, uint64_t remote_offset,
             uint64_t length, double seconds):
    """Run a READ or WRITE beside the ring's own, to its end: "done", "gone" or "timed out"."""
    cdef uint64_t deadline = rfp_now() + <uint64_t> (seconds * 1e9)
    cdef int found
    with nogil:
        found = client_ring_transfer(&ring.c, opcode, &local.c, local_offset, &remote.c,
                                     remote_offset, length, deadline)
    return OUTCOMES[found]


def room(ClientRing ring not None):
    """Return the number of free slots."""
    return client.client_ring_room(&ring.c)


def mode(ClientRing ring not None):
    """Return the mode of the next request."""
    return "reply" if ring.c.mode == RFP_MODE_REPLY else "fetch"


# The server's end

def take(ServerRing ring not None, uint32_t ahead=0):
    """Check the request `ahead` places behind the next one.

    Returns:
        ("valid", Request), or ("none" | "unfinished" | "length", None).
    """
    cdef request taken
    cdef bytes copy = PyBytes_FromStringAndSize(NULL, ring.c.slot_size + 8)
    # The data of a bytes object begins 8 bytes after a multiple of 16: aligned as a copy must be.
    cdef char *place = PyBytes_AS_STRING(copy)
    place += -<size_t> place & 7
    cdef int found = server.ring_take(&ring.c, ahead, place, &taken)
    if found != RFP_TAKE_VALID:
        return TAKE_RESULTS[found], None
    return "valid", Request(taken.opcode, taken.count, taken.flags, taken.release,
                            PyBytes_FromStringAndSize(taken.payload, taken.length))


def publish(ServerRing ring not None, bytes payload not None, *, uint8_t status=0,
            uint8_t kind=RFP_KIND_INLINE, uint64_t result=0, uint64_t ns=0):
    """Take the next request, if it is there, and publish its response; does not check WAIT.

    Returns:
        Whether there was a request.
    """
    cdef request taken
    cdef bytes copy = PyBytes_FromStringAndSize(NULL, ring.c.slot_size + 8)
    cdef char *place = PyBytes_AS_STRING(copy)
    place += -<size_t> place & 7
    if PyBytes_GET_SIZE(payload) > ring.c.slot_size - RFP_RESPONSE_HEADER:
        raise ValueError(f"{len(payload)} bytes do not fit into a slot of {ring.c.slot_size}")
    if server.ring_take(&ring.c, 0, place, &taken) != RFP_TAKE_VALID:
        return False
    rfp_copy_out(ring.c.responses + <uint64_t> ring.c.head * ring.c.slot_size + RFP_RESPONSE_HEADER,
                 PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    server.ring_publish(&ring.c, place, <uint32_t> PyBytes_GET_SIZE(payload), ns, status, kind,
                        result)
    return True


def notify(ServerRing ring not None, uint32_t count=1):
    """Check WAIT in the last `count` requests that have responses, and notify their clients."""
    server.ring_notify(&ring.c, count)


def complete(ServerRing ring not None):
    """Take the completions of replies.  Returns the number of posts that are not complete."""
    server.ring_complete(&ring.c)
    return ring.c.replies


def impatient(Worker worker not None):
    """Make a worker that has not been started sleep as soon as it finds no work."""
    worker.c.spin.ns = 0


# Services

cdef struct echo:
    uint64_t delay
    uint64_t random
    int sessions
    uint64_t ticks_before_answer
    uint64_t ticked_at         # since the last response


cdef class Echo(Service):
    """Returns every request's own payload, after a random delay.

    Args:
        delay: ns, on average; each request takes from none to twice that, the same times for the
            same seed.
        tends: number of ticks that the worker must run before each response.
    """
    cdef echo state

    def __cinit__(self, *, uint64_t delay=0, uint64_t seed=1, uint64_t ticks_before_answer=0):
        self.state.delay = delay
        self.state.ticks_before_answer = ticks_before_answer
        self.state.random = rfp_random_mix(seed) | 1
        self.c.context = &self.state
        self.c.opened = count_in
        self.c.closed = count_out
        self.c.prepare = NULL
        self.c.execute = repeat
        self.c.tick = count_tick

    def slow_down(self, uint64_t delay):
        """Set another delay."""
        self.state.delay = delay

    @property
    def sessions(self):
        """The number of open sessions."""
        return self.state.sessions


cdef void count_in(void *context, service_session *_) noexcept nogil:
    (<echo *> context).sessions += 1


cdef void count_out(void *context, service_session *_) noexcept nogil:
    (<echo *> context).sessions -= 1


cdef bint count_tick(void *context, uint64_t _) noexcept nogil:
    (<echo *> context).ticked_at += 1
    return False


cdef void repeat(void *context, request *asked, response *answer) noexcept nogil:
    cdef echo *state = <echo *> context
    cdef uint64_t until
    if state.ticked_at < state.ticks_before_answer:
        answer.retry_later = True
        return
    state.ticked_at = 0
    if state.delay:
        until = rfp_now() + rfp_random_below(&state.random, 2 * state.delay)
        while rfp_now() < until:
            rfp_pause()
    answer.length = min(asked.length, answer.capacity)
    answer.result = asked.length
    rfp_copy_out(answer.payload, asked.payload, answer.length)


cdef struct deposits:          # records that clients store without a request
    uint64_t limit
    uint64_t stored
    uint64_t collected
    uint64_t overslept         # sleeps that began although a record was stored
    event_channel *channel
    const provider *actual
    provider substituted


cdef deposits *spied = NULL    # by spy(): a channel has no context


cdef class Deposits(Service):
    """Collects records that are stored without a request.

    After spy(channel), a record is stored each time the channel's worker is about to announce a
    sleep: at the last moment at which its client cannot see the announcement, and so does not
    notify.

    Args:
        limit: number of such records.
    """
    cdef deposits state

    def __cinit__(self, *, uint64_t limit):
        self.state.limit = limit
        self.c.context = &self.state
        self.c.opened = ignore
        self.c.closed = ignore
        self.c.prepare = NULL
        self.c.execute = answer_nothing
        self.c.tick = collect
        self.c.polls_when_idle = True

    def spy(self, EventChannel channel not None):
        """Observe the sleeps on a channel, before its worker is started.  One channel at a time."""
        global spied
        self.state.channel = &channel.c
        self.state.actual = channel.c.ops
        self.state.substituted = self.state.actual[0]
        self.state.substituted.prepare_wait = store_and_prepare_wait
        self.state.substituted.wait = observed_wait
        spied = &self.state
        channel.c.ops = &self.state.substituted

    def end(self):
        """Leave the channel as it was, after its worker has ended."""
        global spied
        self.state.channel.ops = self.state.actual
        spied = NULL

    @property
    def collected(self):
        """The number of records collected."""
        return self.state.collected

    @property
    def overslept(self):
        """The number of sleeps that began although a record was stored."""
        return self.state.overslept


cdef bint collect(void *context, uint64_t _) noexcept nogil:
    cdef deposits *state = <deposits *> context
    cdef bint found = state.collected != state.stored
    state.collected = state.stored
    return found


cdef uint32_t store_and_prepare_wait(event_channel *channel) noexcept nogil:
    spied.stored += spied.stored < spied.limit
    return spied.actual.prepare_wait(channel)


cdef bint observed_wait(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil:
    spied.overslept += spied.collected != spied.stored
    return spied.actual.wait(channel, armed, ns)


cdef void answer_nothing(void *context, request *asked, response *answer) noexcept nogil:
    pass


cdef enum:
    PAYLOAD_BYTES_MAX = 1 << 20

cdef struct fixed:
    uint8_t status
    uint8_t kind
    uint64_t result
    uint32_t length
    char payload[PAYLOAD_BYTES_MAX]


cdef class Fixed(Service):
    """Gives every request the same response, however wrong: a server that must not be trusted."""
    cdef fixed *state

    def __cinit__(self):
        self.state = <fixed *> calloc(1, sizeof(fixed))
        if self.state == NULL:
            raise MemoryError()
        self.c.context = self.state
        self.c.opened = ignore
        self.c.closed = ignore
        self.c.prepare = NULL
        self.c.execute = answer_fixed
        self.c.tick = NULL

    def __dealloc__(self):
        free(self.state)

    def say(self, bytes payload not None, *, uint8_t status=0, uint8_t kind=RFP_KIND_INLINE,
            uint64_t result=0):
        """Set the response; only while no request is under way."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"{len(payload)} bytes are more than any slot holds")
        self.state.status = status
        self.state.kind = kind
        self.state.result = result
        self.state.length = <uint32_t> len(payload)
        memcpy(self.state.payload, PyBytes_AS_STRING(payload), len(payload))


cdef void ignore(void *context, service_session *_) noexcept nogil:
    pass


cdef void answer_fixed(void *context, request *asked, response *answer) noexcept nogil:
    cdef fixed *state = <fixed *> context
    answer.status = state.status
    answer.kind = state.kind
    answer.result = state.result
    answer.length = min(state.length, answer.capacity)
    rfp_copy_out(answer.payload, state.payload, answer.length)


# Behaviour of no honest peer

def alternate(region not None, uint64_t offset, list versions not None, double seconds):
    """Write one version after the other to the same place, as fast as possible.

    region: a Region or RemoteRegion.  The first version is also the last one written.
    """
    cdef const char *texts[16]
    cdef uint64_t lengths[16]
    cdef uint64_t until = rfp_now() + <uint64_t> (seconds * 1e9)
    cdef int n = len(versions)
    cdef int i
    cdef char *base
    cdef uint64_t length
    if isinstance(region, Region):
        base, length = (<Region> region).c.base, (<Region> region).c.length
    else:
        base, length = (<RemoteRegion?> region).c.base, (<RemoteRegion> region).c.length
    if not 1 <= n <= 16:
        raise ValueError("1 to 16 versions")
    for i in range(n):
        texts[i] = PyBytes_AS_STRING(versions[i])
        lengths[i] = len(versions[i])
        if offset > length or lengths[i] > length - offset:
            raise ValueError("outside the region")
    with nogil:
        while rfp_now() < until:
            for i in range(n):
                rfp_copy_out(base + offset, texts[i], lengths[i])
        rfp_copy_out(base + offset, texts[0], lengths[0])


def calls(ClientRing ring not None, uint64_t n, uint32_t length, *, double timeout=30.0):
    """Make n calls to an Echo, one after the other, of `length` bytes each.

    It stops after `timeout` seconds for all of them, or after a failure.

    Returns:
        The number of correct responses.
    """
    cdef uint64_t deadline = rfp_now() + <uint64_t> (timeout * 1e9)
    cdef uint64_t i
    cdef uint64_t good = 0
    cdef uint32_t k
    cdef bint same
    cdef char *place
    cdef const rfp_response_header *header
    cdef const char *text
    if length > ring.c.slot_size - RFP_REQUEST_HEADER:
        raise ValueError(f"{length} bytes do not fit into a slot of {ring.c.slot_size}")
    with nogil:
        for i in range(n):
            place = client.client_ring_payload(&ring.c)
            if place == NULL:
                break
            memset(place, <int> (i & 255), length)
            client.client_ring_submit(&ring.c, RFP_OPCODE_CALL, 0, 0, length, i)
            client.client_ring_flush(&ring.c)
            if client_ring_wait(&ring.c, deadline) != client.DONE:
                break
            header = client.client_ring_response(&ring.c)
            text = <const char *> header + RFP_RESPONSE_HEADER
            same = header.length == length
            if same:
                for k in range(length):
                    same = same and text[k] == <char> (i & 255)
            good += same and client.client_ring_tag(&ring.c) == i
            client.client_ring_pop(&ring.c)
    return good

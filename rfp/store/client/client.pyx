"""The store's client: `rfp.connect()` returns one.

A GET: get() -> get_value() prepares the call -> ClientBase.run() (protocol/client/client_base.pyx)
-> attempt_get() -> submit_key() builds the request (requests.pyx) and client_ring.pyx posts it ->
client_wait.pyx waits -> finish_get() makes the value of the response.
"""

from collections import namedtuple
from operator import index

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_hash, rfp_now
from rfp.core.limits cimport RFP_SIZE_CLASSES
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport USER_STATE_WORDS, Channel, channel
from rfp.protocol.client.client_base cimport (
    ClientBase, attempt_each_worker, attempt_request, client_call, number_of, seconds_of, tag_of,
)
from rfp.protocol.client.client_ring cimport (
    AUTO, DISCONNECTED, DONE, FETCH, NOT_ATTACHED, PROTOCOL_ERROR, RAISED, REPLY, UNDECIDED,
    client_ring,
)
from rfp.protocol.wire cimport (
    RFP_FEATURE_DIRECT_READS, RFP_FEATURE_PLACES, RFP_FEATURE_VIEWS, RFP_KIND_INLINE,
    RFP_KIND_REFERENCE, RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_REFERENCE, RFP_RESPONSE_HEADER,
    rfp_response_header,
)
from rfp.store.client.batch cimport delete_many, exists_many, get_many, get_ranges, put_many
from rfp.store.client.bypass cimport bypass, bypass_get
from rfp.store.client.direct_read cimport (
    DIRECT_FOUND, DIRECT_UNSURE, DirectReads, direct_result,
)
from rfp.store.client.large_values cimport attempt_upload, fetch_reference
from rfp.store.client.located_read cimport LANDING_MEMORY_BYTES, LocatedReads
from rfp.store.client.recency cimport recency_before_request
from rfp.store.client.requests cimport (
    kv_inline_limit, kv_submit, kv_submit_get, kv_submit_number, kv_submit_put, kv_submit_range,
    kv_worker,
)
from rfp.store.client.scan cimport clear, scan, scan_iter
from rfp.store.client.transfers cimport get_into_many
from rfp.store.client.views cimport view_many, view_one
from rfp.store.messages cimport (
    KV_COUNTERS, KV_DELETE, KV_EXISTS, KV_EXISTS_ALREADY, KV_GET, KV_GET_RANGE, KV_IF_ABSENT,
    KV_IF_VERSION, KV_INCR, KV_MAX_KEY, KV_MAX_VALUE, KV_NOT_A_NUMBER, KV_NOT_FOUND, KV_OK,
    KV_OUT_OF_MEMORY, KV_OVERFLOW, KV_PLACED, KV_PUT, KV_QUOTA, KV_STATS, KV_TOO_LARGE, KV_TOUCH,
    KV_UNKNOWN_UPLOAD, KV_VERSION_MISMATCH, kv_place,
)

from rfp.errors import (
    AlreadyExists, Closed, ConnectionFailed, FabricError, HandshakeFailed, InvalidArgument,
    NotANumber, OutOfMemory, QuotaExceeded, ServerRefused, TooLarge, Unsupported, VersionMismatch,
    WrongType, out_of_bounds,
)
from rfp.protocol.client.caller_memory import Registration, checked
from rfp.protocol.client.client_base import TIME_S_MAX, TIME_S_MIN
from rfp.store.client.reservation import Reservation
from rfp.store.counters import COUNTERS

assert sizeof(bypass) == 8 * USER_STATE_WORDS     # a channel keeps one for each worker

cdef enum:
    PROBES = 9                 # direct reads that are compared with as many pings
    SLOWER_BY = 2              # direct reads are not chosen if they take longer by this factor

Item = namedtuple("Item", ["value", "version"])
Item.__doc__ = "A value and the version that its put returned."

assert len(COUNTERS) == KV_COUNTERS, "the names of the counters must match messages.h"


cdef bytes as_key(key):
    """Return a key as bytes after checking it."""
    if type(key) is not bytes:
        if isinstance(key, str):
            raise WrongType(f"keys must be bytes, not a str: {key!r}", hint="use key.encode()")
        key = bytes(checked(key, "keys"))
    if not 1 <= len(key) <= KV_MAX_KEY:
        raise InvalidArgument(f"a key must have 1 to {KV_MAX_KEY} bytes, got {len(key)} bytes")
    return key


cdef uint64_t whole_number(str name, object value, object lowest, object highest) except? 0:
    """Return a whole number from lowest to highest; a negative one as its two's complement."""
    try:
        value = index(value)
    except TypeError:
        raise WrongType(f"{name} must be a whole number, not {value!r}") from None
    if not lowest <= value <= highest:
        raise out_of_bounds(name, value, lowest, highest)
    return <uint64_t> (value & 0xFFFFFFFFFFFFFFFF)


cdef object refusal(uint8_t status, uint64_t result, bytes key):
    """Return the exception for a status of the server."""
    name = key if len(key) <= 40 else key[:37] + b"..."
    if status == KV_EXISTS_ALREADY:
        return AlreadyExists(f"{name!r} already has a value, version {result}", version=result)
    if status == KV_VERSION_MISMATCH:
        if result == 0:
            return VersionMismatch(f"{name!r} has no value", version=None)
        return VersionMismatch(f"{name!r} now has version {result}", version=result,
                               hint="read the value again")
    if status == KV_OUT_OF_MEMORY:
        return OutOfMemory(f"the server has no room for {name!r}",
                           hint="start the server with a larger memory=, or with eviction")
    if status == KV_TOO_LARGE:
        return TooLarge(f"the value of {name!r} exceeds the server's limit",
                        hint="store at most 256 MiB and half of one worker's "
                             "share of memory=, or set a larger quota=")
    if status == KV_NOT_A_NUMBER:
        return NotANumber(f"the value of {name!r} is not a decimal 64-bit integer")
    if status == KV_OVERFLOW:
        return NotANumber(f"the sum at {name!r} exceeds 64 bits")
    if status == KV_QUOTA:
        return QuotaExceeded("this client already holds the most large values that one client may",
                             hint="transfer fewer at a time, or start "
                                  "the server with a larger quota=")
    if status == KV_UNKNOWN_UPLOAD:
        return ServerRefused("the server aborted the upload of the value of "
                             f"{name!r}: its pieces arrived too slowly")
    return ServerRefused(f"the server refused the request for {name!r} with status {status}",
                         hint="use the same release of rfp-rnvm on both sides")


cdef uint64_t milliseconds(ttl) except? 0:
    """Return a time to live (seconds; None: none) in the request's unit, ms; 0: none."""
    cdef double seconds
    if ttl is None:
        return 0
    seconds = number_of("ttl", ttl)
    if not TIME_S_MIN <= seconds <= TIME_S_MAX:
        raise out_of_bounds("ttl", ttl, TIME_S_MIN, TIME_S_MAX,
                            hint="give seconds, or None for no expiry")
    return max(<uint64_t> 1, <uint64_t> (seconds * 1000 + 0.5))


# Requests: each function builds one in the ring that it chooses


cdef client_ring *choose_ring(channel *ch, key_call *k) noexcept nogil:
    """Set and return the ring to the worker that owns the key."""
    k.c.worker = 0
    if ch.count > 1:
        k.c.worker = kv_worker(rfp_hash(k.key, k.key_length, ch.seed), ch.count)
    k.c.ring = ch.rings[k.c.worker]
    return k.c.ring


cdef bint submit_key(channel *ch, client_call *c) noexcept nogil:
    cdef key_call *k = <key_call *> c
    if k.opcode == KV_GET:
        return kv_submit_get(choose_ring(ch, k), ch.landing != NULL, k.key, k.key_length,
                             tag_of(c))
    return kv_submit(choose_ring(ch, k), k.opcode, k.key, k.key_length, tag_of(c))


cdef bint submit_number(channel *ch, client_call *c) noexcept nogil:
    cdef key_call *k = <key_call *> c
    return kv_submit_number(choose_ring(ch, k), k.opcode, k.number, k.key, k.key_length,
                            tag_of(c))


cdef bint submit_range(channel *ch, client_call *c) noexcept nogil:
    cdef range_call *part = <range_call *> c
    return kv_submit_range(choose_ring(ch, &part.g.k), part.offset, part.length, part.g.k.key,
                           part.g.k.key_length, tag_of(c))


cdef bint submit_put(channel *ch, client_call *c) noexcept nogil:
    """Build KV_PUT, or KV_PUT_BEGIN, which announces an upload."""
    cdef put_call *put = <put_call *> c
    return kv_submit_put(choose_ring(ch, &put.k), put.k.opcode, put.flags, put.k.key,
                         put.k.key_length, <const char *> put.view.buf, <uint32_t> put.view.len,
                         put.ttl_ms, put.version, tag_of(c))


cdef bint submit_stats(channel *ch, client_call *c) noexcept nogil:
    c.ring = ch.rings[c.worker]
    return kv_submit(c.ring, KV_STATS, b"", 0, tag_of(c))


# Responses: each function returns the value of one, or raises


cdef object deliver(const char *data, uint32_t length, Py_buffer *view):
    """Return a value that came in a slot; or copy it to the buffer and return its length."""
    if view == NULL:
        return PyBytes_FromStringAndSize(data, length)
    if length > view.len:
        raise InvalidArgument(f"a value of {length} bytes does not fit "
                              f"into the buffer of {view.len}", hint="give a larger buffer")
    memcpy(view.buf, data, length)
    return length


cdef object finish_get(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return the value; if the response is a reference, keep that for attempt_get()."""
    cdef get_call *get = <get_call *> c
    cdef const char *payload = <const char *> response + RFP_RESPONSE_HEADER
    cdef uint32_t length = response.length
    if response.status == KV_NOT_FOUND:
        return None
    if response.status == KV_PLACED and response.kind == RFP_KIND_INLINE and \
            length >= sizeof(kv_place):
        length -= sizeof(kv_place)
        memcpy(&get.place, payload + length, sizeof(kv_place))
    elif response.status != KV_OK:
        raise refusal(response.status, response.result, <bytes> get.k.key_object)
    if response.kind != RFP_KIND_REFERENCE:
        value = deliver(payload, length, get.view)
        return Item(value, response.result) if get.with_version else value
    get.by_reference = True
    get.version = response.result
    memset(&get.reference, 0, sizeof(get.reference))
    if response.length == RFP_REFERENCE:
        memcpy(&get.reference, payload, RFP_REFERENCE)
    return None


cdef object finish_range(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return the bytes of the range; if the response is a reference, as finish_get()."""
    cdef range_call *part = <range_call *> c
    value = finish_get(client, c, response)
    if part.g.by_reference:
        if part.g.reference.length > part.length:
            c.result = PROTOCOL_ERROR
    elif value is not None and response.length > part.length:
        c.result = PROTOCOL_ERROR
    return value


cdef object finish_put(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return the version."""
    if response.status != KV_OK:
        raise refusal(response.status, response.result,
                      <bytes> (<key_call *> c).key_object)
    return response.result


cdef object finish_bool(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return whether the key had a value."""
    if response.status == KV_OK:
        return True
    if response.status == KV_NOT_FOUND:
        return False
    raise refusal(response.status, response.result, <bytes> (<key_call *> c).key_object)


cdef object finish_incr(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return the sum."""
    cdef int64_t total = 0
    if response.status != KV_OK:
        raise refusal(response.status, response.result, <bytes> (<key_call *> c).key_object)
    if response.length >= sizeof(total):
        memcpy(&total, <const char *> response + RFP_RESPONSE_HEADER, sizeof(total))
    return total


cdef object finish_stats(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return one worker's counters, by name."""
    cdef uint64_t value
    cdef uint32_t i
    counters = {}
    # A newer server has more counters, an older one fewer: take the common ones.
    for i in range(min(response.length // 8, <uint32_t> len(COUNTERS))):
        memcpy(&value, <const char *> response + RFP_RESPONSE_HEADER + 8 * i, 8)
        counters[COUNTERS[i]] = value
    return counters


# Attempts of calls that are not one request (for those, attempt_request)


cdef object attempt_get(ClientBase base, Channel owner, client_call *c):
    """GET: by bypass if the handle uses it, else by a request."""
    if (<Client> base).bypass:
        value = get_by_bypass(<Client> base, owner, <get_call *> c)
        if c.result == DONE:
            return value
    return attempt_value(base, owner, c)


cdef object attempt_value(ClientBase base, Channel owner, client_call *c):
    """Send a request for a value or a part of one; READ what comes by reference."""
    cdef Client client = <Client> base
    cdef get_call *get = <get_call *> c
    get.by_reference = False
    get.place.slot = 0
    value = attempt_request(client, owner, c)
    if c.result == DONE and get.by_reference:
        value = fetch_reference(client, owner, get)
    if c.result == DONE and get.k.opcode == KV_GET:
        learn_place(client, owner, get)
    if get.by_reference:
        return Item(value, get.version) if get.with_version else value
    return value


cdef int learn_place(Client client, Channel owner, get_call *get) except -1:
    """Remember the place that the response to a GET has named, if it has."""
    cdef LocatedReads located = client.located(&owner.c)
    cdef uint64_t hash
    if located is None:
        return 0
    hash = rfp_hash(get.k.key, get.k.key_length, located.seed)
    if get.place.slot:
        located.learn(hash, &get.place)
    elif get.by_reference:
        located.learn_reference(hash, get.k.key_length, get.reference.offset, get.reference.length)
    return 0


cdef object get_by_bypass(Client client, Channel owner, get_call *get):
    """GET by reading the server's index; unless c.result is DONE, send the server a request."""
    cdef client_call *c = &get.k.c
    cdef const char *value = NULL
    cdef uint32_t length = 0
    cdef bypass *b
    c.result = UNDECIDED
    choose_ring(&owner.c, &get.k)
    b = <bypass *> &owner.c.user_state[USER_STATE_WORDS * c.worker]
    if owner.c.arenas[c.worker] == NULL:
        return None
    while True:
        with nogil:
            c.result = bypass_get(b, c.ring, owner.c.arenas[c.worker], get.k.key, get.k.key_length,
                                  rfp_hash(get.k.key, get.k.key_length, owner.c.seed),
                                  owner.c.seed, c.deadline_ns, &value, &length, &get.version)
        if c.result != NOT_ATTACHED:
            break
        c.result = client.map_chunks(owner, c.worker, b.missing, 1, c.deadline_ns)
        if c.result != DONE:
            return None                     # the request will fail with the cause
    if c.result != DONE:
        return None
    delivered = deliver(value, length, get.view)
    return Item(delivered, get.version) if get.with_version else delivered


cdef object attempt_put(ClientBase client, Channel owner, client_call *c):
    """PUT in one request if the value fits into a slot, else by an upload."""
    cdef put_call *put = <put_call *> c
    if put.view.len <= kv_inline_limit(owner.c.rings[0], put.k.key_length):
        put.k.opcode = KV_PUT
        return attempt_request(client, owner, c)
    return attempt_upload(<Client> client, owner, put)


cdef object attempt_stats(ClientBase client, Channel owner, client_call *c):
    partitions = attempt_each_worker(client, owner, c)
    return sum_of_workers(<Client> client, owner, partitions) if c.result == DONE else None


cdef dict sum_of_workers(Client client, Channel owner, list partitions):
    counters = owner.counters
    counters["bypass"] = bypass_counters(owner)
    if client.direct is not None:
        counters["direct"] = client.direct.counters
    counters["calibration"] = client.calibration
    total = {name: sum(partition.get(name, 0) for partition in partitions) for name in COUNTERS}
    return {**total, "partitions": partitions, "client": counters}


cdef dict bypass_counters(Channel owner):
    """Return this thread's walks, the walks that found their record, and their READs."""
    cdef bypass *b
    cdef uint32_t i
    total = {"walks": 0, "found": 0, "reads": 0}
    for i in range(owner.c.count):
        b = <bypass *> &owner.c.user_state[USER_STATE_WORDS * i]
        total["walks"] += b.walks
        total["found"] += b.found
        total["reads"] += b.reads
    return total


cdef class Client(ClientBase):
    """The store of a server, over one connection that all threads of this process may use.

    Keys are 1 to 1024 bytes, values 0 bytes to 256 MiB.  Every call takes `timeout=` in seconds
    (the handle's by default) and raises DeadlineExceeded after that time; docs/errors.md lists the
    other errors.  Costs are in network round trips, for values that fit into a slot (about 2 KiB).

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
    ...     version = kv.put(b"k", b"v")
    ...     kv.get(b"k")
    b'v'
    """

    def __init__(self, open_connection, *, timeout=5.0, bint reconnect=True, str mode="auto",
                 fetch=None, retries=None, tuned=None, location_cache=0):
        super().__init__(open_connection, timeout=timeout, reconnect=reconnect)
        self.mode = mode
        self.bypass = mode == "bypass"
        self.fetch = fetch
        self.retries = retries
        self.tuned = tuned
        self.location_cache = location_cache
        self.registrations = []

    @property
    def seed(self):
        """Return the seed of the hash that chooses a key's worker, of the present server."""
        return self.connection.seed

    def configure_channel(self, Channel owner not None):
        """Set up the rings of a new channel by the options of this handle."""
        cdef client_ring *ring
        cdef DirectReads direct
        cdef uint32_t i, k
        cdef bint emulated = False
        cdef bint loads = True                  # a READ is a load
        if self.bypass and not self.connection.features & RFP_FEATURE_DIRECT_READS:
            raise Unsupported(
                f"{self.connection.address} does not allow mode=\"bypass\"",
                hint="start the server with direct_reads=True (without --no-direct-reads), or use "
                     "another mode")
        for i in range(owner.c.count):
            ring = owner.c.rings[i]
            emulated = emulated or getattr(owner.rings[i].pair, "emulated", False)
            loads = loads and ring.direct
            ring.paradigm = {"auto": AUTO, "fetch": FETCH, "reply": REPLY,
                             "bypass": AUTO}[self.mode]
            ring.mode = RFP_MODE_REPLY if self.mode == "reply" else RFP_MODE_FETCH
            if self.tuned is not None:
                ring.retries = self.tuned.chosen["retries"]
                ring.fetch = min(<uint32_t> self.tuned.chosen["fetch"], ring.slot_size)
                for k in range(RFP_SIZE_CLASSES):
                    ring.rate[k] = self.tuned.rates[k]
            if self.retries is not None:
                ring.retries = self.retries
            if self.fetch is not None:
                ring.fetch = min(<uint32_t> self.fetch, ring.slot_size)
                ring.fixed_fetch = True
        self.views_in_place = not emulated and not self.connection.needs_registration and \
            self.connection.features & RFP_FEATURE_VIEWS
        if self.mode != "auto":
            return
        if self.chosen_identity != self.identity:
            # Loads take no emulated time: with them the timing of no network would be shown.
            direct = DirectReads(self.connection) if loads and not emulated else None
            if not loads or emulated:
                if self.location_cache and self.connection.features & RFP_FEATURE_PLACES:
                    direct = LocatedReads(self.connection, self.location_cache)
            self.direct = direct
            self.chosen_identity = self.identity
            self.direct_identity = self.identity if direct is not None and direct.count else 0
            self.direct_ns = 0
        if self.direct_identity and isinstance(self.direct, LocatedReads):
            try:
                owner.land_in(self.connection.fabric.register(LANDING_MEMORY_BYTES, 0))
            except FabricError:
                pass                            # this thread sends requests instead

    def calibrate(self, Channel owner not None, uint64_t deadline):
        """Measure a round trip; and once for each connection, whether direct reads are faster."""
        cdef uint64_t started, quickest = <uint64_t> -1
        cdef int i
        ClientBase.calibrate(self, owner, deadline)
        if not self.direct_identity or self.direct_identity != self.identity or self.direct_ns:
            return
        for i in range(PROBES):
            started = rfp_now()
            if not self.direct.probe(&owner.c):
                return
            quickest = min(quickest, rfp_now() - started)
        self.direct_ns = max(quickest, <uint64_t> 1)
        # The quickest of several: other load on the machine only ever slows them down.  A tie goes
        # to direct reads, which need no other process.
        if self.direct_ns > self.ping_ns * SLOWER_BY:
            self.direct_identity = 0

    cdef LocatedReads located(self, channel *ch):
        if ch.landing == NULL or self.direct_identity != self.identity or \
                not isinstance(self.direct, LocatedReads) or self.direct.seed != ch.seed:
            return None
        return <LocatedReads> self.direct

    cdef int prepare_key_call(self, key_call *k, uint8_t opcode, bytes key) except -1:
        """Set the key of a call; the caller keeps `key` until run() has returned."""
        if self.direct is not None:
            self.direct.uses.reports_alone = 0
            if self.direct.uses.used_in_all:
                self.report_uses()
        k.opcode = opcode
        k.key = PyBytes_AS_STRING(key)
        k.key_length = <uint32_t> PyBytes_GET_SIZE(key)
        k.key_object = <void *> key
        return 0

    def get(self, key, *, timeout=None):
        """Return the value of a key, or None.

        Cost:
            On the server's host, with mode="auto": no round trip; the client reads the server's
            memory (docs/store.md, direct reads).  Over a network 1 READ, if the client knows the
            place of the value (docs/store.md, located reads).  Else 2 network round trips: one
            WRITE and one READ (RFP, section 3.1).

        >>> kv.get(b"nobody") is None
        True
        """
        cdef direct_result result = DIRECT_UNSURE
        cdef uint64_t version = 0
        if self.direct_identity == self.identity and type(key) is bytes:
            value = self.get_directly(<bytes> key, NULL, timeout, &version, &result)
            if result != DIRECT_UNSURE:
                return value
        return self.get_value(key, None, False, timeout)

    cdef void report_uses(self) noexcept:
        cdef DirectReads direct = self.direct
        if direct is not None and self.direct_identity == self.identity:
            recency_before_request(&direct.uses,
                                   self.ready_channel() if direct.uses.used_in_all else NULL)

    cdef channel *direct_channel(self, bytes key, object timeout) except? NULL:
        if self.direct_identity != self.identity or self.direct_identity == 0:
            return NULL
        if not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            return NULL
        if timeout is not None:
            seconds_of(timeout)
        return self.ready_channel()

    cdef object get_directly(self, bytes key, Py_buffer *view, object timeout, uint64_t *version,
                             direct_result *result):
        cdef DirectReads direct
        cdef channel *ch = self.direct_channel(key, timeout)
        if ch == NULL:
            result[0] = DIRECT_UNSURE
            return None
        # A reference of its own: while a long value is copied without the GIL, another thread may
        # connect again and replace self.direct.
        direct = self.direct
        return direct.get(ch, key, view, version, result)

    def item(self, key, *, timeout=None):
        """Return the value of a key with its version, as Item(value, version), or None.

        Cost:
            As get().

        >>> version = kv.put(b"k", b"v")
        >>> kv.item(b"k") == (b"v", version)
        True
        """
        return self.get_value(key, None, True, timeout)

    def get_into(self, key, buffer, *, timeout=None):
        """Fetch the value of a key into a buffer; return its length, or None if there is no value.

        A large value arrives without a copy.  After an error the contents of the buffer are
        undefined.

        Args:
            key: 1 to 1024 bytes.
            buffer: any contiguous writable buffer.
            timeout: seconds; None: that of the handle.

        Raises:
            InvalidArgument: the buffer is too short.
            WrongBuffer: the buffer is not writable.

        Cost:
            As get(); over a network 3 round trips for a value that does not fit into a slot.

        >>> kv.put(b"k", b"value") > 0
        True
        >>> buffer = bytearray(10)
        >>> kv.get_into(b"k", buffer), bytes(buffer[:5])
        (5, b'value')
        """
        if buffer is None:
            raise WrongType("get_into needs a buffer, not None",
                            hint="use get(), which returns new bytes")
        return self.get_value(key, buffer, False, timeout)

    def get_range(self, key, offset, length, *, timeout=None):
        """Return a part of the value of a key, or None if the key has no value.

        The part ends at the end of the value: a range that begins at or behind it is empty.

        Args:
            key: 1 to 1024 bytes.
            offset: of the first byte, from 0 on.
            length: bytes at most.
            timeout: seconds; None: that of the handle.

        Cost:
            On the server's host, with mode="auto": no round trip.  Else 2 network round trips; 3
            for a part that does not fit into a slot.  The rest of the value is not transferred.

        >>> version = kv.put(b"k", b"0123456789")
        >>> kv.get_range(b"k", 2, 3), kv.get_range(b"k", 8, 100), kv.get_range(b"k", 10, 1)
        (b'234', b'89', b'')
        """
        cdef range_call part
        cdef channel *ch
        cdef DirectReads direct
        cdef direct_result result
        key = as_key(key)
        part.offset = whole_number("offset", offset, 0, INT64_MAX)
        part.length = whole_number("length", length, 0, INT64_MAX)
        ch = self.direct_channel(<bytes> key, timeout)
        if ch != NULL:
            direct = self.direct
            value = direct.get_range(ch, <bytes> key, part.offset, part.length, &result)
            if result != DIRECT_UNSURE:
                return value
        self.prepare_call(&part.g.k.c, timeout, True, attempt_value, submit_range, finish_range)
        self.prepare_key_call(&part.g.k, KV_GET_RANGE, <bytes> key)
        part.g.with_version = False
        part.g.view = NULL
        return self.run(&part.g.k.c)

    cdef object get_value(self, object key, object buffer, bint with_version, object timeout):
        """GET: into a bytes object, into one with its version, or into the caller's buffer."""
        cdef get_call get
        cdef Py_buffer view
        cdef direct_result result = DIRECT_UNSURE
        cdef uint64_t version = 0
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            key = as_key(key)
        if buffer is None and with_version:
            value = self.get_directly(<bytes> key, NULL, timeout, &version, &result)
            if result != DIRECT_UNSURE:
                return Item(value, version) if result == DIRECT_FOUND else None
        self.prepare_call(&get.k.c, timeout, True, attempt_get, submit_key, finish_get)
        self.prepare_key_call(&get.k, KV_GET, <bytes> key)
        get.with_version = with_version
        get.view = NULL
        if buffer is None:
            return self.run(&get.k.c)
        take_buffer(buffer, &view, True)
        get.view = &view
        try:
            value = self.get_directly(<bytes> key, &view, timeout, &version, &result)
            if result != DIRECT_UNSURE:
                return value
            return self.run(&get.k.c)
        finally:
            PyBuffer_Release(&view)

    cdef outcome map_chunks(self, Channel owner, uint32_t worker, uint64_t offset, uint64_t length,
                            uint64_t deadline) except RAISED:
        """Attach the missing chunks of a range of a worker's arena."""
        try:
            owner.connection.map_chunks(worker, offset, length, deadline)
        except HandshakeFailed:
            return PROTOCOL_ERROR
        except ConnectionFailed:
            return DISCONNECTED
        return DONE

    def put(self, key, value, *, ttl=None, bint if_absent=False, if_version=None, timeout=None):
        """Store a value under a key; return its version, an int that only ever grows.

        Args:
            key: 1 to 1024 bytes.
            value: any contiguous buffer.
            ttl: seconds until it expires; None: never.
            if_absent: store only if the key has no value.
            if_version: store only over the value with this version.
            timeout: seconds; None: that of the handle.

        Raises:
            AlreadyExists: if_absent, and the key has a value.
            VersionMismatch: if_version, and the key has another version or no value.
            TooLarge: the value is longer than 256 MiB or the server's limit.
            OutOfMemory: the server has no room.
            OutcomeUnknown: the connection was lost after the request was sent.

        Cost:
            2 network round trips.  A value that does not fit into a slot costs one WRITE and one
            request for each 128 KiB, and becomes visible as a whole.

        >>> first = kv.put(b"k", b"v")
        >>> kv.put(b"k", b"w", if_version=first) > first
        True
        """
        cdef put_call put
        cdef Py_buffer view
        self.prepare_call(&put.k.c, timeout, False, attempt_put, submit_put, finish_put)
        put.ttl_ms = milliseconds(ttl)
        put.version = 0
        put.flags = 0
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            key = as_key(key)
        self.prepare_key_call(&put.k, KV_PUT, <bytes> key)
        if if_absent:
            if if_version is not None:
                raise InvalidArgument("cannot use both if_absent and if_version")
            put.flags = KV_IF_ABSENT
        elif if_version is not None:
            put.flags = KV_IF_VERSION
            put.version = whole_number("if_version", if_version, 0, 0xFFFFFFFFFFFFFFFF)
        take_buffer(value, &view, False)
        put.view = &view
        try:
            if view.len > KV_MAX_VALUE:
                raise TooLarge(f"a value of {view.len} bytes exceeds the limit of 256 MiB",
                               hint="split it into several values")
            return self.run(&put.k.c)
        finally:
            PyBuffer_Release(&view)

    def view(self, key, *, timeout=None):
        """Return a View of the value of a key, or None if it has none: a read-only buffer.

        On the server's host the view is the value itself, in the server's memory: nothing is
        copied, and it stays as it is when the key is overwritten or deleted.  Values below 64 KiB,
        and all values over a network, are copied (`View.copied`).

        Args:
            key: 1 to 1024 bytes.
            timeout: seconds; None: that of the handle.

        Raises:
            QuotaExceeded: the views of this process keep `quota=` bytes of the worker's memory, or
                those of all processes a quarter of it.

        Cost:
            2 network round trips.  None for a value that this process views or has viewed a moment
            ago, with mode="auto".  Over a network as get().

        >>> version = kv.put(b"k", bytes(1 << 20))
        >>> with kv.view(b"k") as view:
        ...     view.nbytes, view.version == version, memoryview(view).readonly
        (1048576, True, True)
        """
        return view_one(self, key, timeout)

    def view_many(self, keys, *, timeout=None):
        """Return views of the values of many keys, as a list; None for a key without one.

        The call is not atomic.  After an exception it keeps no view.

        Args:
            keys: an iterable of keys.
            timeout: seconds; None: that of the handle.

        Raises:
            QuotaExceeded: as view().

        Cost:
            That of view() for each key; the requests overlap.

        >>> version = kv.put(b"k", bytes(100_000))
        >>> [view and view.nbytes for view in kv.view_many([b"k", b"nobody"])]
        [100000, None]
        """
        return view_many(self, keys, timeout)

    def reserve(self, key, nbytes, *, ttl=None, bint if_absent=False, if_version=None,
                timeout=None):
        """Return a Reservation: a writable buffer that becomes the value at the end of a `with`.

        The buffer is in this process's memory and contains zeros.  Nothing exists at the server
        before the block ends; then the value is put, and visible as a whole.  An exception in the
        block gives it up.  Writes into the buffer after the block do not reach the value.

        Args:
            key: 1 to 1024 bytes.
            nbytes: length of the value.
            ttl, if_absent, if_version, timeout: as for put(), which the end of the block makes.

        Raises:
            InvalidArgument, WrongType: as put().
            TooLarge: the value is longer than 256 MiB or the server's limit.

        Cost:
            None; the end of the block costs what put() costs, and raises what it raises.

        >>> with kv.reserve(b"k", 5) as buffer:
        ...     buffer[:] = b"value"
        >>> kv.get(b"k")
        b'value'
        """
        key = as_key(key)
        nbytes = whole_number("nbytes", nbytes, 0, INT64_MAX)
        if nbytes > KV_MAX_VALUE:
            raise TooLarge(f"a value of {nbytes} bytes exceeds the limit of 256 MiB",
                           hint="split it into several values")
        if if_absent and if_version is not None:
            raise InvalidArgument("cannot use both if_absent and if_version")
        if nbytes > self.connection.max_value:
            raise TooLarge(f"a value of {nbytes} bytes exceeds the server's limit of "
                           f"{self.connection.max_value}",
                           hint="split it into several values, or start the server with a larger "
                                "memory=")
        milliseconds(ttl)
        if if_version is not None:
            whole_number("if_version", if_version, 0, 0xFFFFFFFFFFFFFFFF)
        if timeout is not None:
            seconds_of(timeout)
        return Reservation(self, key, nbytes, ttl=ttl, if_absent=if_absent, if_version=if_version,
                           timeout=timeout)

    def delete(self, key, *, timeout=None):
        """Delete a key; return whether it had a value.

        Cost:
            2 network round trips.

        >>> kv.delete(b"nobody")
        False
        """
        cdef key_call k
        key = as_key(key)
        self.prepare_call(&k.c, timeout, False, attempt_request, submit_key, finish_bool)
        self.prepare_key_call(&k, KV_DELETE, <bytes> key)
        return self.run(&k.c)

    def exists(self, key, *, timeout=None):
        """Return whether a key has a value, without fetching it; `key in kv` does the same.

        Cost:
            On the server's host, with mode="auto": no round trip.  Else 2 network round trips.

        >>> b"nobody" in kv
        False
        """
        cdef key_call k
        cdef channel *ch
        cdef DirectReads direct
        cdef direct_result result
        cdef bint found
        key = as_key(key)
        ch = self.direct_channel(<bytes> key, timeout)
        if ch != NULL:
            direct = self.direct
            found = direct.exists(ch, <bytes> key, direct.hash_of(<bytes> key), &result)
            if result != DIRECT_UNSURE:
                return found
        self.prepare_call(&k.c, timeout, True, attempt_request, submit_key, finish_bool)
        self.prepare_key_call(&k, KV_EXISTS, <bytes> key)
        return self.run(&k.c)

    def __contains__(self, key):
        return self.exists(key)

    def incr(self, key, amount=1, *, timeout=None):
        """Add to a value that is a decimal 64-bit integer; return the sum.  A missing key is 0.

        Raises:
            NotANumber: the value is no such integer, or the sum exceeds 64 bits; the value is
                unchanged.
            OutcomeUnknown: the connection was lost after the request was sent.

        Cost:
            2 network round trips.

        >>> kv.incr(b"visits"), kv.incr(b"visits", 10), kv.get(b"visits")
        (1, 11, b'11')
        """
        cdef key_call k
        key = as_key(key)
        k.number = whole_number("amount", amount, -0x8000000000000000, 0x7FFFFFFFFFFFFFFF)
        self.prepare_call(&k.c, timeout, False, attempt_request, submit_number, finish_incr)
        self.prepare_key_call(&k, KV_INCR, <bytes> key)
        return self.run(&k.c)

    def touch(self, key, ttl=None, *, timeout=None):
        """Set a new time to live; return whether the key has a value.

        Args:
            key: 1 to 1024 bytes.
            ttl: seconds from now; None: no expiry.
            timeout: seconds; None: that of the handle.

        Cost:
            2 network round trips.

        >>> kv.touch(b"nobody", ttl=5)
        False
        """
        cdef key_call k
        key = as_key(key)
        k.number = milliseconds(ttl)
        self.prepare_call(&k.c, timeout, True, attempt_request, submit_number, finish_bool)
        self.prepare_key_call(&k, KV_TOUCH, <bytes> key)
        return self.run(&k.c)

    def get_many(self, keys, *, timeout=None):
        """Return the values of many keys, as a list in their order; None for a key without one.

        The timeout begins once all keys have been taken from the iterable.  The call is not atomic.

        Cost:
            On the server's host, with mode="auto": no round trip, as get().  Over a network 1 round
            trip for each 64 keys whose places are known, and for the others about 2 for each 16
            keys, overlapping: keys of one worker share requests.

        >>> kv.put(b"a", b"1") > 0
        True
        >>> kv.get_many([b"a", b"nobody"])
        [b'1', None]
        """
        return get_many(self, keys, timeout)

    def get_ranges(self, ranges, *, timeout=None):
        """Return parts of many values, as a list; None for a key without a value.  Not atomic.

        Args:
            ranges: an iterable of (key, offset, length), each as for get_range.
            timeout: seconds; None: that of the handle.

        Cost:
            That of get_many.  A part that does not fit into its response costs a request of its
            own.

        >>> version = kv.put(b"k", b"0123456789")
        >>> kv.get_ranges([(b"k", 0, 2), (b"k", 5, 2), (b"nobody", 0, 1)])
        [b'01', b'56', None]
        """
        return get_ranges(self, ranges, timeout)

    def exists_many(self, keys, *, timeout=None):
        """Return a list of whether each key has a value.  Not atomic.

        Cost:
            That of get_many, without the values.

        >>> kv.put(b"a", b"1") > 0
        True
        >>> kv.exists_many([b"a", b"nobody"])
        [True, False]
        """
        return exists_many(self, keys, timeout)

    def get_into_many(self, keys, buffers, *, timeout=None):
        """Fetch the values of many keys, each into its buffer; return a list of their lengths.

        The list contains None for a key without a value, and for a value that is longer than its
        buffer, or that the server refuses, the exception that get_into() would raise.  After an
        error the contents of the buffers are undefined.  The call is not atomic.

        Args:
            keys: an iterable of keys.
            buffers: an iterable of contiguous writable buffers, as many as keys, which must not
                overlap.
            timeout: seconds; None: that of the handle.

        Raises:
            InvalidArgument: there are more keys than buffers, or fewer.
            WrongBuffer: a buffer is not writable.

        Cost:
            That of get_into for each key.  The requests overlap: while one value is transferred,
            the server prepares the next ones.

        >>> kv.put(b"a", b"value") > 0
        True
        >>> buffers = [bytearray(5), bytearray(5)]
        >>> kv.get_into_many([b"a", b"nobody"], buffers), bytes(buffers[0])
        ([5, None], b'value')
        """
        return get_into_many(self, keys, buffers, timeout)

    def put_many(self, items, *, ttl=None, timeout=None):
        """Store many values; return a list with each one's version, or the ServerRefused for it.

        All items are taken and checked before the first is sent, and the timeout begins then.  The
        values of a list, a tuple or a dict are used in place.  The values of any other iterable,
        which may use its memory again, are copied as they come.  The call is not atomic.

        An error that ends the whole call (the deadline, the loss of the server) is raised with the
        attribute `results`: the results that are known by then.

        Args:
            items: a mapping, or an iterable of pairs.
            ttl: seconds until the values expire; None: never.
            timeout: seconds; None: that of the handle.

        Cost:
            About 2 network round trips for each 16 values, overlapping.  Values that do not fit
            into a slot: 4 for each 8 of up to 128 KiB; longer ones as put.

        >>> versions = kv.put_many({b"a": b"1", b"b": b"2"})
        >>> versions[0] < versions[1]
        True
        """
        return put_many(self, items, milliseconds(ttl), timeout)

    def delete_many(self, keys, *, timeout=None):
        """Delete many keys; return a list of whether each had a value.  Not atomic.

        Cost:
            That of get_many.

        >>> kv.delete_many([b"a", b"nobody"])
        [True, False]
        """
        return delete_many(self, keys, timeout)

    def scan(self, prefix=b"", cursor=0, count=128, *, timeout=None):
        """Return (cursor, keys): the next keys of a scan, and where to continue it.

        Begin with the cursor 0; the scan has ended when the returned cursor is 0.  A step may
        return no key although the scan has not ended.

        Every key that exists during the whole scan is returned at least once, whatever other
        clients do meanwhile, and also while the server reorganizes its memory.  A key that is
        put or deleted during the scan may be returned or not.  The order is arbitrary.  A scan
        does not count as a use of the keys for eviction.

        Args:
            prefix: return only keys that begin with it; at most 1024 bytes.
            cursor: 0, or the cursor returned last.  It remains valid when the client reconnects
                to the same server; a server that was started later refuses it.
            count: keys to return at most.  A response contains as many as fit into a slot (about
                100 short ones).
            timeout: seconds; None: that of the handle.

        Raises:
            InvalidArgument: the cursor belongs to another server.

        Cost:
            2 network round trips.  One step occupies the worker for some microseconds, however
            few keys have the prefix; the worker then serves the other clients first.

        >>> kv.put(b"user:1", b"ann") > 0
        True
        >>> kv.scan(b"user:", count=10)[1]
        [b'user:1']
        """
        return scan(self, prefix, cursor, count, timeout)

    def scan_iter(self, prefix=b"", *, count=128, timeout=None):
        """Return an iterator over the keys with a prefix, as scan() finds them.

        A key may come more than once: use a set where that matters.

        Args:
            prefix: at most 1024 bytes.
            count: keys per request at most.
            timeout: seconds for each request; None: that of the handle.

        Cost:
            That of scan(), about once for each 100 keys of the server.

        >>> sorted(kv.scan_iter(b"user:"))
        [b'user:1']
        """
        return scan_iter(self, prefix, count, timeout)

    def clear(self, prefix=b"", *, timeout=None):
        """Delete all keys with a prefix; return their number.

        Every key that exists during the whole call is deleted.  A key that is put meanwhile may
        be deleted or not.  The call is not atomic: after an error a part of the keys is deleted.

        Args:
            prefix: at most 1024 bytes; b"": all keys.
            timeout: seconds for the whole call; None: that of the handle.

        Raises:
            OutcomeUnknown: the connection was lost after a request was sent.

        Cost:
            2 network round trips for about 128 keys of the server, with or without the prefix.
            No key is transferred.

        >>> kv.clear(b"user:")
        1
        """
        return clear(self, prefix, timeout)

    def register(self, buffer):
        """Let calls reach a buffer without a copy, until the returned Registration is closed.

        This is for values that do not fit into a slot: put() of the buffer's contents, get_into()
        of a range of it.  Over RDMA, registering pins the memory, and costs a device from
        microseconds to (soft-RoCE) a second for 64 MiB: do it once for a buffer that is used often.
        Memory that is not registered is copied through a buffer of the client.  On shared memory
        registering costs nothing.

        Args:
            buffer: any contiguous one: bytearray, numpy array, torch tensor on the CPU.

        Returns:
            A context manager.

        Raises:
            WrongBuffer: the memory cannot be used.
            WrongType: the object is no buffer.
            FabricError: too much memory is pinned (see `ulimit -l`).

        >>> buffer = bytearray(100_000)
        >>> with kv.register(buffer):
        ...     version = kv.put(b"large", buffer)
        ...     kv.get_into(b"large", buffer)
        100000
        """
        if self.is_closed:
            raise Closed("this handle is closed")
        return Registration(self.registrations, buffer, self.connection)

    def stats(self, *, timeout=None):
        """Return the server's counters, as a dict.

        It contains the sums over the workers, "partitions" with the counters of each, and "client"
        with the counters of this thread's rings and, as "direct", those of this handle's direct
        reads, which the server's counters ("gets", "hits", "misses") do not include.

        Cost:
            2 network round trips for each worker.
        """
        cdef client_call c
        self.prepare_call(&c, timeout, True, attempt_stats, submit_stats, finish_stats)
        return self.run(&c)

    @property
    def calibration(self):
        """Return what was measured at connect (ns), and the choice for GETs.

        "direct_ns" is None if direct reads are not possible here, or not wanted.
        """
        direct = self.direct_identity != 0 and self.direct_identity == self.identity
        return {"request_ns": self.ping_ns, "direct_ns": self.direct_ns or None,
                "gets": "direct" if direct else "bypass" if self.bypass else "request"}

    def __repr__(self):
        return f"<rfp.Client of {self.connection.address}{' (closed)' if self.is_closed else ''}>"

"""The store's client: `rfp.connect()` returns one."""

from collections import namedtuple
from operator import index

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_hash, rfp_now
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport USER_STATE_WORDS, Channel, channel
from rfp.protocol.client.client_base cimport ClientBase, number_of
from rfp.protocol.client.client_ring cimport (
    AUTO, DISCONNECTED, DONE, FETCH, PROTOCOL_ERROR, REPLY, SIZES, TIMED_OUT, client_ring,
    client_ring_abandon, client_ring_flush, client_ring_pop, client_ring_response,
)
from rfp.protocol.wire cimport (
    RFP_FEATURE_BYPASS, RFP_KIND_REFERENCE, RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_REFERENCE,
    RFP_RESPONSE_HEADER, rfp_reference, rfp_response_header,
)
from rfp.store.client.batch cimport delete_many, get_many, put_many
from rfp.store.client.bypass cimport BYPASS_FOUND, BYPASS_MISSING, BYPASS_UNSURE, bypass, bypass_get
from rfp.store.client.large_values cimport fetch_reference, upload
from rfp.store.client.requests cimport (
    kv_inline_limit, kv_submit, kv_submit_number, kv_submit_put, kv_worker,
)
from rfp.store.messages cimport (
    KV_COUNTERS, KV_DELETE, KV_EXISTS, KV_EXISTS_ALREADY, KV_GET, KV_IF_ABSENT, KV_IF_VERSION,
    KV_INCR, KV_MAX_KEY, KV_MAX_VALUE, KV_NOT_A_NUMBER, KV_NOT_FOUND, KV_OK, KV_OUT_OF_MEMORY,
    KV_OVERFLOW, KV_PUT, KV_QUOTA, KV_STATS, KV_TOO_LARGE, KV_TOUCH, KV_UNKNOWN_UPLOAD,
    KV_VERSION_MISMATCH,
)

from rfp.errors import (
    AlreadyExists, Closed, ConnectionFailed, HandshakeFailed, InvalidArgument, NotANumber, OutOfMemory, QuotaExceeded,
    ServerRefused, TooLarge, Unsupported, VersionMismatch, WrongType, out_of_bounds, shown,
)
from rfp.protocol.client.caller_memory import Registration, checked
from rfp.protocol.client.client_base import TIME_S_MAX
from rfp.store.counters import COUNTERS

Item = namedtuple("Item", ["value", "version"])
Item.__doc__ = "A value and the version that its put returned."

assert len(COUNTERS) == KV_COUNTERS, "the names of the counters must match messages.h"


cdef bytes as_key(key):
    """The key as bytes; raises what is wrong with it."""
    if type(key) is not bytes:
        if isinstance(key, str):
            raise WrongType(f"keys must be bytes, not a str: {key!r}", hint="use key.encode()")
        key = bytes(checked(key, "keys"))
    if not 1 <= len(key) <= KV_MAX_KEY:
        raise InvalidArgument(f"a key must have 1 to {KV_MAX_KEY} bytes, got {len(key)} bytes")
    return key


cdef uint64_t whole_number(str name, value, lowest, highest) except? 0:
    """An argument that is a whole number from lowest to highest; negative ones as their two's complement."""
    try:
        value = index(value)
    except TypeError:
        raise WrongType(f"{name} must be a whole number, not {value!r}") from None
    if not lowest <= value <= highest:
        raise out_of_bounds(name, value, lowest, highest)
    return <uint64_t> (value & 0xFFFFFFFFFFFFFFFF)


cdef object refusal(uint8_t status, uint64_t result, bytes key):
    """The exception for a status of the server's."""
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
    """A time to live (seconds, None for none) as it travels: whole milliseconds, 0 for none."""
    cdef double seconds
    if ttl is None:
        return 0
    seconds = number_of("ttl", ttl)
    if not 0 < seconds < TIME_S_MAX:
        raise InvalidArgument("ttl must be positive and less than "
                              f"{TIME_S_MAX:.0e}, got {shown(ttl)}",
                              hint="give seconds, or None for no expiry")
    return max(<uint64_t> 1, <uint64_t> (seconds * 1000 + 0.5))


cdef class Client(ClientBase):
    """The store of a server, over one connection that all threads of this process may use.

    Keys are 1 to 1024 bytes, values 0 bytes to 256 MiB.  Every call takes `timeout=` in seconds (the handle's by default) and
    raises DeadlineExceeded when it has passed; see docs/errors.md for what else can go wrong.  Costs are given in
    round trips of the network for values that fit into a slot (about 2 KiB).

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
    ...     version = kv.put(b"k", b"v")
    ...     kv.get(b"k")
    b'v'
    """

    def __init__(self, open_connection, *, timeout=5.0, bint reconnect=True, str mode="auto", fetch=None, retries=None,
                 tuned=None):
        super().__init__(open_connection, timeout=timeout, reconnect=reconnect)
        self.mode = mode
        self.bypass = mode == "bypass"
        self.fetch = fetch
        self.retries = retries
        self.tuned = tuned
        self.registrations = []

    @property
    def seed(self):
        """Of the hash that tells a key's worker, at the present server."""
        return self.connection.seed

    cdef uint32_t worker_of(self, channel *c, bytes key) noexcept:
        if c.count == 1:
            return 0
        return kv_worker(rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), c.seed), c.count)

    def prepare(self, Channel owner not None):
        """Sets up a new channel the way this handle was asked to work."""
        cdef client_ring *ring
        cdef uint32_t i, k
        if self.bypass and not self.connection.features & RFP_FEATURE_BYPASS:
            raise Unsupported(f"{self.connection.address} does not allow mode=\"bypass\"",
                              hint="start the server with allow_bypass=True (--allow-bypass), or use another mode")
        for i in range(owner.c.count):
            ring = owner.c.rings[i]
            ring.paradigm = {"auto": AUTO, "fetch": FETCH, "reply": REPLY, "bypass": AUTO}[self.mode]
            ring.mode = RFP_MODE_REPLY if self.mode == "reply" else RFP_MODE_FETCH
            if self.tuned is not None:
                ring.retries = self.tuned.chosen["retries"]
                ring.fetch = min(<uint32_t> self.tuned.chosen["fetch"], ring.slot_size)
                for k in range(SIZES):
                    ring.rate[k] = self.tuned.rates[k]
            if self.retries is not None:
                ring.retries = self.retries
            if self.fetch is not None:
                ring.fetch = min(<uint32_t> self.fetch, ring.slot_size)
                ring.fixed_fetch = True

    def get(self, key, *, timeout=None):
        """The value of a key, or None.  One WRITE and one READ: 2 round trips (RFP, section 3.1).

        >>> kv.get(b"nobody") is None
        True
        """
        return self.get_value(key, None, False, timeout)

    def item(self, key, *, timeout=None):
        """The value of a key with its version, as Item(value, version), or None.  2 round trips.

        >>> version = kv.put(b"k", b"v")
        >>> kv.item(b"k") == (b"v", version)
        True
        """
        return self.get_value(key, None, True, timeout)

    def get_into(self, key, buffer, *, timeout=None):
        """Fetches the value into a writable buffer; returns its length in bytes, or None if the key has no value.

        Large values arrive without a copy in between.  Raises InvalidArgument if the buffer is too short, WrongBuffer if it
        cannot be written; what it holds after an error is undefined.  2 round trips; 3 for a value that does not fit into a slot.

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

    cdef object get_value(self, object key, object buffer, bint with_version, object timeout):
        """The three kinds of GET: into a bytes object, the same with its version, into the caller's buffer."""
        cdef uint64_t deadline = self.deadline(timeout)
        cdef Py_buffer view
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            key = as_key(key)
        if buffer is None:
            return self.get_from_worker(key, NULL, with_version, deadline)
        take_buffer(buffer, &view, True)
        try:
            return self.get_from_worker(key, &view, with_version, deadline)
        finally:
            PyBuffer_Release(&view)

    cdef object get_from_worker(self, bytes key, Py_buffer *view, bint with_version, uint64_t deadline):
        cdef Channel owner
        cdef client_ring *ring
        cdef const rfp_response_header *header
        cdef rfp_reference reference
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t length = <uint32_t> PyBytes_GET_SIZE(key)
        cdef uint32_t worker
        cdef uint64_t started, version
        cdef const char *text_found = NULL
        cdef uint32_t length_found = 0
        cdef int found
        cdef bint taken
        while True:
            owner = self.acquire_channel(deadline)
            try:
                worker = self.worker_of(&owner.c, key)
                ring = owner.c.rings[worker]
                if self.bypass:
                    found = self.bypass_get_value(owner, worker, key, deadline, &text_found, &length_found, &version)
                    if found == BYPASS_FOUND:
                        value = deliver(text_found, length_found, view)
                        return Item(value, version) if with_version else value
                started = rfp_now()
                with nogil:
                    taken = kv_submit(ring, KV_GET, text, length, 0)
                    client_ring_flush(ring)
                found = self.wait(owner, ring, deadline) if taken else self.make_room(owner, ring, deadline)
                if found == DONE:
                    header = client_ring_response(ring)
                    try:
                        version = header.result
                        if header.status == KV_NOT_FOUND:
                            return None
                        if header.status != KV_OK:
                            raise refusal(header.status, header.result, key)
                        if header.kind != RFP_KIND_REFERENCE:
                            value = deliver(<const char *> header + RFP_RESPONSE_HEADER, header.length, view)
                            return Item(value, version) if with_version else value
                        memset(&reference, 0, sizeof(reference))
                        if header.length == RFP_REFERENCE:
                            memcpy(&reference, <const char *> header + RFP_RESPONSE_HEADER, RFP_REFERENCE)
                    finally:
                        client_ring_pop(ring)
                    value = fetch_reference(self, owner, worker, &reference, started, deadline, view, &found)
                    if found == DONE:
                        return Item(value, version) if with_version else value
                elif found == TIMED_OUT:
                    client_ring_abandon(ring)
            finally:
                self.release_channel(owner)
            self.raise_or_retry(found, deadline, True)

    cdef int bypass_get_value(self, Channel owner, uint32_t worker, bytes key, uint64_t deadline, const char **value,
                              uint32_t *length, uint64_t *version) except -1:
        """A GET that walks the server's index; anything but BYPASS_FOUND means that the server is to be asked."""
        cdef channel *c = &owner.c
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t size = <uint32_t> PyBytes_GET_SIZE(key)
        cdef bypass *b = <bypass *> &c.user_state[USER_STATE_WORDS * worker]
        cdef int found
        if c.arenas[worker] == NULL:
            return BYPASS_UNSURE
        while True:
            with nogil:
                found = bypass_get(b, c.rings[worker], c.arenas[worker], text, size, rfp_hash(text, size, c.seed), deadline,
                                   value, length, version)
            if found != BYPASS_MISSING:
                return found
            found = self.map_chunks(owner, worker, b.missing, 1, deadline)
            if found != DONE:
                return BYPASS_UNSURE        # to ask the server tells why

    cdef int map_chunks(self, Channel owner, uint32_t worker, uint64_t offset, uint64_t length, uint64_t deadline) except -1:
        """Attaches what is missing of a range of a worker's arena: DONE, or why not."""
        try:
            owner.connection.map_chunks(worker, offset, length, deadline)
        except HandshakeFailed:
            return PROTOCOL_ERROR
        except ConnectionFailed:
            return DISCONNECTED
        return DONE

    cdef int send_and_wait(self, Channel owner, client_ring *ring, bint taken, uint64_t deadline, answer *out) except -1:
        """Sends what was submitted last and takes its answer; returns what client_ring_wait or make_room found."""
        cdef const rfp_response_header *header
        cdef int found
        if not taken:
            return self.make_room(owner, ring, deadline)
        with nogil:
            client_ring_flush(ring)
        found = self.wait(owner, ring, deadline)
        if found == DONE:
            header = client_ring_response(ring)
            out.status = header.status
            out.result = header.result
            out.number = 0
            if header.length >= 8:
                memcpy(&out.number, <const char *> header + RFP_RESPONSE_HEADER, 8)
            client_ring_pop(ring)
        elif found == TIMED_OUT:
            client_ring_abandon(ring)
        return found

    cdef uint64_t change(self, uint8_t opcode, bytes key, bint has_number, uint64_t number, bint repeatable, object timeout,
                         answer *out) except? 0:
        """A request that is a key and perhaps a number; returns the result."""
        cdef uint64_t deadline = self.deadline(timeout)
        cdef Channel owner
        cdef client_ring *ring
        cdef int found
        cdef bint taken
        while True:
            owner = self.acquire_channel(deadline)
            try:
                ring = owner.c.rings[self.worker_of(&owner.c, key)]
                if has_number:
                    taken = kv_submit_number(ring, opcode, number, PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key), 0)
                else:
                    taken = kv_submit(ring, opcode, PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key), 0)
                found = self.send_and_wait(owner, ring, taken, deadline, out)
            finally:
                self.release_channel(owner)
            if found == DONE:
                return out.result
            self.raise_or_retry(found, deadline, repeatable or not taken)

    def put(self, key, value, *, ttl=None, bint if_absent=False, if_version=None, timeout=None):
        """Stores a value (any contiguous buffer) under a key; returns its version, an int that only ever grows.

        ttl: seconds until it expires; if_absent: only if the key has no value, else AlreadyExists; if_version: only over the
        value with this version, else VersionMismatch.  2 round trips; a value that does not fit into a slot costs one WRITE and
        one request for each 128 KiB, and becomes visible as a whole.

        >>> first = kv.put(b"k", b"v")
        >>> kv.put(b"k", b"w", if_version=first) > first
        True
        """
        cdef uint64_t deadline = self.deadline(timeout)
        cdef uint64_t ttl_ms = milliseconds(ttl)
        cdef uint64_t version = 0
        cdef uint32_t flags = 0
        cdef uint32_t key_length
        cdef Channel owner
        cdef client_ring *ring
        cdef answer out
        cdef Py_buffer view
        cdef int found
        cdef bint taken = False
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            key = as_key(key)
        if if_absent:
            if if_version is not None:
                raise InvalidArgument("cannot use both if_absent and if_version")
            flags = KV_IF_ABSENT
        elif if_version is not None:
            flags = KV_IF_VERSION
            version = whole_number("if_version", if_version, 0, 0xFFFFFFFFFFFFFFFF)
        key_length = <uint32_t> PyBytes_GET_SIZE(key)
        take_buffer(value, &view, False)
        try:
            if view.len > KV_MAX_VALUE:
                raise TooLarge(f"a value of {view.len} bytes exceeds the limit of 256 MiB",
                               hint="split it into several values")
            while True:
                owner = self.acquire_channel(deadline)
                try:
                    ring = owner.c.rings[self.worker_of(&owner.c, key)]
                    if view.len <= kv_inline_limit(ring, key_length):
                        taken = kv_submit_put(ring, KV_PUT, flags, PyBytes_AS_STRING(key), key_length, <const char *> view.buf,
                                              <uint32_t> view.len, ttl_ms, version, 0)
                        found = self.send_and_wait(owner, ring, taken, deadline, &out)
                    else:
                        found = upload(self, owner, ring, key, &view, ttl_ms, flags, version, deadline, &out, &taken)
                finally:
                    self.release_channel(owner)
                if found == DONE:
                    if out.status == KV_OK:
                        return out.result
                    raise refusal(out.status, out.result, key)
                self.raise_or_retry(found, deadline, not taken)
        finally:
            PyBuffer_Release(&view)

    def delete(self, key, *, timeout=None):
        """Deletes a key; returns whether it had a value.  2 round trips.

        >>> kv.delete(b"nobody")
        False
        """
        cdef answer out
        key = as_key(key)
        self.change(KV_DELETE, key, False, 0, False, timeout, &out)
        return yes_or_no(&out, key)

    def exists(self, key, *, timeout=None):
        """Whether a key has a value, without fetching it; `key in kv` is the same.  2 round trips.

        >>> b"nobody" in kv
        False
        """
        cdef answer out
        key = as_key(key)
        self.change(KV_EXISTS, key, False, 0, True, timeout, &out)
        return yes_or_no(&out, key)

    def __contains__(self, key):
        return self.exists(key)

    def incr(self, key, amount=1, *, timeout=None):
        """Adds to a value that is a decimal 64-bit integer; returns the sum.  A missing key starts at 0.  2 round trips.

        Raises NotANumber if the value is anything else, or the sum goes beyond 64 bits; the value then stays as it was.

        >>> kv.incr(b"visits"), kv.incr(b"visits", 10), kv.get(b"visits")
        (1, 11, b'11')
        """
        cdef answer out
        key = as_key(key)
        self.change(KV_INCR, key, True, whole_number("amount", amount, -0x8000000000000000, 0x7FFFFFFFFFFFFFFF), False, timeout,
                    &out)
        if out.status != KV_OK:
            raise refusal(out.status, out.result, key)
        return <int64_t> out.number

    def touch(self, key, ttl=None, *, timeout=None):
        """Gives a value a new time to live (seconds from now; None for ever); returns whether there is one.  2 round trips.

        >>> kv.touch(b"nobody", ttl=5)
        False
        """
        cdef answer out
        key = as_key(key)
        self.change(KV_TOUCH, key, True, milliseconds(ttl), True, timeout, &out)
        return yes_or_no(&out, key)

    def get_many(self, keys, *, timeout=None):
        """The values of many keys, as a list in their order with None for those that have none.

        The timeout begins when all keys have been taken from the iterable.  Not atomic.  Keys of one worker share requests: about
        2 round trips for each 16 of them, overlapping.

        >>> kv.put(b"a", b"1") > 0
        True
        >>> kv.get_many([b"a", b"nobody"])
        [b'1', None]
        """
        return get_many(self, keys, timeout)

    def put_many(self, items, *, ttl=None, timeout=None):
        """Stores many values (a mapping, or pairs); returns a list with, for each, its version or the ServerRefused that it met.

        All items are taken and checked before the first is sent, and the timeout begins then.  The values of a list, a tuple or
        a dict are used in place; those of any other iterable, which may use its memory again, are copied as they come.

        Not atomic.  About 2 round trips for each 16 values, overlapping.  What ends the whole call (the deadline, the loss of the
        server) is raised, with `results`: what is known by then.

        >>> versions = kv.put_many({b"a": b"1", b"b": b"2"})
        >>> versions[0] < versions[1]
        True
        """
        return put_many(self, items, milliseconds(ttl), timeout)

    def delete_many(self, keys, *, timeout=None):
        """Deletes many keys; returns a list of whether each had a value.  Not atomic; costs as get_many.

        >>> kv.delete_many([b"a", b"nobody"])
        [True, False]
        """
        return delete_many(self, keys, timeout)

    def register(self, buffer):
        """Lets calls reach this buffer (any contiguous one: bytearray, numpy array, torch tensor on the CPU) without a copy in
        between, until the registration that it returns, a context manager, is closed.

        For values that do not fit into a slot: put() of what stands in it, get_into() of a range of it.  Over RDMA, registering
        pins the memory and costs a device from microseconds to (soft-RoCE) a second for 64 MiB, so do it once for a buffer that
        is used often; what is not registered goes through a buffer of the client's.  On shared memory it costs nothing.
        Raises WrongBuffer, WrongType, FabricError (too much memory pinned: see `ulimit -l`).

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
        """What the server counts, as a dict: the sums over its workers, "partitions" with each one's, and "client" with what
        this thread's rings count.  2 round trips for each worker."""
        cdef uint64_t deadline = self.deadline(timeout)
        cdef Channel owner
        cdef client_ring *ring
        cdef const rfp_response_header *header
        cdef uint64_t value
        cdef uint32_t i, k
        cdef int found = DONE
        while True:
            partitions = []
            owner = self.acquire_channel(deadline)
            try:
                for i in range(owner.c.count):
                    ring = owner.c.rings[i]
                    if kv_submit(ring, KV_STATS, b"", 0, 0):
                        with nogil:
                            client_ring_flush(ring)
                        found = self.wait(owner, ring, deadline)
                    else:
                        found = self.make_room(owner, ring, deadline)
                    if found != DONE:
                        if found == TIMED_OUT:
                            client_ring_abandon(ring)
                        break
                    header = client_ring_response(ring)
                    counters = {}
                    # A newer server counts more, an older one less: take what both know.
                    for k in range(min(header.length // 8, <uint32_t> len(COUNTERS))):
                        memcpy(&value, <const char *> header + RFP_RESPONSE_HEADER + 8 * k, 8)
                        counters[COUNTERS[k]] = value
                    client_ring_pop(ring)
                    partitions.append(counters)
                client = owner.counters
                client["bypass"] = bypass_counters(owner)
            finally:
                self.release_channel(owner)
            if found == DONE:
                break
            self.raise_or_retry(found, deadline, True)
        total = {name: sum(partition.get(name, 0) for partition in partitions) for name in COUNTERS}
        return {**total, "partitions": partitions, "client": client}

    def __repr__(self):
        return f"<rfp.Client of {self.connection.address}{' (closed)' if self.is_closed else ''}>"


cdef dict bypass_counters(Channel owner):
    """How many walks this thread began, how many found their record, and the READs of all."""
    cdef bypass *b
    cdef uint32_t i
    total = {"walks": 0, "found": 0, "reads": 0}
    for i in range(owner.c.count):
        b = <bypass *> &owner.c.user_state[USER_STATE_WORDS * i]
        total["walks"] += b.walks
        total["found"] += b.found
        total["reads"] += b.reads
    return total


cdef object deliver(const char *data, uint32_t length, Py_buffer *view):
    """A value that came in a slot: as bytes, or into the caller's buffer (then its length)."""
    if view == NULL:
        return PyBytes_FromStringAndSize(data, length)
    if length > view.len:
        raise InvalidArgument(f"a value of {length} bytes does not fit "
                              f"into the buffer of {view.len}", hint="give a larger buffer")
    memcpy(view.buf, data, length)
    return length


cdef object yes_or_no(answer *out, bytes key):
    if out.status == KV_OK:
        return True
    if out.status == KV_NOT_FOUND:
        return False
    raise refusal(out.status, out.result, key)

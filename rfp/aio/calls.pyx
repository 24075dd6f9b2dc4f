"""The store's calls on an event loop: their arguments, requests and values.

A GET that a direct read answers needs no loop, no request and no coroutine of Python: Get is the
awaitable for it.  The interpreter runs it through the slot am_send, as it runs coroutines, because
an exception StopIteration for each value would cost more than the read.
"""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cython cimport final, freelist
from libc.stdint cimport INT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.aio.rings cimport UNSENT, Call, Rings
from rfp.core.core cimport rfp_hash, rfp_now
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport (
    ClientBase, call_finish, client_call, finish_ping, seconds_of, submit_ping, tag_of,
)
from rfp.protocol.client.client_ring cimport (
    DONE, PROTOCOL_ERROR, client_ring, client_ring_payload, client_ring_pop, client_ring_release,
    client_ring_response, client_ring_submit,
)
from rfp.protocol.wire cimport RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store.client.batch cimport as_keys, take_items, take_ranges
from rfp.store.client.client cimport (
    Client, as_key, choose_ring, finish_bool, finish_get, finish_incr, finish_put, finish_range,
    finish_stats, get_call, key_call, learn_place, milliseconds, put_call, range_call, refusal,
    submit_key, submit_number, submit_put, submit_range, submit_stats, sum_of_workers, whole_number,
)
from rfp.store.client.direct_read cimport DIRECT_UNSURE, DirectReads, direct_result
from rfp.store.client.recency cimport recency_before_request
from rfp.store.client.requests cimport kv_inline_limit, kv_worker
from rfp.store.client.scan cimport (
    as_prefix, begin_step, cursor_of, end_step, finish_scan, prepare, scan_call, set_place,
)
from rfp.store.client.transfers cimport Buffer
from rfp.store.messages cimport (
    KV_CLEAR, KV_DEFERRED, KV_DELETE, KV_DELETE_MANY, KV_EXISTS, KV_EXISTS_MANY, KV_GET,
    KV_GET_MANY, KV_GET_RANGES, KV_IF_ABSENT, KV_IF_VERSION, KV_INCR, KV_MAX_KEY, KV_MAX_VALUE,
    KV_NOT_FOUND, KV_OK, KV_PUT, KV_PUT_MANY, KV_SCAN, KV_TOUCH, kv_item, kv_key, kv_number,
    kv_pair, kv_range,
)

from rfp.errors import InvalidArgument, TooLarge
from rfp.store.client.client import Item

cdef extern from "Python.h":
    ctypedef int (*sendfunc)(PyObject *self, PyObject *arg, PyObject **result) except -1
    ctypedef struct PyAsyncMethods:
        void *am_send
    struct _typeobject:
        PyAsyncMethods *tp_as_async
    int PyIter_Send(PyObject *iter, PyObject *arg, PyObject **result) except -1
    enum:
        PYGEN_RETURN
        PYGEN_NEXT

cdef enum:
    BUNDLED_MAX = 16               # of a batch in one request
    READ_AT_ONCE = 256           # keys of a batch that are read directly between two turns

cdef enum read_kind:
    GET_BYTES = 0
    GET_ITEM = 1                 # with the version
    GET_INTO = 2                 # into a buffer

cdef enum read_state:
    FRESH = 0
    YIELDED = 1                  # the value is here; the loop has a turn
    ASKED = 2                    # the server answers
    OVER = 3

cdef union arguments:            # each begins with a client_call
    client_call c
    key_call k
    get_call get
    range_call part
    put_call put
    scan_call scan


cdef class StoreCall(Call):
    """A call of the store that is one request."""
    cdef arguments u
    cdef Py_buffer view
    cdef bint has_view
    cdef bytes key               # or a prefix
    cdef Client client

    def __cinit__(self):
        self.c = &self.u.c

    def __dealloc__(self):
        self.release_memory()

    cdef void release_memory(self) noexcept:
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)

    def release(self):
        """Give back the caller's memory: another call transfers the value."""
        self.release_memory()

    cdef int choose(self, Channel owner) except -1:
        cdef DirectReads direct = self.client.direct
        choose_ring(&owner.c, &self.u.k)
        if direct is not None and direct.uses.used_in_all:
            recency_before_request(&direct.uses, &owner.c)
        return 0

    cdef int hold(self, buffer, bint writable) except -1:
        take_buffer(buffer, &self.view, writable)
        self.has_view = True
        return 0

    @property
    def by_reference(self):
        """Return whether the value of a get is too long for a slot."""
        return False


cdef class ReadCall(StoreCall):
    """get, item, get_into, get_range."""

    cdef object finish(self, ClientBase base):
        self.u.get.place.slot = 0
        value = call_finish(base, self.c)
        if self.u.get.place.slot:
            learn_place(self.client, self.rings.owner, &self.u.get)
        return value

    cdef void drop(self) noexcept:
        if self.u.get.by_reference:
            self.u.get.by_reference = False
            client_ring_release(self.c.ring, self.u.get.reference.pin)

    @property
    def by_reference(self):
        """Return whether the value is too long for a slot; gives the reference back."""
        cdef bint found = self.u.get.by_reference
        if found and self.rings.is_usable():
            self.drop()
        return found


cdef class PutCall(StoreCall):
    def fits_into(self, Rings rings not None):
        """Return whether the value fits into a slot."""
        return self.view.len <= kv_inline_limit(rings.owner.c.rings[0], self.u.k.key_length)


cdef class WorkerCall(StoreCall):
    """A call to one worker: ping, stats."""
    cdef uint32_t worker

    cdef int choose(self, Channel owner) except -1:
        self.c.worker = self.worker
        self.c.ring = owner.c.rings[self.worker]
        return 0


cdef class ScanCall(StoreCall):
    cdef int choose(self, Channel owner) except -1:
        begin_step(&self.u.scan, owner.c.seed, owner.c.count)
        self.c.ring = owner.c.rings[self.c.worker]
        return 0

    cdef object finish(self, ClientBase base):
        value = call_finish(base, self.c)
        if self.c.result == DONE:
            end_step(&self.u.scan, self.rings.owner.c.count)
        return value

    @property
    def cursor(self):
        """Return where the scan goes on; 0: it has ended."""
        return cursor_of(&self.u.scan)

    def again(self):
        """Prepare the next step."""
        self.value = None
        self.state = UNSENT


cdef int prepare_key(StoreCall call, Client client, uint8_t opcode, object key) except -1:
    call.client = client
    call.key = as_key(key)
    client.prepare_key_call(&call.u.k, opcode, call.key)
    return 0


def read_call(Client client not None, key, str method not None, buffer, timeout):
    cdef ReadCall call = ReadCall.__new__(ReadCall)
    call.u.get.view = NULL
    call.u.get.by_reference = False
    call.u.get.with_version = method == "item"
    client.prepare_call(call.c, timeout, True, NULL, submit_key, finish_get)
    prepare_key(call, client, KV_GET, key)
    if method == "get_into":
        call.hold(buffer, True)
        call.u.get.view = &call.view
    return call


def range_read_call(Client client not None, key, offset, length, timeout):
    cdef ReadCall call = ReadCall.__new__(ReadCall)
    key = as_key(key)
    call.u.part.offset = whole_number("offset", offset, 0, INT64_MAX)
    call.u.part.length = whole_number("length", length, 0, INT64_MAX)
    call.u.get.view = NULL
    call.u.get.by_reference = False
    call.u.get.with_version = False
    client.prepare_call(call.c, timeout, True, NULL, submit_range, finish_range)
    prepare_key(call, client, KV_GET, key)
    return call


def store_call(Client client not None, key, value, ttl, bint if_absent, if_version, timeout):
    cdef PutCall call = PutCall.__new__(PutCall)
    client.prepare_call(call.c, timeout, False, NULL, submit_put, finish_put)
    call.u.put.ttl_ms = milliseconds(ttl)
    call.u.put.version = 0
    call.u.put.flags = 0
    prepare_key(call, client, KV_PUT, key)
    if if_absent:
        if if_version is not None:
            raise InvalidArgument("cannot use both if_absent and if_version")
        call.u.put.flags = KV_IF_ABSENT
    elif if_version is not None:
        call.u.put.flags = KV_IF_VERSION
        call.u.put.version = whole_number("if_version", if_version, 0, 0xFFFFFFFFFFFFFFFF)
    call.hold(value, False)
    call.u.put.view = &call.view
    if call.view.len > KV_MAX_VALUE:
        raise TooLarge(f"a value of {call.view.len} bytes exceeds the limit of 256 MiB",
                       hint="split it into several values")
    return call


def delete_call(Client client not None, key, timeout):
    cdef StoreCall call = StoreCall.__new__(StoreCall)
    client.prepare_call(call.c, timeout, False, NULL, submit_key, finish_bool)
    prepare_key(call, client, KV_DELETE, key)
    return call


def exists_call(Client client not None, key, timeout):
    cdef StoreCall call = StoreCall.__new__(StoreCall)
    client.prepare_call(call.c, timeout, True, NULL, submit_key, finish_bool)
    prepare_key(call, client, KV_EXISTS, key)
    return call


def incr_call(Client client not None, key, amount, timeout):
    cdef StoreCall call = StoreCall.__new__(StoreCall)
    key = as_key(key)
    call.u.k.number = whole_number("amount", amount, -0x8000000000000000, 0x7FFFFFFFFFFFFFFF)
    client.prepare_call(call.c, timeout, False, NULL, submit_number, finish_incr)
    prepare_key(call, client, KV_INCR, key)
    return call


def touch_call(Client client not None, key, ttl, timeout):
    cdef StoreCall call = StoreCall.__new__(StoreCall)
    key = as_key(key)
    call.u.k.number = milliseconds(ttl)
    client.prepare_call(call.c, timeout, True, NULL, submit_number, finish_bool)
    prepare_key(call, client, KV_TOUCH, key)
    return call


def scan_step(Client client not None, prefix, cursor, count, timeout):
    cdef ScanCall call = ScanCall.__new__(ScanCall)
    call.client = client
    call.key = as_prefix(prefix)
    prepare(client, &call.u.scan, KV_SCAN, call.key, whole_number("count", count, 1, INT64_MAX),
            timeout)
    call.c.finish = finish_scan
    set_place(&call.u.scan, cursor)
    return call


def clear_step(Client client not None, prefix, timeout):
    cdef ScanCall call = ScanCall.__new__(ScanCall)
    call.client = client
    call.key = as_prefix(prefix)
    prepare(client, &call.u.scan, KV_CLEAR, call.key, INT64_MAX, timeout)
    return call


def stats_call(Client client not None, uint32_t worker, timeout):
    cdef WorkerCall call = WorkerCall.__new__(WorkerCall)
    call.worker = worker
    client.prepare_call(call.c, timeout, True, NULL, submit_stats, finish_stats)
    return call


def ping_call(ClientBase client not None, uint32_t worker, timeout):
    cdef WorkerCall call = WorkerCall.__new__(WorkerCall)
    call.worker = worker
    client.prepare_call(call.c, timeout, True, NULL, submit_ping, finish_ping)
    return call


def totals(Client client not None, Rings rings not None, list partitions not None):
    """Return the result of stats()."""
    cdef dict found = sum_of_workers(client, rings.owner, partitions)
    found["client"].update(rings.counters)
    return found


# Batches


cdef struct batch_request:
    client_call c
    uint8_t opcode
    uint16_t count               # of items
    const char *text
    uint32_t length


cdef class BatchCall(Call):
    """One request of a batch: some keys of one worker."""
    cdef batch_request u
    cdef uint32_t worker
    cdef bytes text              # the payload
    cdef list names              # of the whole batch
    cdef list ranges             # of the whole batch, for KV_GET_RANGES
    cdef readonly list positions

    def __cinit__(self):
        self.c = &self.u.c
        self.positions = []

    cdef int choose(self, Channel owner) except -1:
        self.c.worker = self.worker
        self.c.ring = owner.c.rings[self.worker]
        return 0

    cdef object finish(self, ClientBase base):
        """Return the items of the response, in the order of the positions."""
        cdef client_ring *ring = self.c.ring
        cdef const rfp_response_header *header = client_ring_response(ring)
        cdef const char *items = <const char *> header + RFP_RESPONSE_HEADER
        cdef const char *end = items + header.length
        cdef uint32_t count = <uint32_t> len(self.positions)
        cdef const char *data = items + count * sizeof(kv_item)
        cdef kv_item item
        cdef kv_range part
        cdef uint32_t i
        cdef list values = []
        try:
            if header.status != KV_OK:
                error = refusal(header.status, header.result, self.names[self.positions[0]])
                return [error] * count
            if header.length < count * sizeof(kv_item):
                self.c.result = PROTOCOL_ERROR
                return None
            for i in range(count):
                memcpy(&item, items + i * sizeof(kv_item), sizeof(item))
                if item.status == KV_OK:
                    if self.u.opcode == KV_GET_MANY or self.u.opcode == KV_GET_RANGES:
                        if self.u.opcode == KV_GET_RANGES:
                            memcpy(&part, PyBytes_AS_STRING(self.ranges[self.positions[i]]),
                                   sizeof(part))
                        if item.length > <uint64_t> (end - data) or \
                                self.u.opcode == KV_GET_RANGES and item.length > part.length:
                            self.c.result = PROTOCOL_ERROR
                            return None
                        value = PyBytes_FromStringAndSize(data, item.length)
                        data += item.length
                    elif self.u.opcode == KV_PUT_MANY:
                        value = item.version
                    else:
                        value = True
                elif item.status == KV_NOT_FOUND:
                    value = None if self.u.opcode in (KV_GET_MANY, KV_GET_RANGES) else False
                elif item.status == KV_DEFERRED:
                    value = Ellipsis
                else:
                    value = refusal(item.status, item.version, self.names[self.positions[i]])
                values.append(value)
            return values
        finally:
            client_ring_pop(ring)

    def spread(self, list results not None, list rest not None):
        """Store the values by position; append the positions that the server deferred."""
        for position, value in zip(self.positions, self.value, strict=True):
            if value is Ellipsis:
                rest.append(position)
            else:
                results[position] = value


cdef bint submit_batch(channel *ch, client_call *c) noexcept nogil:
    cdef batch_request *request = <batch_request *> c
    cdef char *payload = client_ring_payload(c.ring)
    if payload == NULL:
        return False
    memcpy(payload, request.text, request.length)
    client_ring_submit(c.ring, request.opcode, request.count, 0, request.length, tag_of(c))
    return True


cdef bytes item_of(uint8_t opcode, bytes key, object value):
    """Return one item of a request."""
    cdef kv_key head
    cdef kv_pair pair
    cdef Buffer buffer
    head.key_length = <uint16_t> PyBytes_GET_SIZE(key)
    if type(value) is Buffer:
        buffer = value
        value = PyBytes_FromStringAndSize(<const char *> buffer.view.buf, buffer.view.len)
    if opcode == KV_PUT_MANY:
        pair.key_length = head.key_length
        pair.unused = 0
        pair.value_length = <uint32_t> PyBytes_GET_SIZE(value)
        return PyBytes_FromStringAndSize(<char *> &pair, sizeof(pair)) + key + value
    start = PyBytes_FromStringAndSize(<char *> &head, sizeof(head))
    return start + key if value is None else start + key + value


def length_of(value):
    """Return the bytes of a value of put_many."""
    return (<Buffer> value).view.len if type(value) is Buffer else len(value)


def batch_calls(Client client not None, Rings rings not None, str operation not None,
                list names not None, list values, uint64_t ttl_ms, list positions not None,
                list rest not None, uint64_t deadline_ns):
    """Return the requests for some items of a batch.

    Appends to `rest` the positions of items that must be requested alone, after all others: those
    that are too long, and later items with the same keys, which must not overtake them.
    """
    cdef BatchCall call
    cdef Channel owner = rings.owner
    cdef uint8_t opcode = OPCODES[operation]
    cdef uint64_t payload_max = owner.c.rings[0].slot_size - RFP_REQUEST_HEADER
    cdef uint64_t head_bytes = sizeof(kv_pair) if opcode == KV_PUT_MANY else sizeof(kv_key)
    cdef uint64_t size
    cdef uint32_t worker = 0
    cdef kv_number number
    cdef list open_calls = [None] * owner.c.count
    cdef list parts = [[] for _ in range(owner.c.count)]
    cdef list lengths = [0] * owner.c.count
    cdef list calls = []
    cdef set alone = {names[position] for position in rest}
    number.number = ttl_ms
    start = PyBytes_FromStringAndSize(<char *> &number, sizeof(number)) \
        if opcode == KV_PUT_MANY else b""
    for position in positions:
        key = names[position]
        value = None if values is None else values[position]
        size = head_bytes + len(key) + (0 if value is None else length_of(value))
        if size > payload_max - sizeof(number) or key in alone:
            rest.append(position)
            alone.add(key)
            continue
        if owner.c.count > 1:
            worker = kv_worker(rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                                        owner.c.seed), owner.c.count)
        call = open_calls[worker]
        if call is not None and (len(call.positions) == BUNDLED_MAX or
                                 lengths[worker] + size > payload_max):
            seal(call, parts[worker])
            call = None
        if call is None:
            call = BatchCall.__new__(BatchCall)
            client.prepare_call(call.c, None, opcode not in (KV_PUT_MANY, KV_DELETE_MANY), NULL,
                                submit_batch, NULL)
            call.c.deadline_ns = deadline_ns
            call.u.opcode = opcode
            call.worker = worker
            call.names = names
            call.ranges = values if opcode == KV_GET_RANGES else None
            open_calls[worker] = call
            parts[worker] = [start]
            lengths[worker] = len(start)
            calls.append(call)
        parts[worker].append(item_of(opcode, key, value))
        lengths[worker] += size
        call.positions.append(position)
    for worker in range(owner.c.count):
        if open_calls[worker] is not None:
            seal(open_calls[worker], parts[worker])
    return calls


OPCODES = {"get_many": KV_GET_MANY, "get_ranges": KV_GET_RANGES, "exists_many": KV_EXISTS_MANY,
           "delete_many": KV_DELETE_MANY, "put_many": KV_PUT_MANY}


cdef int seal(BatchCall call, list parts) except -1:
    call.text = b"".join(parts)
    call.u.text = PyBytes_AS_STRING(call.text)
    call.u.length = <uint32_t> PyBytes_GET_SIZE(call.text)
    call.u.count = <uint16_t> len(call.positions)
    return 0


def checked_keys(keys):
    """Return a list of checked keys."""
    return as_keys(keys)


def checked_items(items):
    """Return lists of the checked keys and values of a put_many."""
    names, values = [], []
    take_items(items, names, values)
    return names, values


def checked_ranges(ranges):
    """Return lists of the checked keys and packed ranges of a get_ranges."""
    names, values = [], []
    take_ranges(ranges, names, values)
    return names, values


def range_of(bytes packed not None):
    """Return (offset, length) of a packed range."""
    cdef kv_range part
    memcpy(&part, PyBytes_AS_STRING(packed), sizeof(part))
    return part.offset, part.length


def value_of(value):
    """Return the caller's object of a value of put_many."""
    return (<Buffer> value).thing if type(value) is Buffer else value


def expiry_ms(ttl):
    """Return a checked time to live in ms; 0: none."""
    return milliseconds(ttl)


def deadline_of(ClientBase client not None, timeout):
    """Return the deadline (ns) of a call that begins now, after checking the timeout."""
    return client.deadline(timeout, rfp_now())


def seconds_left(uint64_t deadline_ns):
    """Return the seconds to a deadline, more than 0."""
    return max(1e-6, (<double> deadline_ns - <double> rfp_now()) / 1e9)


# Direct reads


cdef class DirectClient:
    """The part of a client that answers GETs without the loop."""
    cdef readonly Client _sync
    cdef readonly Rings _rings

    def _use(self, Client sync, Rings rings):
        self._sync = sync
        self._rings = rings

    def get(self, key, *, timeout=None):
        """Return the value of a key, or None.

        Cost:
            As rfp.Client.get().
        """
        return new_get(self, key, GET_BYTES, None, timeout)

    def item(self, key, *, timeout=None):
        """Return the value of a key with its version, as Item(value, version), or None.

        Cost:
            As get().
        """
        return new_get(self, key, GET_ITEM, None, timeout)

    def get_into(self, key, buffer, *, timeout=None):
        """Fetch the value of a key into a buffer; return its length, or None if there is no value.

        A response is copied to the buffer when it has come: a cancelled call does not change it.

        Args:
            key: 1 to 1024 bytes.
            buffer: any contiguous writable buffer.
            timeout: seconds; None: that of the handle.

        Cost:
            As get().
        """
        return new_get(self, key, GET_INTO, buffer, timeout)

    def _read_directly(self, list names not None, list values not None, Py_ssize_t begin,
                       list rest not None):
        """Set the values of a slice of keys from `begin` on; return where it ends.

        Appends the positions that need the server to `rest`.
        """
        cdef DirectReads direct
        cdef Py_ssize_t end = min(begin + READ_AT_ONCE, len(names))
        if self._rings is None or not self._rings.is_ready() or \
                self._sync.direct_identity != self._sync.identity:
            rest.extend(range(begin, len(names)))
            return len(names)
        direct = self._sync.direct
        return direct.get_many(&self._rings.owner.c, names, begin, end, values, rest)


@final
@freelist(64)
cdef class Get:
    """One get, item or get_into: a coroutine that usually never suspends."""
    cdef DirectClient client
    cdef object key
    # FRESH: None, or the other arguments (buffer, timeout); YIELDED: the result; ASKED: the
    # coroutine.  One field for all: each costs as much as a check of the key.
    cdef object value
    cdef read_kind kind
    cdef read_state state

    cdef int run(self, PyObject *arg, PyObject **result) except -1:
        cdef int status
        cdef object value
        if self.state == FRESH:
            self.state = OVER
            value = self.read()
            if value is not Ellipsis:
                if not self.client._rings.hit(0 if type(value) is not bytes
                                              else PyBytes_GET_SIZE(value)):
                    Py_INCREF(value)
                    result[0] = <PyObject *> value
                    return PYGEN_RETURN
                self.value = value
                self.state = YIELDED
                Py_INCREF(None)
                result[0] = <PyObject *> None
                return PYGEN_NEXT
            buffer, timeout = self.value or (None, None)
            self.value = self.client._get(self.key, METHODS[self.kind], buffer, timeout)
            self.state = ASKED
            arg = <PyObject *> None
        if self.state == ASKED:
            status = PyIter_Send(<PyObject *> self.value, arg, result)
            if status != PYGEN_NEXT:
                self.state = OVER
                self.value = None
            return status
        if self.state == YIELDED:
            self.state = OVER
            value, self.value = self.value, None
            Py_INCREF(value)
            result[0] = <PyObject *> value
            return PYGEN_RETURN
        raise RuntimeError("cannot reuse already awaited coroutine")

    cdef object read_value(self, Py_buffer *view, uint64_t *version, direct_result *result):
        cdef DirectClient owner = self.client
        cdef Client client
        cdef DirectReads direct
        if owner._rings is None or not owner._rings.is_ready():
            return None
        client = owner._sync
        if type(self.key) is not bytes or \
                not 1 <= PyBytes_GET_SIZE(self.key) <= KV_MAX_KEY or \
                client.direct_identity != client.identity or client.direct_identity == 0:
            return None
        direct = client.direct
        return direct.get(&owner._rings.owner.c, <bytes> self.key, view, version, result)

    cdef object read(self):
        """Return the value if a direct read finds it or proves a miss, else Ellipsis."""
        cdef direct_result result = DIRECT_UNSURE
        cdef uint64_t version = 0
        cdef Py_buffer view
        cdef object buffer = None
        if self.client is None:
            return Ellipsis
        # First: the caller's timeout or buffer may run code that lets another thread close the
        # connection.
        if self.value is not None:
            buffer, timeout = self.value
            if timeout is not None:
                seconds_of(timeout)
        if self.kind != GET_INTO:
            value = self.read_value(NULL, &version, &result)
        else:
            take_buffer(buffer, &view, True)
            try:
                value = self.read_value(&view, &version, &result)
            finally:
                PyBuffer_Release(&view)
        if result == DIRECT_UNSURE:
            return Ellipsis
        return Item(value, version) if self.kind == GET_ITEM and value is not None else value

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Run the call until it suspends; raise StopIteration with its result at its end."""
        cdef PyObject *result = NULL
        cdef int status = self.run(<PyObject *> value, &result)
        found = <object> result
        Py_XDECREF(result)
        if status == PYGEN_RETURN:
            raise StopIteration(found)
        return found

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where the call is suspended."""
        if self.state == ASKED:
            try:
                return self.value.throw(kind, value, traceback) if value is not None or \
                    traceback is not None else self.value.throw(kind)
            except BaseException:
                self.state = OVER
                self.value = None
                raise
        self.state = OVER
        self.value = None
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        raise value

    def close(self):
        """End the call."""
        if self.state == ASKED:
            self.value.close()
        self.state = OVER
        self.value = None


METHODS = ("get", "item", "get_into")     # by read_kind


cdef Get new_get(DirectClient client, key, read_kind kind, buffer, timeout):
    cdef Get get = Get.__new__(Get)
    get.client = client
    get.key = key
    if kind == GET_INTO or timeout is not None:
        get.value = (buffer, timeout)
    get.kind = kind
    get.state = FRESH
    return get


cdef int send_get(PyObject *self, PyObject *arg, PyObject **result) except -1:
    return (<Get> self).run(arg, result)


(<_typeobject *> <PyObject *> Get).tp_as_async.am_send = <void *> <sendfunc> send_get

"""Many keys in one call.

A batch fills requests worker by worker and sends each as soon as it is full: while the server
executes one, the client builds the next.  Responses come in order, so each worker's queue of
positions says which items they belong to.

Items that are too long, or that the server defers, come after all others (transfers.pyx).
"""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from rfp.core.core cimport rfp_hash, rfp_now
from rfp.core.system cimport sched_yield
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport SIGNAL_POLL_NS, ClientBase, client_call
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, PROTOCOL_ERROR, RAISED, RETRY, TIMED_OUT, client_ring, client_ring_abandon,
    client_ring_flush, client_ring_payload, client_ring_pop, client_ring_response, client_ring_step,
    client_ring_submit, client_ring_tag, outcome,
)
from rfp.protocol.wire cimport RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store.client.client cimport Client, as_key, refusal, whole_number
from rfp.store.client.direct_read cimport DIRECT_UNSURE, DirectReads, direct_result
from rfp.store.client.located_read cimport LocatedReads
from rfp.store.client.requests cimport kv_worker
from rfp.store.client.transfers cimport Buffer, fetch_several, store_several
from rfp.store.messages cimport (
    KV_DEFERRED, KV_DELETE_MANY, KV_EXISTS_MANY, KV_GET_MANY, KV_GET_RANGES, KV_MAX_KEY,
    KV_NAME_PLACE, KV_NOT_FOUND, KV_OK, KV_PLACED, KV_PUT_MANY, kv_item, kv_key, kv_number, kv_pair,
    kv_place, kv_range,
)

from rfp.errors import RfpError, ServerRefused, WrongType

cdef enum:
    ITEMS_MAX = 16               # in one request: its cost is spread, and requests still overlap
    DIRECT_SLICE = 1024          # keys that are read directly between two polls for signals

cdef struct bundle:              # one worker's request under construction, and its open positions
    client_ring *ring
    char *payload                # NULL: no request is under construction
    uint32_t length
    uint32_t count
    uint32_t *positions          # a queue: [first, last) are in flight or under construction
    uint32_t first
    uint32_t last

cdef struct batch_call:
    client_call c
    void *pass_arguments         # Pass; the caller of run() keeps a reference


cdef class Pass:
    """The arguments and results of one pass over all keys."""
    cdef uint8_t opcode
    cdef uint64_t ttl_ms
    cdef list keys
    # bytes or Buffer; for KV_GET_RANGES bytes of a kv_range; None if the opcode has none
    cdef list values
    cdef list results


cdef kv_range range_of(bytes packed):
    cdef kv_range part
    memcpy(&part, PyBytes_AS_STRING(packed), sizeof(part))
    return part


cdef class Batch:
    """The state of one attempt of a pass."""
    cdef Client client
    cdef Channel owner
    cdef client_call *c
    cdef Pass items
    cdef uint64_t polled         # when signals were polled last, ns
    cdef list postponed          # positions of items to be requested alone, after all others
    cdef set alone               # their keys: a later put of the same key must not overtake them
    cdef uint32_t workers
    cdef bundle bundles[RFP_WORKERS_MAX]

    def __cinit__(self, Client client not None, Channel owner not None, Pass items not None):
        cdef uint32_t i
        self.client = client
        self.owner = owner
        self.items = items
        self.polled = rfp_now()
        self.postponed = []
        self.alone = set()
        self.workers = owner.c.count
        for i in range(self.workers):
            self.bundles[i].ring = owner.c.rings[i]
            self.bundles[i].positions = <uint32_t *> malloc(
                max(1, len(items.keys)) * sizeof(uint32_t))
            if self.bundles[i].positions == NULL:
                raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.workers):
            free(self.bundles[i].positions)

    cdef void send_request(self, bundle *b) noexcept:
        """Send the request under construction."""
        cdef uint32_t flags = 0
        if b.payload != NULL and b.count:
            if self.items.opcode == KV_GET_MANY and self.owner.c.landing != NULL:
                flags = KV_NAME_PLACE
            client_ring_submit(b.ring, self.items.opcode, <uint16_t> b.count, flags, b.length,
                               b.count)
            client_ring_flush(b.ring)
            self.c.submitted = True
        b.payload = NULL
        b.count = 0

    cdef outcome begin_request(self, bundle *b) except RAISED:
        """Begin a request; while all slots are taken, take responses."""
        cdef outcome result
        cdef uint64_t now = rfp_now()
        # Check here: if the server is the faster side, take() never waits, and so it never checks
        # the deadline, signals, and close().
        if now > self.c.deadline_ns:
            return TIMED_OUT
        if now - self.polled >= SIGNAL_POLL_NS:
            self.polled = now
            self.client.poll_signals()
        if self.owner.c.closing:
            return CLOSED
        while True:
            b.payload = client_ring_payload(b.ring)
            if b.payload != NULL:
                break
            if b.ring.lost or b.first == b.last:
                result = self.client.make_room(b.ring, self.c.deadline_ns)
            else:
                result = self.take(b)
            if result != DONE and result != RETRY:
                return result
        b.length = 0
        b.count = 0
        if self.items.opcode == KV_PUT_MANY:
            (<kv_number *> b.payload).number = self.items.ttl_ms
            b.length = sizeof(kv_number)
        return DONE

    cdef outcome add(self, uint32_t position, bytes key, const char *value,
                     uint64_t value_length) except RAISED:
        """Add one item to its worker's request."""
        cdef uint32_t key_length = <uint32_t> PyBytes_GET_SIZE(key)
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t worker = 0
        cdef uint64_t size
        cdef uint64_t payload_max
        cdef bundle *b
        cdef kv_key head
        cdef kv_pair pair
        cdef outcome result
        if self.workers > 1:
            worker = kv_worker(rfp_hash(text, key_length, self.owner.c.seed), self.workers)
        b = &self.bundles[worker]
        payload_max = b.ring.slot_size - RFP_REQUEST_HEADER
        size = (sizeof(kv_pair) if self.items.opcode == KV_PUT_MANY else sizeof(kv_key)) \
            + key_length + value_length
        if size > payload_max - sizeof(kv_number) or self.alone and key in self.alone:
            self.postponed.append(position)
            self.alone.add(key)
            return DONE
        if b.payload != NULL and (b.count == ITEMS_MAX or b.length + size > payload_max):
            self.send_request(b)
        if b.payload == NULL:
            result = self.begin_request(b)
            if result != DONE:
                return result
        if self.items.opcode == KV_PUT_MANY:
            pair.key_length = key_length
            pair.unused = 0
            pair.value_length = <uint32_t> value_length
            memcpy(b.payload + b.length, &pair, sizeof(pair))
            b.length += sizeof(pair)
        else:
            head.key_length = key_length
            memcpy(b.payload + b.length, &head, sizeof(head))
            b.length += sizeof(head)
        memcpy(b.payload + b.length, text, key_length)
        b.length += key_length
        if value_length:
            memcpy(b.payload + b.length, value, value_length)
            b.length += <uint32_t> value_length
        b.positions[b.last] = position
        b.last += 1
        b.count += 1
        return DONE

    cdef outcome take(self, bundle *b) except RAISED:
        """Take the response to the oldest request of a ring."""
        cdef const rfp_response_header *header
        cdef const char *items
        cdef const char *data
        cdef const char *end
        cdef const char *places
        cdef kv_item item
        cdef uint32_t count, i, position
        cdef outcome result = client_ring_step(b.ring)
        if result != DONE:
            result = self.client.wait(b.ring, self.c.deadline_ns)
        if result != DONE:
            return result
        header = client_ring_response(b.ring)
        count = <uint32_t> client_ring_tag(b.ring)
        items = <const char *> header + RFP_RESPONSE_HEADER
        end = items + header.length
        data = items + count * sizeof(kv_item)
        try:
            if header.status != KV_OK:
                error = refusal(header.status, header.result,
                                self.items.keys[b.positions[b.first]])
                for i in range(count):
                    self.items.results[b.positions[b.first + i]] = error
                b.first += count
                return DONE
            if header.length < count * sizeof(kv_item):
                return PROTOCOL_ERROR
            places = data
            if self.items.opcode == KV_GET_MANY:
                for i in range(count):
                    memcpy(&item, items + i * sizeof(kv_item), sizeof(item))
                    if item.status == KV_OK or item.status == KV_PLACED:
                        if item.length > <uint64_t> (end - places):
                            return PROTOCOL_ERROR
                        places += item.length
            for i in range(count):
                position = b.positions[b.first]
                b.first += 1
                memcpy(&item, items + i * sizeof(kv_item), sizeof(item))
                if item.status == KV_OK or item.status == KV_PLACED:
                    if self.items.opcode == KV_GET_MANY or self.items.opcode == KV_GET_RANGES:
                        if item.length > <uint64_t> (end - data):
                            return PROTOCOL_ERROR
                        if self.items.opcode == KV_GET_RANGES and \
                                item.length > range_of(self.items.values[position]).length:
                            return PROTOCOL_ERROR
                        value = PyBytes_FromStringAndSize(data, item.length)
                        data += item.length
                        if item.status == KV_PLACED and self.items.opcode == KV_GET_MANY:
                            if sizeof(kv_place) > <uint64_t> (end - places):
                                return PROTOCOL_ERROR
                            self.learn(self.items.keys[position], places)
                            places += sizeof(kv_place)
                    elif self.items.opcode == KV_PUT_MANY:
                        value = item.version
                    else:
                        value = True
                elif item.status == KV_NOT_FOUND:
                    value = None if self.items.opcode in (KV_GET_MANY, KV_GET_RANGES) else False
                elif item.status == KV_DEFERRED:
                    self.postponed.append(position)
                    continue
                else:
                    value = refusal(item.status, item.version, self.items.keys[position])
                self.items.results[position] = value
            return DONE
        finally:
            client_ring_pop(b.ring)

    cdef int learn(self, bytes key, const char *named) except -1:
        """Remember the place that a response has named."""
        cdef LocatedReads located = self.client.located(&self.owner.c)
        cdef kv_place place
        memcpy(&place, named, sizeof(place))
        if located is not None:
            located.learn(rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), located.seed),
                          &place)
        return 0

    cdef outcome add_all(self) except RAISED:
        """Add all items; send the requests that become full."""
        cdef Buffer buffer
        cdef list keys = self.items.keys
        cdef list values = self.items.values
        cdef uint32_t i
        cdef outcome result = DONE
        for i in range(<uint32_t> len(keys)):
            if values is None:
                result = self.add(i, <bytes> keys[i], NULL, 0)
            elif type(values[i]) is bytes:
                result = self.add(i, <bytes> keys[i], PyBytes_AS_STRING(values[i]),
                                  PyBytes_GET_SIZE(values[i]))
            else:
                buffer = <Buffer> values[i]
                result = self.add(i, <bytes> keys[i], <const char *> buffer.view.buf,
                                  buffer.view.len)
            if result != DONE:
                break
        return result

    cdef outcome finish(self) except RAISED:
        """Send the requests under construction and take all responses."""
        cdef uint32_t i
        cdef outcome result
        for i in range(self.workers):
            self.send_request(&self.bundles[i])
        for i in range(self.workers):
            while self.bundles[i].first < self.bundles[i].last:
                result = self.take(&self.bundles[i])
                if result != DONE:
                    return result
        return DONE

    cdef void give_up(self) noexcept:
        """Abandon the requests that are still in flight."""
        cdef uint32_t i
        for i in range(self.workers):
            if self.bundles[i].first < self.bundles[i].last:
                client_ring_abandon(self.bundles[i].ring)


cdef object attempt_pass(ClientBase client, Channel owner, client_call *c):
    """Return the positions of the items that must be requested alone."""
    cdef Batch batch = Batch(<Client> client, owner, <Pass> (<batch_call *> c).pass_arguments)
    batch.c = c
    try:
        c.result = batch.add_all()
        if c.result == DONE:
            c.result = batch.finish()
    finally:
        batch.give_up()
    return batch.postponed


cdef int poll(Py_ssize_t i) except -1:
    """Let signal handlers run now and then in a loop over a caller's items, which may be many."""
    return PyErr_CheckSignals() if i & 4095 == 4095 else 0


cdef list as_keys(keys):
    """Return a list of checked keys.

    A list is copied too: another thread may change the caller's during the call.
    """
    cdef list checked
    cdef Py_ssize_t i
    try:
        names = iter(keys)
    except TypeError:
        raise WrongType(f"keys must be an iterable of bytes, not {type(keys).__name__}") from None
    checked = list(names)
    for i in range(len(checked)):
        poll(i)
        key = checked[i]
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            checked[i] = as_key(key)
    return checked


cdef object as_value(value, bint copied):
    """Return bytes, or a Buffer; all values are checked before the first is sent."""
    cdef Py_buffer view
    if type(value) is bytes:
        return value
    if not copied:
        return Buffer(value, False)
    take_buffer(value, &view, False)
    try:
        return PyBytes_FromStringAndSize(<char *> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef int take_items(object items, list names, list values) except -1:
    """Take and check all keys and values of a put_many."""
    cdef Py_ssize_t i = 0
    cdef bint copied
    items = items.items() if hasattr(items, "items") else items
    # An iterator may make all its values in the same memory.
    copied = not isinstance(items, (list, tuple, _DictItems))
    try:
        pairs = iter(items)
    except TypeError:
        raise WrongType("items must be a mapping or an iterable of "
                        f"pairs, not {type(items).__name__}") from None
    for pair in pairs:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise WrongType(
                f"items must be pairs of a key and a value, but item {i} is not") from None
        poll(i)
        i += 1
        names.append(as_key(key))
        values.append(as_value(value, copied))
    return 0


_DictItems = type({}.items())


cdef list get_many(Client client, object keys, object timeout):
    return many_directly(client, KV_GET_MANY, keys, timeout)


cdef list many_directly(Client client, uint8_t opcode, object keys, object timeout):
    """Read what can be read without the server, and request the rest."""
    cdef list names, values, rest
    cdef uint64_t deadline
    client.deadline(timeout, rfp_now())
    names = as_keys(keys)
    if client.direct_identity != client.identity:
        return complete(client, opcode, names, None, 0, timeout)
    deadline = client.deadline(timeout, rfp_now())
    values = [None] * len(names)
    rest = read_directly(client, opcode, names, values, deadline)
    if not rest:
        return values
    try:
        found = complete(client, opcode, [names[i] for i in rest], None, 0, remaining(deadline))
    except RfpError as error:
        spread(values, rest, error.results)
        error.results = values
        raise
    spread(values, rest, found)
    return values


cdef list read_directly(Client client, uint8_t opcode, list names, list values,
                        uint64_t deadline):
    """Set the values that can be read without the server; return the positions of the others."""
    cdef DirectReads direct
    cdef Py_ssize_t begin = 0, end, n = len(names)
    cdef channel *ch
    cdef list rest = []
    while begin < n:
        # A signal handler or another thread may close the handle or connect again, so find both
        # again after each slice.
        direct = client.direct
        ch = client.ready_channel() if client.direct_identity == client.identity else NULL
        if ch == NULL or rfp_now() > deadline:
            rest.extend(range(begin, n))
            break
        end = min(begin + DIRECT_SLICE, n)
        if opcode == KV_GET_MANY:
            begin = direct.get_many(ch, names, begin, end, values, rest)
        else:
            begin = direct.exists_many(ch, names, begin, end, values, rest)
        if begin < n:
            PyErr_CheckSignals()
            with nogil:
                sched_yield()
    return rest


cdef int spread(list values, list positions, list found) except -1:
    for position, value in zip(positions, found, strict=True):
        values[position] = value
    return 0


cdef list get_ranges(Client client, object ranges, object timeout):
    cdef list names = []
    cdef list values = []
    client.deadline(timeout, rfp_now())
    take_ranges(ranges, names, values)
    return complete(client, KV_GET_RANGES, names, values, 0, timeout)


cdef int take_ranges(object ranges, list names, list values) except -1:
    cdef kv_range part
    cdef Py_ssize_t i = 0
    try:
        triples = iter(ranges)
    except TypeError:
        raise WrongType("ranges must be an iterable of (key, offset, length), "
                        f"not {type(ranges).__name__}") from None
    for triple in triples:
        try:
            key, offset, length = triple
        except (TypeError, ValueError):
            raise WrongType(f"ranges must be triples of key, offset and length, but item {i} "
                            "is not") from None
        poll(i)
        i += 1
        names.append(as_key(key))
        part.offset = whole_number("offset", offset, 0, INT64_MAX)
        part.length = whole_number("length", length, 0, INT64_MAX)
        values.append(PyBytes_FromStringAndSize(<char *> &part, sizeof(part)))
    return 0


cdef list exists_many(Client client, object keys, object timeout):
    return many_directly(client, KV_EXISTS_MANY, keys, timeout)


cdef list delete_many(Client client, object keys, object timeout):
    return many(client, KV_DELETE_MANY, keys, timeout)


cdef list many(Client client, uint8_t opcode, object keys, object timeout):
    # Check the timeout before anything is taken from the iterable; it begins afterwards.
    client.deadline(timeout, rfp_now())
    return complete(client, opcode, as_keys(keys), None, 0, timeout)


cdef list put_many(Client client, object items, uint64_t ttl_ms, object timeout):
    cdef list names = []
    cdef list values = []
    client.deadline(timeout, rfp_now())
    take_items(items, names, values)
    return complete(client, KV_PUT_MANY, names, values, ttl_ms, timeout)


cdef list complete(Client client, uint8_t opcode, list names, list values, uint64_t ttl_ms,
                   object timeout):
    """Make one pass over all items, then request the rest alone; an error carries the results."""
    cdef batch_call batch
    cdef Pass items = Pass.__new__(Pass)
    items.opcode = opcode
    items.ttl_ms = ttl_ms
    items.keys = names
    items.values = values
    items.results = [None] * len(names)
    batch.pass_arguments = <void *> items
    client.report_uses()
    client.prepare_call(&batch.c, timeout, opcode not in (KV_PUT_MANY, KV_DELETE_MANY),
                        attempt_pass, NULL, NULL)
    try:
        finish_rest(client, items, sorted(client.run(&batch.c)), batch.c.deadline_ns)
    except RfpError as error:
        error.results = items.results
        raise
    return items.results


cdef int finish_rest(Client client, Pass items, list positions, uint64_t deadline) except -1:
    """Make the transfers of the items that do not fit into a batch, in the order of the items."""
    cdef list names = items.keys, rest = []
    cdef Py_ssize_t first = 0, taken
    cdef direct_result result
    cdef uint64_t version
    if items.opcode == KV_PUT_MANY:
        while first < len(positions):
            request_alone(client, items, store_several(
                client, names, items.values, positions, first, items.results, items.ttl_ms,
                deadline, &taken), deadline)
            first += taken
        return 0
    if items.opcode == KV_GET_MANY:
        for position in positions:
            PyErr_CheckSignals()
            result = DIRECT_UNSURE         # fetch_several() raises the error of a deadline
            if rfp_now() <= deadline:
                value = client.get_directly(names[position], NULL, None, &version, &result)
            if result == DIRECT_UNSURE:
                rest.append(position)
            else:
                items.results[position] = value
        positions = fetch_several(client, names, None, rest, items.results, remaining(deadline))
    return request_alone(client, items, positions, deadline)


cdef int request_alone(Client client, Pass items, list positions, uint64_t deadline) except -1:
    for position in positions:
        PyErr_CheckSignals()
        items.results[position] = alone(
            client, items.opcode, items.keys[position],
            None if items.values is None else items.values[position], items.ttl_ms,
            remaining(deadline))
    return 0


cdef object alone(Client client, uint8_t opcode, bytes name, object value, uint64_t ttl_ms,
                  double timeout):
    cdef kv_range part
    if opcode == KV_GET_MANY:
        return client.get(name, timeout=timeout)
    if opcode == KV_GET_RANGES:
        part = range_of(value)
        return client.get_range(name, part.offset, part.length, timeout=timeout)
    if opcode == KV_EXISTS_MANY:
        return client.exists(name, timeout=timeout)
    if opcode == KV_DELETE_MANY:
        return client.delete(name, timeout=timeout)
    try:
        return client.put(name, (<Buffer> value).thing if type(value) is Buffer else value,
                          ttl=<double> ttl_ms / 1000 if ttl_ms else None, timeout=timeout)
    except ServerRefused as error:
        return error


cdef double remaining(uint64_t deadline):
    """Return the seconds left; a call that has none left still fails with the right error."""
    return max(1e-6, (<double> deadline - <double> rfp_now()) / 1e9)

"""Many keys in one call (the contract is in batch.pxd).

A batch fills requests worker by worker and sends each as soon as it is full: while the server works on one, the next is
built.  Answers come in order, so each worker's queue of positions says whose they are.
"""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from rfp.core.core cimport rfp_hash, rfp_now
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_base cimport RETRY, SIGNAL_POLL_NS
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, PROTOCOL_ERROR, TIMED_OUT, client_ring, client_ring_abandon, client_ring_flush,
    client_ring_payload, client_ring_pop, client_ring_response, client_ring_step,
    client_ring_submit,
)
from rfp.protocol.wire cimport RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store.client.client cimport Client, as_key, refusal
from rfp.store.client.requests cimport kv_worker
from rfp.store.messages cimport (
    KV_DEFERRED, KV_DELETE_MANY, KV_GET_MANY, KV_MAX_KEY, KV_NOT_FOUND, KV_OK, KV_PUT_MANY, kv_item,
    kv_key, kv_number, kv_pair,
)

from rfp.errors import RfpError, ServerRefused, WrongType

cdef enum:
    ITEMS_MAX = 16               # in one request: enough to spread its cost, few enough to overlap
    WORKERS_MAX = 64

cdef struct bundle:              # one worker's request under construction, and the positions of its items that are under way
    client_ring *ring
    char *payload                # NULL: none begun
    uint32_t length
    uint32_t count
    uint32_t *positions          # a queue: [first, last) are under way or being built
    uint32_t first
    uint32_t last


cdef class Batch:
    """One call's state."""
    cdef Client client
    cdef Channel owner
    cdef uint8_t opcode
    cdef uint64_t ttl
    cdef uint64_t deadline
    cdef uint64_t polled         # when signals were polled last
    cdef list keys
    cdef list results
    cdef list ask_alone          # positions whose items are to be asked for alone, after all others
    cdef set alone               # and, of puts, their keys: a later put of the same key must not be faster
    cdef bint sent               # something was posted
    cdef uint32_t workers
    cdef bundle bundles[WORKERS_MAX]

    def __cinit__(self, Client client not None, Channel owner not None, uint8_t opcode, list keys not None,
                  list results not None, uint64_t ttl, uint64_t deadline):
        cdef uint32_t i
        self.client = client
        self.owner = owner
        self.opcode = opcode
        self.keys = keys
        self.ttl = ttl
        self.deadline = deadline
        self.results = results
        self.polled = rfp_now()
        self.ask_alone = []
        self.alone = set()
        self.workers = owner.c.count
        for i in range(self.workers):
            self.bundles[i].ring = owner.c.rings[i]
            self.bundles[i].positions = <uint32_t *> malloc(max(1, len(keys)) * sizeof(uint32_t))
            if self.bundles[i].positions == NULL:
                raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.workers):
            free(self.bundles[i].positions)

    cdef int close(self, bundle *b) except -1:
        """Sends the request under construction."""
        if b.payload != NULL and b.count:
            client_ring_submit(b.ring, self.opcode, <uint16_t> b.count, 0, b.length, b.count)
            client_ring_flush(b.ring)
            self.sent = True
        b.payload = NULL
        b.count = 0
        return 0

    cdef int open(self, bundle *b) except -1:
        """Begins a request; takes answers while all slots are taken.  DONE, or why not."""
        cdef int found
        cdef uint64_t now = rfp_now()
        # Answers that are always there already, because the server is the quicker one, would never meet the deadline, nor
        # a signal, nor close().
        if now > self.deadline:
            return TIMED_OUT
        if now - self.polled >= SIGNAL_POLL_NS:
            self.polled = now
            self.client.signals()
        if self.owner.c.closing:
            return CLOSED
        while True:
            b.payload = client_ring_payload(b.ring)
            if b.payload != NULL:
                break
            if b.ring.lost or b.first == b.last:
                found = self.client.make_room(self.owner, b.ring, self.deadline)
            else:
                found = self.take(b)
            if found != DONE and found != RETRY:
                return found
        b.length = 0
        b.count = 0
        if self.opcode == KV_PUT_MANY:
            (<kv_number *> b.payload).number = self.ttl
            b.length = sizeof(kv_number)
        return DONE

    cdef int add(self, uint32_t position, bytes key, const char *value, uint64_t value_length) except -1:
        """Adds one item to its worker's request."""
        cdef uint32_t key_length = <uint32_t> PyBytes_GET_SIZE(key)
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t worker = 0
        cdef uint64_t size
        cdef bundle *b
        cdef kv_key head
        cdef kv_pair pair
        cdef int found
        if self.workers > 1:
            worker = kv_worker(rfp_hash(text, key_length, self.owner.c.seed), self.workers)
        b = &self.bundles[worker]
        size = (sizeof(kv_pair) if self.opcode == KV_PUT_MANY else sizeof(kv_key)) + key_length + value_length
        if size > b.ring.slot_size - RFP_REQUEST_HEADER - sizeof(kv_number) or self.alone and key in self.alone:
            self.ask_alone.append(position)
            self.alone.add(key)
            return DONE
        if b.payload != NULL and (b.count == ITEMS_MAX or b.length + size > b.ring.slot_size - RFP_REQUEST_HEADER):
            self.close(b)
        if b.payload == NULL:
            found = self.open(b)
            if found != DONE:
                return found
        if self.opcode == KV_PUT_MANY:
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

    cdef int take(self, bundle *b) except -1:
        """Takes the answer to the oldest request of a ring.  DONE, or why not."""
        cdef const rfp_response_header *header
        cdef const char *items
        cdef const char *data
        cdef const char *end
        cdef kv_item item
        cdef uint32_t count, i, position
        cdef int found = client_ring_step(b.ring)
        if found != DONE:
            found = self.client.wait(self.owner, b.ring, self.deadline)
        if found != DONE:
            return found
        header = client_ring_response(b.ring)
        count = <uint32_t> b.ring.slot[b.ring.tail].tag
        items = <const char *> header + RFP_RESPONSE_HEADER
        end = items + header.length
        data = items + count * sizeof(kv_item)
        try:
            if header.status != KV_OK:
                error = refusal(header.status, header.result, self.keys[b.positions[b.first]])
                for i in range(count):
                    self.results[b.positions[b.first + i]] = error
                b.first += count
                return DONE
            if header.length < count * sizeof(kv_item):
                return PROTOCOL_ERROR
            for i in range(count):
                position = b.positions[b.first]
                b.first += 1
                memcpy(&item, items + i * sizeof(kv_item), sizeof(item))
                if item.status == KV_OK:
                    if self.opcode == KV_GET_MANY:
                        if item.length > <uint64_t> (end - data):
                            return PROTOCOL_ERROR
                        value = PyBytes_FromStringAndSize(data, item.length)
                        data += item.length
                    elif self.opcode == KV_PUT_MANY:
                        value = item.version
                    else:
                        value = True
                elif item.status == KV_NOT_FOUND:
                    value = None if self.opcode == KV_GET_MANY else False
                elif item.status == KV_DEFERRED:
                    self.ask_alone.append(position)
                    continue
                else:
                    value = refusal(item.status, item.version, self.keys[position])
                self.results[position] = value
            return DONE
        finally:
            client_ring_pop(b.ring)

    cdef int finish(self) except -1:
        """Sends what is still under construction and takes all answers."""
        cdef uint32_t i
        cdef int found
        for i in range(self.workers):
            self.close(&self.bundles[i])
        for i in range(self.workers):
            while self.bundles[i].first < self.bundles[i].last:
                found = self.take(&self.bundles[i])
                if found != DONE:
                    return found
        return DONE

    cdef void give_up(self) noexcept:
        """Nobody waits for what is still under way."""
        cdef uint32_t i
        for i in range(self.workers):
            if self.bundles[i].first < self.bundles[i].last:
                client_ring_abandon(self.bundles[i].ring)


cdef class Held:
    """A value of a batch whose memory is used in place: until the batch ends nothing can resize or free it."""
    cdef Py_buffer view
    cdef object thing

    def __cinit__(self, thing):
        take_buffer(thing, &self.view, False)
        self.thing = thing

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef int run(Client client, uint8_t opcode, list keys, list values, list results, uint64_t ttl, uint64_t deadline,
             list ask_alone) except -1:
    """One pass over all keys; positions to be asked for alone are appended to `ask_alone`."""
    cdef Channel owner
    cdef Batch batch
    cdef Held held
    cdef uint32_t i
    cdef int found
    cdef bint repeatable = opcode == KV_GET_MANY
    while True:
        owner = client.acquire_channel(deadline)
        found = DONE
        batch = None
        try:
            batch = Batch(client, owner, opcode, keys, results, ttl, deadline)
            for i in range(<uint32_t> len(keys)):
                if values is None:
                    found = batch.add(i, <bytes> keys[i], NULL, 0)
                elif type(values[i]) is bytes:
                    found = batch.add(i, <bytes> keys[i], PyBytes_AS_STRING(values[i]), PyBytes_GET_SIZE(values[i]))
                else:
                    held = <Held> values[i]
                    found = batch.add(i, <bytes> keys[i], <const char *> held.view.buf, held.view.len)
                if found != DONE:
                    break
            if found == DONE:
                found = batch.finish()
            if found == DONE:
                ask_alone.extend(batch.ask_alone)
                return 0
        finally:
            if batch is not None:
                batch.give_up()
            client.release_channel(owner)
        client.raise_or_retry(found, deadline, repeatable or not batch.sent)


cdef int poll(Py_ssize_t i) except -1:
    """In loops over what a caller gave, which may be long: lets signal handlers run now and then."""
    return PyErr_CheckSignals() if i & 4095 == 4095 else 0


cdef list as_keys(keys):
    # A copy also of a list: another thread may change the caller's during the call.
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
    """Bytes, or what holds the buffer as it is: all values are checked before the first is sent."""
    cdef Py_buffer view
    if type(value) is bytes:
        return value
    if not copied:
        return Held(value)
    take_buffer(value, &view, False)
    try:
        return PyBytes_FromStringAndSize(<char *> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef int take_items(object items, list names, list values) except -1:
    """All keys and values of a put_many, checked."""
    cdef Py_ssize_t i = 0
    cdef bint copied
    items = items.items() if hasattr(items, "items") else items
    # What makes its values one by one may make all of them in the same memory.
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
            raise WrongType(f"items must be pairs of a key and a value, but item {i} is not") from None
        poll(i)
        i += 1
        names.append(as_key(key))
        values.append(as_value(value, copied))
    return 0


_DictItems = type({}.items())


cdef list get_many(Client client, object keys, object timeout):
    return many(client, KV_GET_MANY, keys, timeout)


cdef list delete_many(Client client, object keys, object timeout):
    return many(client, KV_DELETE_MANY, keys, timeout)


cdef list many(Client client, uint8_t opcode, object keys, object timeout):
    client.deadline(timeout)                # what is wrong with it is said before anything is taken
    return complete(client, opcode, as_keys(keys), None, 0, client.deadline(timeout))


cdef list put_many(Client client, object items, uint64_t ttl, object timeout):
    cdef list names = []
    cdef list values = []
    client.deadline(timeout)
    take_items(items, names, values)
    return complete(client, KV_PUT_MANY, names, values, ttl, client.deadline(timeout))


cdef list complete(Client client, uint8_t opcode, list names, list values, uint64_t ttl, uint64_t deadline):
    """All that is short in one pass, then what has to go alone; an error carries what is known by then."""
    cdef list ask_alone = []
    cdef list results = [None] * len(names)
    try:
        run(client, opcode, names, values, results, ttl, deadline, ask_alone)
        for position in sorted(ask_alone):      # not as the workers answered
            PyErr_CheckSignals()
            results[position] = alone(client, opcode, names[position], None if values is None else values[position], ttl,
                                      remaining(deadline))
    except RfpError as error:
        error.results = results
        raise
    return results


cdef object alone(Client client, uint8_t opcode, bytes name, object value, uint64_t ttl, double timeout):
    if opcode == KV_GET_MANY:
        return client.get(name, timeout=timeout)
    if opcode == KV_DELETE_MANY:
        return client.delete(name, timeout=timeout)
    try:
        return client.put(name, (<Held> value).thing if type(value) is Held else value,
                          ttl=<double> ttl / 1000 if ttl else None, timeout=timeout)
    except ServerRefused as error:
        return error


cdef double remaining(uint64_t deadline):
    """Seconds left; a call that has none left still fails with the error that says so."""
    return max(1e-6, (<double> deadline - <double> rfp_now()) / 1e9)

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Many keys in one call (the contract is in _batch.pxd).

A batch fills requests worker by worker and sends each as soon as it is full: while the server works on one, the next is
built.  Answers come in order, so each worker's queue of positions says whose they are.
"""

from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from rfp._buffers cimport take_buffer
from rfp._client cimport Client, as_key, refusal
from rfp._core cimport rfp_hash, rfp_now
from rfp._kv cimport kv_worker
from rfp.protocol._caller cimport RETRY
from rfp.protocol._channel cimport Channel
from rfp.protocol._client_ring cimport (DONE, MALFORMED, TIMED_OUT, client_ring, client_ring_abandon,
                                        client_ring_flush, client_ring_payload, client_ring_pop, client_ring_response,
                                        client_ring_step, client_ring_submit)
from rfp.protocol._wire cimport RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store._messages cimport (KV_DEFERRED, KV_DELETE_MANY, KV_GET_MANY, KV_MAX_KEY, KV_NOT_FOUND, KV_OK, KV_PUT_MANY,
                                  kv_item, kv_key, kv_number, kv_pair)

from rfp.errors import RfpError, ServerRefused

cdef enum:
    MOST_ITEMS = 16              # in one request: enough to spread its cost, few enough to overlap
    MOST_WORKERS = 64

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
    cdef list keys
    cdef list results
    cdef list again              # positions whose items are to be asked for alone, after all others
    cdef set alone               # and, of puts, their keys: a later put of the same key must not be faster
    cdef bint sent               # something was posted
    cdef uint32_t workers
    cdef bundle bundles[MOST_WORKERS]

    def __cinit__(self, Client client, Channel owner, uint8_t opcode, list keys, uint64_t ttl, uint64_t deadline):
        cdef uint32_t i
        self.client = client
        self.owner = owner
        self.opcode = opcode
        self.keys = keys
        self.ttl = ttl
        self.deadline = deadline
        self.results = [None] * len(keys)
        self.again = []
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
        # Answers that are always there already, because the server is the quicker one, would never meet the deadline.
        if rfp_now() > self.deadline:
            return TIMED_OUT
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
            self.again.append(position)
            self.alone.add(key)
            return DONE
        if b.payload != NULL and (b.count == MOST_ITEMS or b.length + size > b.ring.slot_size - RFP_REQUEST_HEADER):
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
                return MALFORMED
            for i in range(count):
                position = b.positions[b.first]
                b.first += 1
                memcpy(&item, items + i * sizeof(kv_item), sizeof(item))
                if item.status == KV_OK:
                    if self.opcode == KV_GET_MANY:
                        if item.length > <uint64_t> (end - data):
                            return MALFORMED
                        value = PyBytes_FromStringAndSize(data, item.length)
                        data += item.length
                    elif self.opcode == KV_PUT_MANY:
                        value = item.version
                    else:
                        value = True
                elif item.status == KV_NOT_FOUND:
                    value = None if self.opcode == KV_GET_MANY else False
                elif item.status == KV_DEFERRED:
                    self.again.append(position)
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


cdef list run(Client client, uint8_t opcode, list keys, list values, uint64_t ttl, uint64_t deadline, list again):
    """One pass over all keys; positions to be asked for alone are appended to `again`."""
    cdef Channel owner
    cdef Batch batch
    cdef Py_buffer view
    cdef uint32_t i
    cdef int found
    cdef bint repeatable = opcode == KV_GET_MANY
    while True:
        owner = client.enter(deadline)
        batch = Batch(client, owner, opcode, keys, ttl, deadline)
        found = DONE
        try:
            for i in range(<uint32_t> len(keys)):
                if values is None:
                    found = batch.add(i, <bytes> keys[i], NULL, 0)
                elif type(values[i]) is bytes:
                    found = batch.add(i, <bytes> keys[i], PyBytes_AS_STRING(values[i]), PyBytes_GET_SIZE(values[i]))
                else:
                    take_buffer(values[i], &view, False)
                    try:
                        found = batch.add(i, <bytes> keys[i], <const char *> view.buf, view.len)
                    finally:
                        PyBuffer_Release(&view)
                if found != DONE:
                    break
            if found == DONE:
                found = batch.finish()
            if found == DONE:
                again.extend(batch.again)
                return batch.results
        finally:
            batch.give_up()
            client.leave(owner)
        try:
            client.again(found, deadline, repeatable or not batch.sent)
        except RfpError as error:
            error.results = batch.results
            raise


cdef list as_keys(keys):
    # A copy also of a list: another thread may change the caller's during the call.
    cdef list checked = list(keys)
    cdef Py_ssize_t i
    for i in range(len(checked)):
        key = checked[i]
        if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
            checked[i] = as_key(key)
    return checked


cdef object as_value(value):
    """Bytes, or a view that holds the buffer as it is: all values are checked before the first is sent."""
    cdef Py_buffer view
    if type(value) is bytes:
        return value
    take_buffer(value, &view, False)
    PyBuffer_Release(&view)
    return memoryview(value)


cdef list get_many(Client client, object keys, uint64_t deadline):
    cdef list names = as_keys(keys)
    cdef list again = []
    cdef list results = run(client, KV_GET_MANY, names, None, 0, deadline, again)
    for position in again:
        results[position] = client.get(names[position], timeout=remaining(client, deadline))
    return results


cdef list delete_many(Client client, object keys, uint64_t deadline):
    cdef list names = as_keys(keys)
    cdef list again = []
    cdef list results = run(client, KV_DELETE_MANY, names, None, 0, deadline, again)
    for position in again:
        results[position] = client.delete(names[position], timeout=remaining(client, deadline))
    return results


cdef list put_many(Client client, object items, uint64_t ttl, uint64_t deadline):
    cdef list names = []
    cdef list values = []
    cdef list again = []
    cdef list results
    for key, value in (items.items() if hasattr(items, "items") else items):
        names.append(as_key(key))
        values.append(as_value(value))
    results = run(client, KV_PUT_MANY, names, values, ttl, deadline, again)
    for position in again:
        try:
            results[position] = client.put(names[position], values[position], ttl=<double> ttl / 1000 if ttl else None,
                                           timeout=remaining(client, deadline))
        except ServerRefused as error:
            results[position] = error
        except RfpError as error:
            error.results = results
            raise
    return results


cdef object remaining(Client client, uint64_t deadline):
    """Seconds left; a call that has none left still fails with the error that says so."""
    return max(1e-6, (<double> deadline - <double> rfp_now()) / 1e9)

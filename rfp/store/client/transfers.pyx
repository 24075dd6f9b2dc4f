"""The large values of a batch: while one is transferred, the server prepares the next ones.

Fetching
    A value that does not fit into a response costs a request, whose response refers to it, and a
    READ.  fetch_several() keeps IN_FLIGHT_MAX requests under way, over all workers, and takes the
    responses in the order of the requests.  Each of these values is pinned until its READ has
    ended.

Storing
    A value that does not fit into a slot costs an announcement and a piece, each a request.
    store_several() sends the announcements of a window of values, then a piece for each, and so
    waits twice for the window instead of twice for each value.  The values of a window share the
    staging memory.  Longer values have several pieces under way already (large_values.pyx).

A value that the server refuses because the others hold pins or memory, and one whose lease has
ended, is left to the caller of these functions, which makes its transfer alone.
"""

from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_now
from rfp.protocol.client.caller_memory cimport IoBuffer, open_io_buffer, take_buffer
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.client.client_ring cimport (
    DONE, RAISED, RETRY, TIMED_OUT, client_ring, client_ring_abandon, client_ring_flush,
    client_ring_pop, client_ring_response, client_ring_step, outcome,
)
from rfp.store.client.batch cimport as_keys, remaining
from rfp.store.client.client cimport (
    Client, choose_ring, finish_get, get_call, key_call, learn_place, refusal,
)
from rfp.store.client.direct_read cimport DIRECT_UNSURE, direct_result
from rfp.store.client.large_values cimport (
    PIECE_BYTES, answer, close_if_lost, drain, fetch_reference, post_piece, take_answer,
)
from rfp.store.client.overlapped_gets cimport OverlappedGets, attempt_gets, gets_call
from rfp.store.client.requests cimport (
    kv_submit_get, kv_submit_number, kv_submit_put,
)
from rfp.store.messages cimport KV_OK, KV_PUT_ABORT, KV_PUT_BEGIN

from rfp.errors import InvalidArgument, QuotaExceeded, RfpError, ServerRefused, WrongType

cdef enum:
    WINDOW_MAX = 8                   # uploads: a session has as many at a time
    STAGED_MAX = 4 * PIECE_BYTES     # of a window, in staging memory
    PLACE_UNIT = 64                  # of a value's offset there

# Fetching


cdef class Buffer:
    def __cinit__(self, thing, bint writable):
        take_buffer(thing, &self.view, writable)
        self.thing = thing

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class Fetches(OverlappedGets):
    """The values to fetch."""
    cdef list buffers                # Buffer, or None

    cdef bint post(self, Channel owner, client_call *c, key_call *k, uint64_t tag) except -1:
        if not kv_submit_get(c.ring, owner.c.landing != NULL, k.key, k.key_length, tag):
            return False
        c.submitted = True
        return True

    cdef outcome finish(self, Client client, Channel owner, client_call *c,
                        Py_ssize_t i) except RAISED:
        """Take or READ the value."""
        cdef get_call get
        cdef Py_ssize_t position = self.positions[i]
        cdef Buffer buffer = self.buffers[position] if self.buffers is not None else None
        self.describe(owner, c, i, &get.k)
        get.view = NULL if buffer is None else &buffer.view
        get.with_version = False
        get.by_reference = False
        get.place.slot = 0
        try:
            try:
                value = finish_get(client, &get.k.c, client_ring_response(get.k.c.ring))
            finally:
                client_ring_pop(get.k.c.ring)
            if get.by_reference:
                value = fetch_reference(client, owner, &get)
        except QuotaExceeded:
            return RETRY
        except (ServerRefused, InvalidArgument) as error:
            value = error
        if get.k.c.result == DONE:
            self.results[position] = value
            learn_place(client, owner, &get)
        return get.k.c.result


cdef list fetch_several(Client client, list names, list buffers, list positions, list results,
                        object timeout):
    cdef gets_call call
    cdef Fetches fetches = Fetches.__new__(Fetches)
    fetches.names = names
    fetches.buffers = buffers
    fetches.positions = positions
    fetches.results = results
    fetches.again = []
    client.report_uses()
    client.prepare_call(&call.c, timeout, True, attempt_gets, NULL, NULL)
    call.gets = <void *> fetches
    if positions:
        client.run(&call.c)
    return fetches.again


# Storing


cdef struct store_call:
    client_call c
    void *arguments                  # Window; the caller of run() keeps a reference


cdef class Window:
    """The values to store, of different keys, and what became of them."""
    cdef list names
    cdef list values                 # bytes or Buffer
    cdef list positions              # at most WINDOW_MAX
    cdef list results
    cdef list again
    cdef uint64_t ttl_ms


cdef const char *content(object value, uint64_t *length) except? NULL:
    cdef Buffer buffer
    if type(value) is bytes:
        length[0] = <uint64_t> PyBytes_GET_SIZE(value)
        return PyBytes_AS_STRING(value)
    buffer = value
    length[0] = <uint64_t> buffer.view.len
    return <const char *> buffer.view.buf


cdef outcome next_answer(Client client, client_ring *ring, client_call *c,
                         answer *a) except RAISED:
    cdef outcome result = client_ring_step(ring)
    if result != DONE:
        result = client.wait(ring, c.deadline_ns)
    if result == DONE:
        take_answer(ring, a)
    return result


cdef object attempt_window(ClientBase base, Channel owner, client_call *c):
    cdef Client client = <Client> base
    cdef Window window = <Window> (<store_call *> c).arguments
    cdef key_call keys[WINDOW_MAX]
    cdef uint64_t uploads[WINDOW_MAX]      # 0: not begun
    cdef int n = <int> len(window.positions), i, begun = 0
    cdef bint settled = False              # the server keeps nothing of the uploads
    window.again = []
    c.result = DONE
    if owner.c.staging == NULL or owner.c.staging.length < STAGED_MAX:
        window.again.extend(window.positions)
        return None
    # Check here: with a fast server the responses never make the call wait.
    c.result = TIMED_OUT if rfp_now() > c.deadline_ns else drain(client, owner, c.deadline_ns)
    if c.result != DONE:
        return None
    try:
        for i in range(n):
            uploads[i] = 0
            if not begin(owner, window, i, &keys[i]):
                break
            begun += 1
        c.result = take_uploads(client, window, keys, begun, c, uploads)
        if c.result == DONE:
            c.result = send_pieces(client, owner, window, keys, begun, c, uploads)
        if c.result == DONE:
            c.result = take_versions(client, window, keys, begun, c, uploads)
        settled = c.result == DONE
        window.again.extend(window.positions[begun:])
    finally:
        if not settled:
            end_uploads(keys, begun)
    return None


cdef bint begin(Channel owner, Window window, int i, key_call *k) except -1:
    """Send KV_PUT_BEGIN; False: no slot is free."""
    cdef uint64_t length
    cdef bytes name = window.names[window.positions[i]]
    cdef client_ring *ring
    content(window.values[window.positions[i]], &length)
    k.key = PyBytes_AS_STRING(name)
    k.key_length = <uint32_t> PyBytes_GET_SIZE(name)
    k.key_object = <void *> name
    ring = choose_ring(&owner.c, k)
    if not kv_submit_put(ring, KV_PUT_BEGIN, 0, k.key, k.key_length, NULL, <uint32_t> length,
                         window.ttl_ms, 0, 0):
        return False
    client_ring_flush(ring)
    return True


cdef outcome take_uploads(Client client, Window window, key_call *keys, int begun, client_call *c,
                          uint64_t *uploads) except RAISED:
    """Take the responses to the announcements: the numbers of the uploads."""
    cdef answer a
    cdef outcome result
    cdef int i
    for i in range(begun):
        result = next_answer(client, keys[i].c.ring, c, &a)
        if result != DONE:
            return result
        if a.status == KV_OK:
            uploads[i] = a.result
        else:
            # The others may hold the memory or the quota that it needs.
            window.again.append(window.positions[i])
    return DONE


cdef outcome send_pieces(Client client, Channel owner, Window window, key_call *keys, int begun,
                         client_call *c, uint64_t *uploads) except RAISED:
    cdef uint64_t place = 0
    cdef uint64_t length
    cdef const char *data
    cdef IoBuffer buffer
    cdef outcome result
    cdef int i
    for i in range(begun):
        if not uploads[i]:
            continue
        client.poll_signals()
        data = content(window.values[window.positions[i]], &length)
        buffer = open_io_buffer(owner.connection, client.registrations, <char *> data, length,
                                keys[i].c.ring.pair.needs_registration)
        try:
            # From here on the value may become visible.
            c.submitted = True
            with nogil:
                result = post_piece(keys[i].c.ring, owner.c.staging, place, buffer, uploads[i], 0,
                                    <uint32_t> length, c.deadline_ns)
            close_if_lost(owner, keys[i].c.worker, result)
        finally:
            buffer.end()
        if result != DONE:
            return result
        place += (length + PLACE_UNIT - 1) // PLACE_UNIT * PLACE_UNIT
    return DONE


cdef outcome take_versions(Client client, Window window, key_call *keys, int begun,
                           client_call *c, uint64_t *uploads) except RAISED:
    cdef answer a
    cdef outcome result
    cdef int i
    for i in range(begun):
        if not uploads[i]:
            continue
        result = next_answer(client, keys[i].c.ring, c, &a)
        if result != DONE:
            return result
        window.results[window.positions[i]] = a.result if a.status == KV_OK else refusal(
            a.status, a.result, <bytes> keys[i].key_object)
    return DONE


cdef void end_uploads(key_call *keys, int begun) noexcept:
    """Give up the requests under way, and let the server free the memory of the uploads."""
    cdef client_ring *ring
    cdef int i, k
    for i in range(begun):
        ring = keys[i].c.ring
        for k in range(i):
            if keys[k].c.ring == ring:
                break
        else:
            if ring.lost:
                continue
            client_ring_abandon(ring)
            if kv_submit_number(ring, KV_PUT_ABORT, 0, b"", 0, 0):
                client_ring_abandon(ring)
                client_ring_flush(ring)


cdef Py_ssize_t window_of(Client client, list names, list values, list positions,
                          Py_ssize_t first) except -1:
    """Return how many of the next positions one window takes."""
    cdef uint64_t staged = 0
    cdef uint64_t length
    cdef Py_ssize_t n = 0
    cdef set keys = set()
    while first + n < len(positions) and n < WINDOW_MAX:
        content(values[positions[first + n]], &length)
        staged += (length + PLACE_UNIT - 1) // PLACE_UNIT * PLACE_UNIT
        # Two values of one key stay in their order: the second one begins another window.
        if not 0 < length <= PIECE_BYTES or staged > STAGED_MAX or \
                names[positions[first + n]] in keys:
            break
        keys.add(names[positions[first + n]])
        n += 1
    return n


cdef list store_several(Client client, list names, list values, list positions,
                        Py_ssize_t first, list results, uint64_t ttl_ms, uint64_t deadline,
                        Py_ssize_t *taken):
    cdef store_call call
    cdef Window window
    taken[0] = window_of(client, names, values, positions, first)
    if taken[0] < 2:
        taken[0] = 1
        return [positions[first]]
    window = Window.__new__(Window)
    window.names = names
    window.values = values
    window.positions = positions[first:first + taken[0]]
    window.results = results
    window.ttl_ms = ttl_ms
    client.report_uses()
    client.prepare_call(&call.c, None, False, attempt_window, NULL, NULL)
    call.c.deadline_ns = deadline
    call.arguments = <void *> window
    client.run(&call.c)
    return window.again


# Many keys into the caller's buffers


cdef list get_into_many(Client client, object keys, object buffers, object timeout):
    cdef list names, taken, results, rest = []
    cdef Buffer buffer
    cdef direct_result result
    cdef uint64_t version, deadline
    cdef Py_ssize_t i
    client.deadline(timeout, rfp_now())
    names = as_keys(keys)
    try:
        taken = [Buffer(thing, True) for thing in buffers]
    except TypeError as error:
        if isinstance(error, RfpError):
            raise
        raise WrongType("buffers must be an iterable of buffers, "
                        f"not {type(buffers).__name__}") from None
    if len(taken) != len(names):
        raise InvalidArgument(f"there must be a buffer for each key, got {len(names)} keys and "
                              f"{len(taken)} buffers")
    deadline = client.deadline(timeout, rfp_now())
    results = [None] * len(names)
    for i in range(len(names)):
        client.poll_signals()
        buffer = taken[i]
        result = DIRECT_UNSURE         # fetch_several() raises the error of a deadline
        if rfp_now() <= deadline:
            value = client.get_directly(<bytes> names[i], &buffer.view, None, &version, &result)
        if result == DIRECT_UNSURE:
            rest.append(i)
        else:
            results[i] = value
    try:
        for position in fetch_several(client, names, taken, rest, results, remaining(deadline)):
            buffer = taken[position]
            try:
                results[position] = client.get_into(names[position], buffer.thing,
                                                    timeout=remaining(deadline))
            except (ServerRefused, InvalidArgument) as error:
                results[position] = error
    except RfpError as error:
        error.results = results
        raise
    return results

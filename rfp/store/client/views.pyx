"""Views: hold, export, release; KV_VIEW for one key or several."""

import select
import time

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy, memset
from rfp.core.core cimport rfp_load64_acquire, rfp_now
from rfp.core.owner_word cimport RFP_OWNER_WORD, rfp_owner_alive
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport (
    ClientBase, attempt_request, born, client_call, tag_of,
)
from rfp.protocol.client.client_ring cimport (
    DISCONNECTED, DONE, PROTOCOL_ERROR, RAISED, RETRY, TIMED_OUT, client_ring_pop,
    client_ring_response, outcome,
)
from rfp.protocol.client.remote_arena cimport RemoteArena
from rfp.protocol.wire cimport RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store.client.client cimport as_key, choose_ring, finish_get, get_call, key_call
from rfp.store.client.batch cimport as_keys, remaining
from rfp.store.client.direct_read cimport (
    DIRECT_FOUND, DIRECT_UNSURE, DirectReads, direct_arena, direct_record,
    direct_result,
)
from rfp.store.client.large_values cimport fetch_reference
from rfp.store.client.overlapped_gets cimport OverlappedGets, attempt_gets, gets_call
from rfp.store.client.requests cimport kv_submit
from rfp.store.layout cimport KV_ARENA_START, KV_UNIT
from rfp.store.messages cimport (
    KV_GET, KV_KIND_VIEW, KV_MAX_KEY, KV_MEMORY_VIEWS, KV_OK, KV_QUOTA, KV_VIEW, KV_VIEW_MIN,
)
from rfp.store.view_table cimport (
    KV_VIEW_PINS, kv_view_drop, kv_view_hold, kv_view_table, kv_view_table_size, kv_view_words,
)

from rfp.control.uninterrupted import duplicate
from rfp.core.at_exit import at_exit
from rfp.core.forks import notice
from rfp.errors import (
    Closed, ConnectionFailed, Forked, HandshakeFailed, QuotaExceeded, ServerRefused, Unsupported,
    not_copied,
)

cdef extern from "<sys/auxv.h>" nogil:
    unsigned long getauxval(unsigned long kind)
    enum:
        AT_RANDOM

TABLE_PAUSE_S = 0.001      # between two requests for a view table

# Bytes that the kernel chose when this process executed its program: the same for all copies of
# this module in it, and different after the next exec, which loses the views.
cdef uint64_t image = 0
cdef const char *random_bytes = <const char *> <uintptr_t> getauxval(AT_RANDOM)
if random_bytes != NULL:
    memcpy(&image, random_bytes, sizeof(image))
image &= ~<uint64_t> 0xff

cdef bint leaving = False


def leave():
    """Note that the interpreter ends."""
    global leaving
    leaving = True


at_exit(leave)


# Memory and pins


cdef class Pin:
    pass


cdef inline object place_of(uint32_t worker, uint64_t record):
    return record // KV_UNIT << 8 | worker


cdef class ViewMemory:
    """The arenas of a connection, and the table of this process's views.

    Args:
        connection: which lends its regions, and closes this object.
        table: the view table that the server made for this process.

    Raises:
        HandshakeFailed: the server's table is too short.
    """

    def __cinit__(self, connection, RemoteRegion table not None):
        cdef RemoteArena arena
        self.arenas = list(connection.arenas)
        for arena in self.arenas:
            if arena is None or arena.c.count != 1 or arena.c.chunks[0] == NULL:
                raise HandshakeFailed("the server offers views, but does not share its memory")
        if table.c.length < kv_view_table_size(<uint32_t> len(self.arenas)):
            raise HandshakeFailed(f"invalid view table: {table.c.length} bytes")
        self.table = table
        self.owner_line = connection.owner_line
        self.owner = connection.owner if self.owner_line is not None else 0
        self.regions = [*self.arenas, table]
        if self.owner_line is not None:
            self.regions.append(self.owner_line)
        self.pidfd = duplicate(connection.pidfd) if connection.pidfd >= 0 else None
        self.pins = {}
        self.places = {}

    cdef Pin find(self, uint32_t worker, uint64_t record):
        return self.pins.get(place_of(worker, record))

    cdef Pin take(self, uint32_t worker, const kv_viewed *granted, uint64_t version):
        cdef RemoteArena arena = self.arenas[worker]
        cdef uint64_t length = arena.c.length
        cdef const char *base = arena.c.chunks[0].base
        cdef Pin pin
        if granted.pin >= KV_VIEW_PINS or granted.record < KV_ARENA_START or \
                granted.record % KV_UNIT or granted.record > length - sizeof(kv_record) or \
                granted.offset < granted.record + sizeof(kv_record) or \
                granted.offset > length or granted.length > length - granted.offset:
            return None
        number = <uint64_t> worker << 32 | granted.pin
        place = place_of(worker, granted.record)
        pin = self.pins.get(place)
        if pin is not None and pin.generation == granted.generation and pin.version == version \
                and self.places.get(number) == place:
            return pin
        # The word served another record before: that pin has ended.
        self.pins.pop(self.places.pop(number, None), None)
        pin = Pin.__new__(Pin)
        pin.word = kv_view_words(self.table.c.base, worker) + granted.pin
        pin.generation = granted.generation
        pin.version = version
        pin.record = <const kv_record *> (base + granted.record)
        pin.data = base + granted.offset
        pin.length = <Py_ssize_t> granted.length
        self.pins[place] = pin
        self.places[number] = place
        return pin

    cdef void drop(self, Pin pin) noexcept:
        # A forked child has nothing to give back, and its memory may be half forgotten.
        if not born[0] or self.table.c.base == NULL:
            return
        kv_view_drop(pin.word)
        self.held -= 1
        # At the end of the interpreter the process's own end does the rest.
        if self.closed and not self.held and not leaving:
            self.finish()

    @property
    def stale(self):
        """Return whether the server has ended."""
        cdef const char *line
        if self.table.c.base == NULL:
            return True
        if rfp_load64_acquire(&(<kv_view_table *> self.table.c.base).serving) != 1:
            return True
        if self.owner and self.owner_line.c.base != NULL:
            line = self.owner_line.c.base
            if not rfp_owner_alive(line + RFP_OWNER_WORD, self.owner):
                return True
        if self.pidfd is None or self.pidfd.fd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self):
        """Close the regions when no view uses them any more.  Safe to call again."""
        self.closed = True
        if not self.held:
            self.finish()

    def finish(self):
        """Close the regions."""
        self.pins.clear()
        self.places.clear()
        for region in self.regions:
            region.close()
        if self.pidfd is not None:
            self.pidfd.close()


# Views


@cython.final
@cython.no_gc
cdef class Hold:
    """One use of a value."""

    def __cinit__(self):
        self.data = b""

    def __dealloc__(self):
        if self.memory is not None:
            self.memory.drop(self.pin)

    cdef int check(self) except -1:
        if self.memory is None:
            return 0
        if not born[0]:
            notice()
        if self.memory.table.c.base == NULL:
            raise Forked("the view's memory belongs to the parent process",
                         hint="use copy() before the fork, or connect and view in the child")
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(self, buffer, flags)

    def __releasebuffer__(self, Py_buffer *buffer):
        # numpy keeps a memoryview of a buffer only if its type has this.
        pass

    def __reduce__(self):
        raise not_copied(self, "pickle copy()")


cdef int fill_buffer(Hold hold, Py_buffer *buffer, int flags) except -1:
    """Make a buffer that owns the hold."""
    if flags & PyBUF_WRITABLE:
        raise BufferError("a view is read-only")
    hold.check()
    buffer.obj = hold
    buffer.buf = <void *> hold.data
    buffer.len = hold.length
    buffer.readonly = 1
    buffer.itemsize = 1
    buffer.ndim = 1
    buffer.format = <char *> "B" if flags & PyBUF_FORMAT else <char *> NULL
    buffer.shape = &hold.length if flags & PyBUF_ND else <Py_ssize_t *> NULL
    buffer.strides = <Py_ssize_t *> NULL
    if (flags & PyBUF_STRIDES) == PyBUF_STRIDES:
        buffer.strides = &buffer.itemsize
    buffer.suboffsets = NULL
    buffer.internal = NULL
    return 0


@cython.final
@cython.no_gc
cdef class View:
    """A value, as a read-only buffer; `Client.view` returns one.

    It never changes: when its key is overwritten, deleted, evicted or expires, the view keeps the
    value that it was made of.  It keeps the server's memory until release(), the end of a `with`
    block, or its collection.  While buffers made from it exist (memoryview, numpy.frombuffer), the
    memory stays, also after release(); the last of them gives it back.

    Values below 64 KiB, and all values over a network, are copied into this process (`copied`).

    After a fork the memory is not there in the child: its new buffers raise Forked, and a buffer
    that was made before the fork must not be used there.  Copy before a fork.

    >>> import rfp
    >>> with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
    ...     version = kv.put(b"k", bytes(100_000))
    ...     with kv.view(b"k") as view:
    ...         len(view), view.copied, bytes(memoryview(view)[:4])
    (100000, False, b'\\x00\\x00\\x00\\x00')
    """

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(self.held(), buffer, flags)

    def __releasebuffer__(self, Py_buffer *buffer):
        pass                                   # as of Hold

    cdef Hold held(self):
        if self.hold is None:
            raise Closed("the view is released", hint="copy() it before")
        return self.hold

    def release(self):
        """Give the value up; buffers that exist keep it until the last of them ends.

        Safe to call again, from any thread and in a finalizer.  The server frees the memory of a
        value that is no longer its key's within 0.3 s.

        Cost:
            No network round trip.
        """
        self.hold = None

    def copy(self):
        """Return the value as bytes.

        Raises:
            Closed: the view is released.
            Forked: its memory belongs to the parent process.
        """
        cdef Hold hold = self.held()
        cdef bytes value
        cdef char *target
        hold.check()
        value = PyBytes_FromStringAndSize(NULL, hold.length)
        target = PyBytes_AS_STRING(value)
        with nogil:
            memcpy(target, hold.data, hold.length)
        return value

    @property
    def nbytes(self):
        """Return the length in bytes."""
        return self.length

    @property
    def version(self):
        """Return the version that the put of this value returned."""
        return self.of_version

    @property
    def copied(self):
        """Return whether the value is in memory of this process instead of the server's."""
        return self.is_copied

    @property
    def exported(self):
        """Return the number of buffers that use the value; 0 if the view is released."""
        return (<PyObject *> self.hold).ob_refcnt - 1 if self.hold is not None else 0

    @property
    def stale(self):
        """Return whether the value's server has ended, so that other values are valid now.

        The view stays readable, and keeps all memory of that server in use until it is released.
        A copied or released view is never stale.

        Cost:
            A system call.
        """
        return self.hold is not None and self.hold.memory is not None and self.hold.memory.stale

    def __len__(self):
        return self.length

    def __enter__(self):
        self.held()
        return self

    def __exit__(self, *_):
        self.release()

    def __reduce__(self):
        raise not_copied(self, "pickle copy()")

    def __repr__(self):
        state = " (released)" if self.hold is None else " (copied)" if self.is_copied else ""
        return f"<rfp.View of {self.length} bytes{state}>"


cdef View copied_view(bytes value, uint64_t version):
    cdef View view = View.__new__(View)
    cdef Hold hold = Hold.__new__(Hold)
    hold.content = value
    hold.data = PyBytes_AS_STRING(value)
    hold.length = view.length = PyBytes_GET_SIZE(value)
    view.hold = hold
    view.of_version = version
    view.is_copied = True
    return view


cdef View held_view(ViewMemory memory, Pin pin):
    """Returns a view of a pin, or None if that has ended."""
    cdef View view = View.__new__(View)
    cdef Hold hold = Hold.__new__(Hold)
    hold.pin = pin
    hold.data = pin.data
    hold.length = view.length = pin.length
    view.of_version = pin.version
    # The last step: an exception would leave the pin held by nothing.
    if not kv_view_hold(pin.word, pin.generation):
        return None
    hold.memory = memory
    view.hold = hold
    memory.held += 1
    return view


# Without a request


cdef bint is_certain(const direct_arena *a, const direct_record *found) noexcept nogil:
    """Returns whether a record just found is its key's current value and has not expired."""
    if found.expiry and (not a.same_clock or found.expiry <= rfp_now() // 1000000):
        return False
    return rfp_owner_alive(a.owner_word, a.owner)


cdef object view_directly(Client client, bytes key, object timeout, direct_result *result):
    cdef DirectReads direct
    cdef ViewMemory memory
    cdef channel *ch
    cdef direct_record found
    cdef uint64_t hash, version
    cdef uint32_t worker
    cdef Pin pin
    cdef View view
    result[0] = DIRECT_UNSURE
    ch = client.direct_channel(key, timeout)
    if ch == NULL:
        return None
    direct = client.direct
    hash = direct.hash_of(key)
    result[0] = direct.locate(ch, key, hash, &worker, &found)
    if result[0] != DIRECT_FOUND:
        return None
    if found.value_length < KV_VIEW_MIN or not client.views_in_place:
        value = direct.get(ch, key, NULL, &version, result)
        return copied_view(<bytes> value, version) if result[0] == DIRECT_FOUND else None
    result[0] = DIRECT_UNSURE
    if client.view_identity != client.identity:
        return None
    memory = client.view_memory
    # The GIL is held from here to the hold: a pin that is valid after it was valid during the walk
    # before, because a later pin of this place has another generation and comes in by a request.
    pin = memory.find(worker, found.offset)
    if pin is None or pin.version != found.version:
        return None
    view = held_view(memory, pin)
    # The pin keeps its record in its place: a version there is that record's.
    if view is None or rfp_load64_acquire(&pin.record.version) != pin.version or \
            not is_certain(&direct.arenas[worker], &found):
        return None
    direct.used_record(ch, worker, hash, &found)
    result[0] = DIRECT_FOUND
    return view


# Requests


cdef struct view_call:
    get_call g
    bint viewed                    # the response was `granted`, not the value or a reference
    kv_viewed granted


cdef bint submit_view(channel *ch, client_call *c) noexcept nogil:
    cdef key_call *k = <key_call *> c
    return kv_submit(choose_ring(ch, k), k.opcode, k.key, k.key_length, tag_of(c))


cdef object finish_view(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return an Item; a reference or a grant is kept in the call."""
    cdef view_call *v = <view_call *> c
    if v.g.k.opcode == KV_VIEW and response.status == KV_QUOTA:
        raise QuotaExceeded("the views of this process, or of all processes, keep as much of the "
                            "server's memory as they may",
                            hint="release views, copy values with get(), or start the server with "
                                 "more memory= or quota=")
    if response.status != KV_OK or response.kind != KV_KIND_VIEW:
        return finish_get(client, c, response)
    v.viewed = True
    v.g.version = response.result
    memset(&v.granted, 0xff, sizeof(kv_viewed))
    if response.length == sizeof(kv_viewed):
        memcpy(&v.granted, <const char *> response + RFP_RESPONSE_HEADER, sizeof(kv_viewed))
    return None


cdef ViewMemory memory_of(Client client, Channel owner, client_call *c):
    """Return the memory of the channel's connection; None: values are copied, or see c.result."""
    cdef ViewMemory memory
    c.result = DONE
    if not client.views_in_place:
        return None
    try:
        memory = owner.connection.lend(KV_MEMORY_VIEWS | image, ViewMemory, c.deadline_ns)
    except Unsupported:                        # the server cannot watch this process
        client.views_in_place = False
        return None
    except ServerRefused as error:
        # The table of a program that this process executed before must end first.
        if type(error) is not ServerRefused or rfp_now() > c.deadline_ns:
            raise
        time.sleep(TABLE_PAUSE_S)
        c.result = RETRY
        return None
    except HandshakeFailed:
        c.result = PROTOCOL_ERROR
        return None
    except ConnectionFailed:
        c.result = DISCONNECTED
        return None
    if owner.connection is client.connection:
        client.view_memory = memory
        client.view_identity = client.identity
    return memory


cdef View view_of_answer(Client client, Channel owner, ViewMemory memory, view_call *v,
                         object item):
    """Make a view of a response that finish_view() has taken; sets the call's result."""
    cdef client_call *c = &v.g.k.c
    cdef Pin pin
    if v.viewed:
        pin = None if memory is None else memory.take(c.worker, &v.granted, v.g.version)
        if pin is None:
            c.result = PROTOCOL_ERROR
            return None
        view = held_view(memory, pin)
        if view is None:                       # the pin ended before the response came
            c.result = TIMED_OUT if rfp_now() > c.deadline_ns else RETRY
        return view
    if v.g.by_reference:
        value = fetch_reference(client, owner, &v.g)
        return copied_view(<bytes> value, v.g.version) if c.result == DONE else None
    return None if item is None else copied_view(<bytes> item.value, item.version)


cdef object attempt_view(ClientBase base, Channel owner, client_call *c):
    cdef Client client = <Client> base
    cdef view_call *v = <view_call *> c
    cdef ViewMemory memory = memory_of(client, owner, c)
    if c.result != DONE:
        return None
    v.g.k.opcode = <uint8_t> (KV_GET if memory is None else KV_VIEW)
    v.g.by_reference = v.viewed = False
    item = attempt_request(client, owner, c)
    return view_of_answer(client, owner, memory, v, item) if c.result == DONE else None


cdef object view_one(Client client, object key, object timeout):
    cdef direct_result result
    cdef view_call v
    if type(key) is not bytes or not 1 <= PyBytes_GET_SIZE(key) <= KV_MAX_KEY:
        key = as_key(key)
    found = view_directly(client, <bytes> key, timeout, &result)
    if result != DIRECT_UNSURE:
        return found
    client.prepare_call(&v.g.k.c, timeout, True, attempt_view, submit_view, finish_view)
    client.prepare_key_call(&v.g.k, KV_VIEW, <bytes> key)
    v.g.with_version = True
    v.g.view = NULL
    return client.run(&v.g.k.c)


# Several keys


cdef class Views(OverlappedGets):
    """The values to view."""
    cdef ViewMemory memory           # of the present attempt

    cdef int prepare(self, Client client, Channel owner, client_call *c) except -1:
        self.memory = memory_of(client, owner, c)
        return 0

    cdef uint8_t opcode(self) noexcept:
        return <uint8_t> (KV_GET if self.memory is None else KV_VIEW)

    cdef bint post(self, Channel owner, client_call *c, key_call *k, uint64_t tag) except -1:
        return kv_submit(c.ring, self.opcode(), k.key, k.key_length, tag)

    cdef outcome finish(self, Client client, Channel owner, client_call *c,
                        Py_ssize_t i) except RAISED:
        """Make the view."""
        cdef view_call v
        self.describe(owner, c, i, &v.g.k)
        v.g.view = NULL
        v.g.with_version = True
        v.g.by_reference = v.viewed = False
        v.g.k.opcode = self.opcode()
        try:
            item = finish_view(client, &v.g.k.c, client_ring_response(v.g.k.c.ring))
        finally:
            client_ring_pop(v.g.k.c.ring)
        made = view_of_answer(client, owner, self.memory, &v, item)
        if v.g.k.c.result == DONE:
            self.results[self.positions[i]] = made
        return v.g.k.c.result


cdef list view_many(Client client, object keys, object timeout):
    cdef Views views = Views.__new__(Views)
    cdef gets_call call
    cdef direct_result result
    cdef Py_ssize_t i
    views.names = as_keys(keys)
    views.positions = []
    views.again = []
    views.results = [None] * len(views.names)
    client.prepare_call(&call.c, timeout, True, attempt_gets, NULL, NULL)
    for i in range(len(views.names)):
        found = view_directly(client, <bytes> views.names[i], None, &result)
        if result == DIRECT_UNSURE:
            views.positions.append(i)
        else:
            views.results[i] = found
    if views.positions:
        client.report_uses()
        call.gets = <void *> views
        client.run(&call.c)
    for i in views.again:
        views.results[i] = view_one(client, views.names[i], remaining(call.c.deadline_ns))
    return views.results

# cython: boundscheck=True, wraparound=True, cdivision=False
"""The store's partition, driven from Python without a fabric or a worker.

For tests, tools and measurements.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport rfp_hash, rfp_now
from rfp.core.limits cimport RFP_PAGE
from rfp.core.system cimport SIGSTOP, aligned_alloc, raise_signal
from rfp.fabric.fabric cimport REMOTE_READ, Region
from rfp.protocol.server.service cimport Service, request, response, service_session
from rfp.store.layout cimport (
    KV_BLOCK_END, KV_BLOCK_FREE, KV_BLOCK_RECORD, KV_LINE, KV_STATE_KEY, KV_UNIT, kv_record,
    kv_slot_offset,
)
from rfp.store.server.arena cimport (
    arena, arena_allocate, arena_check, arena_extend, arena_extend_back, arena_free, arena_kind,
    arena_may_shrink, arena_open, arena_previous, arena_shrink, arena_size, arena_slide, arena_take,
    arena_trim,
)
from rfp.store.server.index cimport index_chain
from rfp.store.server.partition cimport Partition
from rfp.store.server.records cimport record_at
from rfp.store.view_table cimport (
    KV_VIEW_PINS, kv_view_drop, kv_view_hold, kv_view_table_size, kv_view_words,
)

cdef enum:
    GUARD = 64                 # bytes behind the space for a response that must stay unchanged
    PATTERN = 0xa5


def key_hash(const unsigned char[::1] key, uint64_t seed) -> int:
    """Return the hash that places a key."""
    return rfp_hash(&key[0] if key.shape[0] else NULL, key.shape[0], seed)


cdef class Memory(Region):
    """A region that no peer can reach: `length` bytes of this process, zeroed."""

    def __init__(self, uint64_t length):
        self.close()
        length = (length + KV_LINE - 1) // KV_LINE * KV_LINE
        self.c.base = <char *> aligned_alloc(
            RFP_PAGE, (length + RFP_PAGE - 1) // RFP_PAGE * RFP_PAGE)
        if self.c.base == NULL:
            raise MemoryError
        memset(self.c.base, 0, length)
        self.c.length = length
        self.c.rights = REMOTE_READ

    def read(self, uint64_t offset, uint64_t length):
        """Return a copy of a range, as a peer's READ would fetch it."""
        if offset > self.c.length or length > self.c.length - offset:
            raise ValueError("beyond the region")
        return PyBytes_FromStringAndSize(self.c.base + offset, length)

    cpdef close(self):
        free(self.c.base)
        self.c.base = NULL
        self.c.length = 0

    def __dealloc__(self):
        free(self.c.base)


cdef class ViewTable(Memory):
    """A view table for one partition, with the client's operations on its words."""

    def __init__(self):
        Memory.__init__(self, kv_view_table_size(1))

    cdef uint64_t *word(self, uint32_t pin) except NULL:
        if self.c.base == NULL or pin >= KV_VIEW_PINS:
            raise ValueError("beyond the table")
        return kv_view_words(self.c.base, 0) + pin

    def hold(self, uint32_t pin, uint32_t generation):
        """Add a view; return False if the pin has ended."""
        return bool(kv_view_hold(self.word(pin), generation))

    def drop(self, uint32_t pin):
        """Subtract a view."""
        kv_view_drop(self.word(pin))

    def __getitem__(self, uint32_t pin):
        return self.word(pin)[0]

    def __setitem__(self, uint32_t pin, uint64_t content):
        self.word(pin)[0] = content


cdef class Session:
    """One client's session with a service, whose requests the caller's own thread executes.

    Args:
        service: for example a Partition.
        staging: bytes of memory for uploads.
        capacity: bytes that a response may have, unless execute() overrides it.
        peer: number of the client that it belongs to; 0: a client of its own.
    >>> from rfp.store.server.partition import Partition
    >>> p = Partition(Memory(1 << 20), seed=1, first_version=1, lease_ns=10**9,
    ...               session_quota=1 << 20, max_value=1 << 20)
    >>> Session(p).execute(29)          # KV_RELEASE: status, kind, result, payload
    (0, 0, 0, b'')
    """
    cdef readonly Service service
    cdef service_session c
    cdef char *memory
    cdef readonly uint32_t capacity
    cdef readonly bint yield_after     # as in the last response
    cdef bint open

    def __cinit__(self, Service service not None, *, uint64_t staging=0, uint32_t capacity=4096,
                  uint64_t peer=0):
        if service.c.opened == NULL:
            raise ValueError("the service serves nothing")
        self.service = service
        self.capacity = capacity
        self.c.peer = peer
        if staging:
            self.memory = <char *> calloc(staging, 1)
            if self.memory == NULL:
                raise MemoryError
            self.c.staging = self.memory
            self.c.staging_length = staging
        service.c.opened(service.c.context, &self.c)
        self.open = True

    def execute(self, int opcode, payload=b"", *, int count=0, uint32_t flags=0, uint64_t release=0,
                capacity=None, bint stops=False):
        """Execute one request.

        Args:
            stops: whether to stop the process before and after (SIGSTOP), for a tracer.

        Returns:
            (status, kind, result, payload).

        Raises:
            MemoryError: out of memory.
            RuntimeError: the service wrote outside its space.
        """
        cdef const unsigned char[::1] view = payload
        cdef uint32_t length = view.shape[0], room = self.capacity if capacity is None else capacity
        cdef uint32_t i
        cdef char *copy
        cdef char *slot
        cdef request r
        cdef response out
        if not self.open:
            raise ValueError("the session is closed")
        # Of exactly that length, so that a sanitizer reports each byte beyond it.
        copy = <char *> malloc(length)
        slot = <char *> malloc(room + GUARD)
        try:
            if copy == NULL or slot == NULL:
                raise MemoryError
            if length:
                memcpy(copy, &view[0], length)
            memset(slot, PATTERN, room + GUARD)
            memset(&r, 0, sizeof(r))
            memset(&out, 0, sizeof(out))
            r.session = &self.c
            r.opcode = opcode
            r.count = count
            r.flags = flags
            r.length = length
            r.payload = copy
            r.release = release
            out.payload = slot
            out.capacity = room
            with nogil:
                if self.service.c.prepare != NULL:
                    self.service.c.prepare(self.service.c.context, &r, 0)
                    self.service.c.prepare(self.service.c.context, &r, 1)
                if stops:
                    raise_signal(SIGSTOP)
                self.service.c.execute(self.service.c.context, &r, &out)
                if stops:
                    raise_signal(SIGSTOP)
            self.yield_after = out.yield_after
            if out.length > room:
                raise RuntimeError("the response is longer than its room")
            for i in range(GUARD):
                if <unsigned char> slot[room + i] != PATTERN:
                    raise RuntimeError("the service wrote behind the response's room")
            return out.status, out.kind, out.result, PyBytes_FromStringAndSize(slot, out.length)
        finally:
            free(copy)
            free(slot)

    def stage(self, uint64_t offset, const unsigned char[::1] data not None):
        """Copy bytes into the staging memory, as the client's WRITE would."""
        if offset > self.c.staging_length \
                or <uint64_t> data.shape[0] > self.c.staging_length - offset:
            raise ValueError("beyond the staging memory")
        if data.shape[0]:
            memcpy(self.memory + offset, &data[0], data.shape[0])

    def tick(self, uint64_t now, bint stops=False):
        """Run the service's tick at a time (ns); return whether it has more work."""
        cdef bint more
        with nogil:
            if stops:
                raise_signal(SIGSTOP)
            more = self.service.c.tick(self.service.c.context, now)
            if stops:
                raise_signal(SIGSTOP)
        return more

    def time(self, int opcode, uint32_t fixed, list keys, uint64_t rounds, uint32_t group=16,
             bytes tail=b""):
        """Return the ns per request of `rounds` requests over the keys in turn.

        The requests are executed in groups that are prepared together.

        Args:
            opcode: of the requests.
            fixed: bytes of zeros before each key (the lengths of a KV_PUT are filled in).
            keys: the keys.
            rounds: number of requests.
            group: requests of a group.
            tail: bytes after the key.
        """
        cdef uint64_t i, n = len(keys), begun, done
        cdef uint32_t j, k
        cdef request[64] requests
        cdef response out
        # Aligned like a worker's copy of a request.
        cdef uint32_t width = (max(len(k) for k in keys) + fixed + len(tail) + 7) // 8 * 8
        cdef char *payloads = <char *> calloc(n, width)
        cdef uint32_t *lengths = <uint32_t *> calloc(n, 4)
        cdef char *slot = <char *> malloc(self.capacity)
        cdef bytes key
        if not 0 < group <= 64:
            raise ValueError("a group has from 1 to 64 requests")
        try:
            if payloads == NULL or lengths == NULL or slot == NULL:
                raise MemoryError
            for i in range(n):
                key = keys[i]
                if fixed == 24:
                    (<uint32_t *> (payloads + i * width))[0] = len(key)
                    (<uint32_t *> (payloads + i * width))[1] = len(tail)
                memcpy(payloads + i * width + fixed, <const char *> key, len(key))
                memcpy(payloads + i * width + fixed + len(key), <const char *> tail, len(tail))
                lengths[i] = fixed + len(key) + len(tail)
            memset(requests, 0, sizeof(requests))
            with nogil:
                begun = rfp_now()
                i = 0
                done = 0
                while done < rounds:
                    for j in range(group):
                        requests[j].session = &self.c
                        requests[j].opcode = opcode
                        requests[j].payload = payloads + i * width
                        requests[j].length = lengths[i]
                        i += 1
                        if i == n:
                            i = 0
                    for j in range(group):
                        self.service.c.prepare(self.service.c.context, &requests[j], 0)
                    for j in range(group):
                        self.service.c.prepare(self.service.c.context, &requests[j], 1)
                    for j in range(group):
                        out.payload = slot
                        out.capacity = self.capacity
                        self.service.c.execute(self.service.c.context, &requests[j], &out)
                    done += group
                begun = rfp_now() - begun
            return begun / done
        finally:
            free(payloads)
            free(lengths)
            free(slot)

    def close(self):
        """End the session and free all its resources."""
        if self.open:
            self.open = False
            self.service.c.closed(self.service.c.context, &self.c)

    def __dealloc__(self):
        if self.open and self.service is not None:      # the garbage collector may have cleared it
            self.service.c.closed(self.service.c.context, &self.c)
        free(self.memory)


def buckets(Partition store not None):
    """Return the keys in each bucket of a partition, in the order of its slots."""
    cdef uint64_t[64] slots
    cdef uint64_t[8] lines
    cdef uint64_t b
    cdef int n, n_lines, i
    cdef kv_record *record
    found = []
    for b in range(store.p.index.buckets):
        n = index_chain(&store.p.index, b, slots, lines, &n_lines)
        keys = []
        for i in range(n):
            record = record_at(store.p, kv_slot_offset(slots[i]))
            keys.append(PyBytes_FromStringAndSize(<char *> (record + 1),
                                                  record.state & KV_STATE_KEY))
        found.append(keys)
    return found


cdef class Arena:
    """An allocator over `length` bytes of its own.

    A block is named by its offset.  Each call checks its arguments first.
    """
    cdef arena a
    cdef char *memory

    def __cinit__(self, uint64_t length):
        if length < 1024 or length % KV_UNIT:
            raise ValueError("an arena has a multiple of 16 bytes")
        self.memory = <char *> calloc(1, length)
        if self.memory == NULL:
            raise MemoryError
        arena_open(&self.a, self.memory, KV_LINE, length - KV_UNIT)

    def __dealloc__(self):
        free(self.memory)

    @property
    def used(self):
        return self.a.used

    @property
    def end(self):
        return self.a.end

    @property
    def cursors(self):
        return self.a.cursors[0], self.a.cursors[1]

    @cursors.setter
    def cursors(self, pair):
        self.a.cursors = pair

    def blocks(self):
        """Return [(offset, size, kind)] in the order of addresses, without the end block."""
        cdef uint64_t block = self.a.start
        found = []
        while arena_kind(&self.a, block) != KV_BLOCK_END:
            found.append((block, arena_size(&self.a, block), arena_kind(&self.a, block)))
            block += arena_size(&self.a, block)
        return found

    def check(self):
        cdef const char *problem = arena_check(&self.a)
        if problem != NULL:
            raise RuntimeError(problem.decode())

    def allocate(self, uint64_t size):
        return arena_allocate(&self.a, size, KV_BLOCK_RECORD)

    def free(self, uint64_t block):
        arena_free(&self.a, block)

    def fill(self, uint64_t block, bytes data):
        """Write data after the block's word."""
        if len(data) > arena_size(&self.a, block) - 8:
            raise ValueError("longer than the block")
        memcpy(self.memory + block + 8, <const char *> data, len(data))

    def read(self, uint64_t block, uint64_t length):
        return PyBytes_FromStringAndSize(self.memory + block + 8, length)

    def take(self, uint64_t block, uint64_t most):
        if arena_kind(&self.a, block) != KV_BLOCK_FREE:
            raise ValueError("not free")
        arena_take(&self.a, block, most)

    def extend(self, uint64_t block, uint64_t most):
        if arena_kind(&self.a, block + arena_size(&self.a, block)) != KV_BLOCK_FREE:
            raise ValueError("what comes next is not free")
        arena_extend(&self.a, block, most)

    def extend_back(self, uint64_t block, uint64_t most):
        cdef uint64_t previous = arena_previous(&self.a, block)
        if not previous or arena_kind(&self.a, previous) != KV_BLOCK_FREE:
            raise ValueError("what comes before is not free")
        return arena_extend_back(&self.a, block, most)

    def trim(self, uint64_t block, uint64_t size):
        arena_trim(&self.a, block, size)

    def slide(self, uint64_t block):
        return arena_slide(&self.a, block)

    def shrink(self, uint64_t size):
        cdef uint64_t last = arena_previous(&self.a, self.a.end)
        if not last or arena_kind(&self.a, last) != KV_BLOCK_FREE \
                or not arena_may_shrink(arena_size(&self.a, last), size):
            raise ValueError("the end is not free")
        arena_shrink(&self.a, size)

"""A hash table in this process as a native database: measures the driver's own cost, and serves the
driver's tests.

It sends nothing: its figures are the upper bound of the rates that the driver can measure, not
those of a store.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from bench._driver cimport (
    DRIVER_GET, DRIVER_LOST, DRIVER_TAKEN, WINDOW_FULL, Connection, finished, operation,
)
from bench._tally cimport STATUS_ERROR, STATUS_NOT_FOUND, STATUS_OK
from rfp.core.core cimport rfp_exchange32, rfp_hash, rfp_now, rfp_pause, rfp_store32_release

from rfp.errors import out_of_bounds

cdef enum:
    WINDOW = 256
    KEY_ROOM = 64

cdef struct entry:
    uint64_t hash              # 0: free
    char *value
    uint32_t value_length
    uint32_t key_length
    char key[KEY_ROOM]

cdef struct table:             # open addressing, linear probing; never shrinks
    entry *entries
    uint64_t mask
    uint64_t used
    uint32_t lock

cdef struct pending:
    operation *op
    uint64_t due               # ns; 0: at once

cdef struct answer:
    char *room
    uint64_t size

cdef struct line:              # state of one thread
    table *t
    uint64_t delay             # ns
    uint64_t stall_at          # this operation and the ones behind it take `stall` ns longer
    uint64_t stall
    uint64_t lost_at           # from this operation on the database is lost
    uint64_t taken
    uint64_t last_due
    uint32_t window
    uint32_t first
    uint32_t count
    pending queue[WINDOW]
    answer answers[WINDOW]


cdef entry *find(table *t, const char *key, uint32_t length, uint64_t h) noexcept nogil:
    """Returns the key's entry, or the free entry for it."""
    cdef uint64_t i = h & t.mask
    cdef entry *e
    while True:
        e = t.entries + i
        if (e.hash == 0
                or (e.hash == h and e.key_length == length and memcmp(e.key, key, length) == 0)):
            return e
        i = (i + 1) & t.mask


cdef bint grow(table *t) noexcept nogil:
    cdef uint64_t i, size = t.mask + 1
    cdef entry *old = t.entries
    cdef entry *bigger = <entry *>calloc(2 * size, sizeof(entry))
    if bigger == NULL:
        return False
    t.entries, t.mask = bigger, 2 * size - 1
    for i in range(size):
        if old[i].hash:
            find(t, old[i].key, old[i].key_length, old[i].hash)[0] = old[i]
    free(old)
    return True


cdef int put(table *t, operation *op, uint64_t h) noexcept nogil:
    cdef entry *e
    cdef char *value
    if 2 * t.used > t.mask and not grow(t):
        return STATUS_ERROR
    e = find(t, op.key, op.key_length, h)
    if e.hash == 0 or e.value_length != op.value_length:
        value = <char *>realloc(e.value, op.value_length + 1)
        if value == NULL:
            return STATUS_ERROR
        e.value = value
        e.value_length = <uint32_t>op.value_length
    if e.hash == 0:
        memcpy(e.key, op.key, op.key_length)
        e.key_length, e.hash = op.key_length, h
        t.used += 1
    memcpy(e.value, op.value, op.value_length)
    return STATUS_OK


cdef int get(table *t, operation *op, uint64_t h, answer *a, uint64_t *length) noexcept nogil:
    cdef entry *e = find(t, op.key, op.key_length, h)
    cdef char *room
    if e.hash == 0:
        return STATUS_NOT_FOUND
    if a.size < e.value_length + 1:
        room = <char *>realloc(a.room, e.value_length + 1)
        if room == NULL:
            return STATUS_ERROR
        a.room, a.size = room, e.value_length + 1
    # copied: another thread may overwrite it before the caller reads it
    memcpy(a.room, e.value, e.value_length)
    length[0] = e.value_length
    return STATUS_OK


cdef int submit(void *self, operation *op) noexcept nogil:
    cdef line *it = <line *>self
    cdef pending *p
    if it.lost_at and it.taken + 1 >= it.lost_at:
        return DRIVER_LOST
    if it.count == it.window:
        return WINDOW_FULL
    it.taken += 1
    p = it.queue + (it.first + it.count) % WINDOW
    p.op, p.due = op, 0
    if it.delay or it.stall:
        p.due = max(rfp_now() + it.delay + (it.stall if it.taken == it.stall_at else 0),
                    it.last_due)
        it.last_due = p.due
    it.count += 1
    return DRIVER_TAKEN


cdef int reap(void *self, finished *done, int n) noexcept nogil:
    cdef line *it = <line *>self
    cdef operation *op
    cdef uint64_t h
    cdef int taken = 0
    cdef finished *f
    while taken < n and it.count:
        if it.queue[it.first].due and it.queue[it.first].due > rfp_now():
            break
        op = it.queue[it.first].op
        h = rfp_hash(op.key, op.key_length, 0) | 1
        f = done + taken
        f.id = op.id
        while rfp_exchange32(&it.t.lock, 1):
            rfp_pause()
        if op.key_length > KEY_ROOM:
            f.status = STATUS_ERROR
        elif op.opcode == DRIVER_GET:
            f.status = get(it.t, op, h, it.answers + taken, &f.value_length)
            f.value = it.answers[taken].room
        else:
            f.status = put(it.t, op, h)
        rfp_store32_release(&it.t.lock, 0)
        it.first = (it.first + 1) % WINDOW
        it.count -= 1
        taken += 1
    return taken


cdef class Table:
    """The hash table; its connections share it."""
    cdef table c

    def __cinit__(self):
        self.c.mask = (1 << 10) - 1
        self.c.entries = <entry *>calloc(self.c.mask + 1, sizeof(entry))
        if self.c.entries == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint64_t i
        if self.c.entries != NULL:
            for i in range(self.c.mask + 1):
                free(self.c.entries[i].value)
            free(self.c.entries)

    def __len__(self):
        return self.c.used

    def connect(self, *, uint32_t window=WINDOW, takes=None, uint64_t delay=0, uint64_t stall_at=0,
                uint64_t stall=0, uint64_t lost_at=0) -> TableConnection:
        """Return a connection for one thread.

        Args:
            window: operations in flight, at most 256.
            takes: operations that it really accepts before its window is full.
            delay: ns that each operation takes.
            stall_at, stall: the operation with this number (from 1) takes `stall` ns longer.
            lost_at: from this operation on the database returns DRIVER_LOST.
        """
        if not 1 <= window <= WINDOW:
            raise out_of_bounds("rfp.window", window, 1, WINDOW)
        cdef TableConnection connection = TableConnection()
        connection.table = self
        connection.window = window
        connection.l.window = window if takes is None else takes
        connection.l.t = &self.c
        connection.l.delay, connection.l.stall_at = delay, stall_at
        connection.l.stall, connection.l.lost_at = stall, lost_at
        connection.c.self = &connection.l
        connection.c.submit, connection.c.reap = submit, reap
        return connection


cdef class TableConnection(Connection):
    cdef line l
    cdef Table table

    cpdef close(self):
        self.l.count = 0

    def __dealloc__(self):
        cdef int i
        for i in range(WINDOW):
            free(self.l.answers[i].room)

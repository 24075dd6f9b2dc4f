"""The crash model.  docs/testing.md shows how to use it.

A Model is a medium that records every store, flush and drain.  At any of these events the machine
may have stopped, and bytes not drained by then may or may not have survived:

- on memory, any 8 bytes of it, in any order (`kind="words"`, the default, as non-temporal stores
  and remote writes allow), or in each cache line a prefix of its stores (`kind="lines"`, as
  ordinary stores allow);
- in a file (`kind="sectors"`), each sector of 512 bytes as any of the writes to it left it.

The result of a crash is drawn from a seed, so it can be repeated.  Of the bytes stored behind the
model's back, as peers do it, only those survive that a flush sent on their way.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close as close_fd, usleep
from rfp.core.core cimport rfp_copy_out, rfp_random_mix, rfp_store64
from rfp.core.memfd cimport rfp_memfd_create, rfp_memfd_map_new, rfp_memfd_seal
from rfp.core.system cimport pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from rnvm.format.layout cimport RNVM_LINE, RNVM_PAGE
from rnvm.media.medium cimport medium, medium_operations

from rfp.errors import FabricError, InvalidArgument, bad_choice, out_of_bounds

cdef enum:
    STORE = 1                  # bytes, not on their way yet (a file: written)
    FLUSH = 2                  # bytes stored there are on their way
    DRAIN = 3                  # bytes on their way have become durable
    MARK = 4                   # the caller's

cdef enum:                     # rules: planted bugs
    SKIP_FLUSH = 1             # bytes written or flushed there are never sent on their way
    SKIP_DRAIN = 2             # drains after something there was sent on its way do nothing

cdef enum:
    SECTOR = 512
    WORD = 8

cdef uint64_t NO_FAILURE = ~<uint64_t> 0
cdef enum:
    EIO = 5

RULES = {"skip-flush": SKIP_FLUSH, "skip-drain": SKIP_DRAIN}


# Recording


cdef event *add(recorder *r, uint8_t kind, uint64_t offset, uint64_t length) noexcept nogil:
    cdef event *e
    if r.count == r.room:
        r.room = 2 * r.room + 256
        r.events = <event *> realloc(r.events, r.room * sizeof(event))
    e = &r.events[r.count]
    r.count += 1
    memset(e, 0, sizeof(event))
    e.kind = kind
    e.offset = offset
    e.length = length
    return e


cdef void record(recorder *r, uint64_t offset, uint64_t length) noexcept nogil:
    """Record a store, with the bytes of the range; in a file, of the sectors that it touches."""
    cdef event *e
    cdef uint64_t end = offset + length
    if r.sectors:
        offset = offset // SECTOR * SECTOR
        end = (end + SECTOR - 1) // SECTOR * SECTOR
    e = add(r, STORE, offset, end - offset)
    if r.used + e.length > r.data_room:
        r.data_room = 2 * (r.data_room + e.length)
        r.data = <char *> realloc(r.data, r.data_room)
    e.data = r.used
    memcpy(r.data + r.used, r.view + offset, e.length)
    r.used += e.length


cdef bint ruled(const recorder *r, int verb, uint64_t offset, uint64_t n) noexcept nogil:
    cdef int i
    for i in range(r.rule_count):
        if (r.rules[i][0] == <uint64_t> verb and offset < r.rules[i][2]
                and offset + n > r.rules[i][1]):
            return True
    return False


cdef void send(recorder *r, uint64_t offset, uint64_t n) noexcept nogil:
    r.last = offset
    if not ruled(r, SKIP_FLUSH, offset, n):
        add(r, FLUSH, offset, n)


cdef void stored(recorder *r, uint64_t offset, uint64_t n) noexcept nogil:
    cdef bint lost = ruled(r, SKIP_FLUSH, offset, n)
    # Bytes that were never written to a file cannot be in it; memory may have kept them.
    if not (lost and r.sectors):
        memcpy(r.view + offset, r.m.base + offset, n)
        record(r, offset, n)
    send(r, offset, n)


# The verbs


cdef void model_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    cdef recorder *r = <recorder *> m.state
    pthread_mutex_lock(&r.lock)
    rfp_copy_out(m.base + offset, source, n)
    stored(r, offset, n)
    pthread_mutex_unlock(&r.lock)


cdef void model_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    cdef recorder *r = <recorder *> m.state
    pthread_mutex_lock(&r.lock)
    rfp_store64(m.base + offset, value)
    stored(r, offset, WORD)
    pthread_mutex_unlock(&r.lock)


cdef void model_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    cdef recorder *r = <recorder *> m.state
    pthread_mutex_lock(&r.lock)
    if n:
        flush(r, m, offset, n)
    pthread_mutex_unlock(&r.lock)


cdef void flush(recorder *r, medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    cdef uint64_t at, end
    if r.sectors:
        stored(r, offset, n)
        return
    # Cache lines are flushed whole; a file is written exactly as requested.
    at = offset & ~<uint64_t> (RNVM_LINE - 1)
    end = min((offset + n + RNVM_LINE - 1) & ~<uint64_t> (RNVM_LINE - 1), m.length)
    while at < end:                          # bytes that peers have stored in the meantime
        if memcmp(r.view + at, m.base + at, WORD):
            memcpy(r.view + at, m.base + at, WORD)
            record(r, at, WORD)
        at += WORD
    send(r, offset, n)


cdef int model_drain(medium *m) noexcept nogil:
    cdef recorder *r = <recorder *> m.state
    cdef int result
    if r.delay:
        usleep(r.delay)
    pthread_mutex_lock(&r.lock)
    result = drain(r, m)
    pthread_mutex_unlock(&r.lock)
    return result


cdef int drain(recorder *r, medium *m) noexcept nogil:
    if m.error:
        return -1
    if r.drains != NO_FAILURE:
        if not r.drains:
            m.error = EIO
            return -1
        r.drains -= 1
    if not ruled(r, SKIP_DRAIN, r.last, 1):
        add(r, DRAIN, 0, 0)
    return 0


cdef medium_operations model_operations = medium_operations(model_write, model_write64, model_flush,
                                                            model_drain)


cdef class Model(Medium):
    """A medium in memory whose crashes can be examined, one by one.

    Args:
        length: Bytes.
        kind: "words", "lines" or "sectors".
        content: The initial durable content; default: zeros.
        shared: Peers of this host can map it, so that a back-end can serve it.
    """

    def __cinit__(self):
        self.memory = -1

    def __init__(self, uint64_t length, str kind="words", bytes content=None, bint shared=False):
        cdef void *base
        if kind not in ("words", "lines", "sectors"):
            raise bad_choice("kind", kind, ("words", "lines", "sectors"))
        if self.c.base != NULL or length % (RNVM_PAGE if shared else SECTOR) or not length:
            raise InvalidArgument(f"cannot create a model of {length} bytes",
                                  hint="give a multiple of 512 (shared: "
                                       "of 4096), and create it once")
        self.r.sectors = kind == "sectors"
        self.r.grain = SECTOR if self.r.sectors else WORD if kind == "words" else RNVM_LINE
        self.r.m = &self.c
        self.r.drains = NO_FAILURE
        pthread_mutex_init(&self.r.lock, NULL)
        self.c.length = length
        if shared:
            self.memory = rfp_memfd_create()
            base = rfp_memfd_map_new(self.memory, length) if self.memory >= 0 else NULL
            if base == NULL or rfp_memfd_seal(self.memory, 1):
                raise FabricError(f"cannot create a memory file of {length} "
                                  f"bytes: {os.strerror(errno)}")
        else:
            base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if base == MAP_FAILED:
                raise MemoryError(f"cannot allocate memory for a model of {length} bytes")
        self.c.base = <char *> base
        self.c.state = &self.r
        self.r.view = <char *> malloc(length)
        self.r.begin = <char *> malloc(length)
        if self.r.view == NULL or self.r.begin == NULL:
            raise MemoryError(f"cannot allocate memory for a model of {length} bytes")
        memset(self.r.begin, 0, length)
        if content is not None:
            memcpy(self.r.begin, PyBytes_AS_STRING(content), min(length, <uint64_t> len(content)))
        memcpy(self.r.view, self.r.begin, length)
        memcpy(self.c.base, self.r.begin, length)
        self.c.ops = &model_operations

    def __dealloc__(self):
        self.release()
        free(self.r.view)
        free(self.r.begin)
        free(self.r.events)
        free(self.r.data)

    cdef void release(self) noexcept:
        if self.c.base != NULL:
            munmap(self.c.base, self.c.length)
            self.c.base = NULL
        if self.memory >= 0:
            close_fd(self.memory)
            self.memory = -1

    cpdef int fileno(self):
        return self.memory

    cpdef close(self):
        """Release the memory; the record stays."""
        self.check_unserved()
        self.release()
        Medium.close(self)

    @property
    def kind(self):
        """Return words, lines or sectors."""
        return "sectors" if self.r.sectors else "words" if self.r.grain == WORD else "lines"

    @property
    def events_so_far(self):
        """Return how many events there were: a crash can be after any number of them."""
        return self.r.count

    def mark(self, uint64_t number=0):
        """Add an event of the caller's own; return how many there were before."""
        pthread_mutex_lock(&self.r.lock)
        add(&self.r, MARK, 0, 0).data = number
        number = self.r.count - 1
        pthread_mutex_unlock(&self.r.lock)
        return number

    def fail_drain(self, uint64_t after=0):
        """Make a drain fail once this many have succeeded, like a sync of a broken disk."""
        self.r.drains = after

    def delay_drain(self, double seconds):
        """Make each drain take this long, as on a busy disk."""
        self.r.delay = <unsigned> (seconds * 1e6)

    def plant(self, str bug, uint64_t begin=0, uint64_t end=1 << 62):
        """Plant a bug for bytes sent on their way between two offsets.

        "skip-flush": never.  "skip-drain": a drain right after it does nothing.  "torn-words": 8
        bytes are stored in halves.
        """
        if bug == "torn-words":
            self.r.torn_words = True
            return
        if bug not in RULES or self.r.rule_count == RULES_MAX:
            raise bad_choice("bug", bug, [*RULES, "torn-words"])
        self.r.rules[self.r.rule_count][0] = RULES[bug]
        self.r.rules[self.r.rule_count][1] = begin
        self.r.rules[self.r.rule_count][2] = end
        self.r.rule_count += 1

    def kinds(self):
        """Return the events' kinds, as text: s(tore), f(lush), d(rain), m(ark)."""
        cdef uint64_t i
        return "".join("?sfdm"[self.r.events[i].kind] for i in range(self.r.count))

    def crash(self, uint64_t point, uint64_t seed):
        """Return the bytes that a crash after this many events leaves."""
        return Crashes(self).at_point(point, seed)


cdef class Crashes:
    """The crashes of a model, in the order of its events.

    Each costs only the events since the previous one.
    """

    def __cinit__(self, Model model not None):
        self.model = model
        self.durable = <char *> malloc(model.c.length)
        self.out = <char *> malloc(model.c.length)
        if self.durable == NULL or self.out == NULL:
            raise MemoryError("cannot allocate memory for the state after a crash")
        if model.c.length:                      # the model's constructor may have failed
            memcpy(self.durable, model.r.begin, model.c.length)

    def __dealloc__(self):
        free(self.durable)
        free(self.out)
        free(self.pending)

    def at_point(self, uint64_t point, uint64_t seed):
        """Return the bytes that a crash after this many events leaves.

        Points must rise from call to call.
        """
        if point < self.at or point > self.model.r.count:
            raise out_of_bounds("point", point, self.at, self.model.r.count)
        with nogil:
            while self.at < point:
                self.step()
            self.survive(rfp_random_mix(seed ^ rfp_random_mix(point)))
        return PyBytes_FromStringAndSize(self.out, self.model.c.length)

    cdef void apply(self, event *e, char *to) noexcept nogil:
        memcpy(to + e.offset, self.model.r.data + e.data, e.length)

    cdef void step(self) noexcept nogil:
        cdef event *e = &self.model.r.events[self.at]
        cdef event *each
        cdef uint64_t i, kept = 0, begin, end
        if e.kind == STORE:
            if self.waiting == self.room:
                self.room = 2 * self.room + 64
                self.pending = <uint64_t *> realloc(self.pending, self.room * sizeof(uint64_t))
            self.pending[self.waiting] = self.at
            self.waiting += 1
            e.flushed = False
        elif e.kind == FLUSH:
            begin = e.offset & ~<uint64_t> (RNVM_LINE - 1)
            end = e.offset + e.length
            for i in range(self.waiting):
                each = &self.model.r.events[self.pending[i]]
                if each.offset < end and each.offset + each.length > begin:
                    each.flushed = True
        elif e.kind == DRAIN:
            for i in range(self.waiting):
                each = &self.model.r.events[self.pending[i]]
                if each.flushed:
                    self.apply(each, self.durable)
                else:
                    self.pending[kept] = self.pending[i]
                    kept += 1
            self.waiting = kept
        self.at += 1

    cdef void survive(self, uint64_t seed) noexcept nogil:
        """Let each pending grain survive or not.

        The probability is drawn too: all, none and few are equally valuable.
        """
        cdef uint64_t i, at, end, piece = self.model.r.grain, place, chance
        cdef uint64_t likely = rfp_random_mix(seed) % 5 * 64          # of 256
        cdef event *e
        if piece == RNVM_LINE:
            piece = WORD
        if self.model.r.torn_words and not self.model.r.sectors:
            piece = WORD // 2
        memcpy(self.out, self.durable, self.model.c.length)
        for i in range(self.waiting):
            e = &self.model.r.events[self.pending[i]]
            at = e.offset
            while at < e.offset + e.length:
                end = min((at // piece + 1) * piece, e.offset + e.length)
                if self.model.r.grain == RNVM_LINE:
                    # One threshold for each line, which its stores cross in their order: a prefix
                    # survives.
                    place = rfp_random_mix(seed ^ rfp_random_mix(at // RNVM_LINE))
                    chance = 256
                    if likely == 256 or i < place % (self.waiting + 1) and likely:
                        chance = 0
                else:
                    chance = rfp_random_mix(seed ^ rfp_random_mix(self.pending[i] << 32 ^ at)) & 255
                if chance < likely:
                    memcpy(self.out + at, self.model.r.data + e.data + (at - e.offset), end - at)
                at = end

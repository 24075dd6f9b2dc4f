"""The limit of this machine: two threads, one cache line each way per request, one bucket probe.
No protocol, no checks.

The store cannot be faster than this, so experiments state its cost as a multiple of it.  The client
writes a request into a line of the ring; the server finds the key's record through a bucket of
eight tags and writes the response into another line.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from bench._generators cimport KEY_MAX, random_below, seed_random, write_key, xoshiro
from bench._histogram cimport Histogram, histogram, record
from bench._workload cimport UPDATE, Stream, draw, request, stream
from rfp.core.core cimport (
    rfp_hash, rfp_load32, rfp_load32_acquire, rfp_now, rfp_pause, rfp_prefetch, rfp_store32,
    rfp_store32_release,
)

from rfp.errors import DeadlineExceeded, out_of_bounds

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef enum:
    SLOTS = 256
    KEY = 16
    VALUE = 32
    WAYS = 7                   # tags of a bucket line
    SILENCE = 2000000000       # ns without a response, after which the client gives up
    POLLS = 4096               # polls in vain, before a thread offers its CPU to others
    GROUP = 16  # requests whose cache misses the server starts before it answers the first one

cdef struct line:              # both ways: 64 bytes
    uint32_t sequence
    uint32_t write
    char key[KEY]
    char value[VALUE]
    uint64_t unused

cdef struct bucket:            # 64 bytes
    uint32_t tags[8]           # 0: free; the last one is unused
    uint32_t places[8]

cdef struct entry:             # 64 bytes
    char key[KEY]
    char value[VALUE]
    uint64_t unused[2]

cdef struct ring:
    line *requests
    line *responses
    bucket *buckets
    entry *entries
    uint64_t mask
    uint64_t count
    uint32_t stop


cdef inline uint32_t tag_of(uint64_t h) noexcept nogil:
    return <uint32_t> (h >> 32) | 1


cdef entry *find(ring *r, const char *key, uint64_t h) noexcept nogil:
    cdef uint64_t at = h & r.mask
    cdef uint32_t tag = tag_of(h)
    cdef bucket *b
    cdef entry *e
    cdef int i
    while True:
        b = r.buckets + at
        for i in range(WAYS):
            if b.tags[i] == 0:
                return NULL
            if b.tags[i] == tag:
                e = r.entries + b.places[i]
                if memcmp(e.key, key, KEY) == 0:
                    return e
        at = (at + 1) & r.mask


cdef void insert(ring *r, const char *key, const char *value) noexcept nogil:
    cdef uint64_t h = rfp_hash(key, KEY, 0)
    cdef uint64_t at = h & r.mask
    cdef bucket *b
    cdef int i
    memcpy(r.entries[r.count].key, key, KEY)
    memcpy(r.entries[r.count].value, value, VALUE)
    while True:
        b = r.buckets + at
        for i in range(WAYS):
            if b.tags[i] == 0:
                b.tags[i], b.places[i] = tag_of(h), <uint32_t> r.count
                r.count += 1
                return
        at = (at + 1) & r.mask


cdef void serve(ring *r) noexcept nogil:
    cdef uint32_t next_sequence = 1, ready, i, idle = 0
    cdef uint64_t hashes[GROUP]
    cdef line *ask
    cdef line *answer
    cdef entry *e
    while True:
        ready = 0
        while ready < GROUP:
            ask = r.requests + (next_sequence + ready) % SLOTS
            if rfp_load32_acquire(&ask.sequence) != next_sequence + ready:
                break
            hashes[ready] = rfp_hash(ask.key, KEY, 0)
            rfp_prefetch(r.buckets + (hashes[ready] & r.mask))
            ready += 1
        if ready == 0:
            idle += 1
            if idle % POLLS == 0:
                if rfp_load32(&r.stop):
                    return
                sched_yield()          # the client may want this CPU
            rfp_pause()
            continue
        for i in range(ready):
            ask = r.requests + next_sequence % SLOTS
            answer = r.responses + next_sequence % SLOTS
            e = find(r, ask.key, hashes[i])
            if e == NULL:
                memset(answer.value, 0, VALUE)
            elif ask.write:
                memcpy(e.value, ask.value, VALUE)
            else:
                memcpy(answer.value, e.value, VALUE)
            rfp_store32_release(&answer.sequence, next_sequence)
            next_sequence += 1


cdef uint64_t ask_all(ring *r, stream *s, histogram *h, uint64_t operations, uint32_t window,
                      uint64_t until, bint *late) noexcept nogil:
    """The client: keeps `window` requests in flight.  Returns how many responses were the key's
    value, or a write's."""
    cdef uint64_t began[SLOTS]
    cdef request drawn[SLOTS]
    cdef uint32_t sent = 0, answered = 0, before, polls = 0
    cdef uint64_t now, heard = rfp_now(), right = 0
    cdef line *ask
    cdef line *answer
    cdef request *q
    for before in range(window):
        draw(s, &drawn[before])
    while answered < operations:
        before = sent
        now = rfp_now()
        if now >= until:
            operations = sent
        while sent < operations and sent - answered < window:
            q = &drawn[sent % window]
            sent += 1
            ask = r.requests + sent % SLOTS
            memcpy(ask.key, q.key, KEY)
            ask.write = q.kind == UPDATE
            if ask.write:
                memcpy(ask.value, q.key, KEY)
                memcpy(ask.value + KEY, q.key, KEY)
            began[sent % SLOTS] = now
            rfp_store32_release(&ask.sequence, sent)
        before = answered
        while answered < sent:
            answer = r.responses + (answered + 1) % SLOTS
            if rfp_load32_acquire(&answer.sequence) != answered + 1:
                break
            q = &drawn[answered % window]
            right += q.kind == UPDATE or memcmp(answer.value, q.key, KEY) == 0
            draw(s, q)
            answered += 1
        if answered != before:
            now = heard = rfp_now()
            while before != answered:
                before += 1
                record(h, now - began[before % SLOTS])
            polls = 0
        else:
            polls += 1
            if polls % POLLS == 0:
                if rfp_now() > heard + SILENCE:
                    late[0] = True
                    return right
                sched_yield()
            rfp_pause()
    return right


cdef void *aligned(size_t size) except NULL:
    cdef void *memory = NULL
    if posix_memalign(&memory, 64, size):
        raise MemoryError
    memset(memory, 0, size)
    return memory


cdef class RingBaseline:
    """A ring and a table of `records` records of 16 + 32 bytes, with the keys of an ordered
    workload padded to 12 digits.

    One thread calls serve() and another one ask(); stop() ends serve().

    >>> from bench._generators import key_name
    >>> RingBaseline(10).value(key_name(3, padding=12, hashed=False))
    b'user000000000003user000000000003'
    """
    cdef ring r

    def __cinit__(self, uint64_t records):
        cdef uint64_t buckets = 1
        while buckets * 4 < records:
            buckets *= 2
        self.r.mask = buckets - 1
        self.r.requests = <line *> aligned(SLOTS * sizeof(line))
        self.r.responses = <line *> aligned(SLOTS * sizeof(line))
        self.r.buckets = <bucket *> aligned(buckets * sizeof(bucket))
        self.r.entries = <entry *> aligned((records + 1) * sizeof(entry))

    def __init__(self, uint64_t records):
        cdef char key[KEY_MAX]
        cdef char value[VALUE]
        cdef uint64_t number
        with nogil:
            for number in range(records):
                write_key(key, number, 12, False)
                memcpy(value, key, KEY)
                memcpy(value + KEY, key, KEY)
                insert(&self.r, key, value)

    def __dealloc__(self):
        free(self.r.requests)
        free(self.r.responses)
        free(self.r.buckets)
        free(self.r.entries)

    def value(self, bytes key not None):
        """Return the value of a key of 16 bytes, or None."""
        cdef entry *e = NULL
        if len(key) == KEY:
            e = find(&self.r, key, rfp_hash(<const char *> key, KEY, 0))
        return None if e == NULL else e.value[:VALUE]

    def serve(self):
        """Serve requests on this thread, without the GIL, until stop()."""
        with nogil:
            serve(&self.r)

    def stop(self):
        """End serve()."""
        rfp_store32(&self.r.stop, 1)

    def ask(self, Stream requests not None, uint32_t operations=4000000000, *, uint32_t window=1,
            double seconds=10) -> tuple:
        """Send this many requests on this thread, or for this long; once only.

        Returns:
            The seconds it took, the latencies, and the number of correct responses.

        Raises:
            DeadlineExceeded: no response for two seconds.
        """
        cdef Histogram latencies = Histogram()
        cdef uint64_t began, ended, right
        cdef bint late = False
        if not 1 <= window < SLOTS:
            raise out_of_bounds("window", window, 1, SLOTS - 1)
        with nogil:
            began = rfp_now()
            right = ask_all(&self.r, &requests.c, &latencies.c, operations, window,
                            began + <uint64_t> (seconds * 1e9), &late)
            ended = rfp_now()
        if late:
            raise DeadlineExceeded(f"timed out: the baseline answered {latencies.count} "
                                   "requests, then none for two seconds")
        return (ended - began) / 1e9, latencies, right


def load_latency(uint64_t size, uint32_t loads=1 << 20) -> float:
    """Return the ns of a load that depends on the one before, at random places within `size`
    bytes."""
    cdef uint64_t lines = max(size // 64, 2), i, _i, j, at = 0, began, ended
    cdef uint64_t *memory = <uint64_t *> aligned(lines * 64)
    cdef xoshiro random
    with nogil:
        seed_random(&random, 1)
        # Sattolo: one cycle through all lines.
        for i in range(lines):
            memory[i * 8] = i
        i = lines - 1
        while i > 0:
            j = random_below(&random, i)
            memory[i * 8], memory[j * 8] = memory[j * 8], memory[i * 8]
            i -= 1
        for _i in range(min(lines, loads)):
            at = memory[at * 8]
        began = rfp_now()
        for _i in range(loads):
            at = memory[at * 8]
        ended = rfp_now()
    free(memory)
    if at >= lines:
        # `at` is used, so the compiler does not remove the loop
        raise AssertionError("the walk through memory failed")
    return (ended - began) / <double> loads

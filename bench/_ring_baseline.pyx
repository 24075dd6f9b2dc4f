"""The limit of this machine: two threads, one cache line each way per request, one bucket probe.
No protocol, no checks.

The store cannot be faster than this, so experiments state its cost as a multiple of it.  The client
writes a request into a line of the ring; the server finds the key's record through a bucket of
eight tags and writes the response into another line.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset
from posix.stdlib cimport posix_memalign

from bench._generators cimport KEY_ROOM_BYTES, random_below, seed_random, write_key, xoshiro
from bench._histogram cimport Histogram, histogram, record
from bench._workload cimport KIND_UPDATE, Stream, draw, request, stream
from rfp.core.core cimport (
    rfp_hash, rfp_load32, rfp_load32_acquire, rfp_now, rfp_pause, rfp_prefetch, rfp_store32,
    rfp_store32_release,
)
from rfp.core.limits cimport RFP_SLOTS_MAX
from rfp.core.system cimport sched_yield

from rfp.errors import DeadlineExceeded, out_of_bounds

cdef enum:
    KEY_BYTES = 16
    VALUE_BYTES = 32
    WAYS = 7                   # tags of a bucket line
    SILENCE = 2000000000       # ns without a response, after which the client gives up
    IDLE_POLLS = 4096               # polls in vain, before a thread offers its CPU to others
    # Requests whose cache misses the server starts before it answers the first one.
    PREFETCH_GROUP = 16

cdef struct line:              # both ways: 64 bytes
    uint32_t sequence
    uint32_t write
    char key[KEY_BYTES]
    char value[VALUE_BYTES]
    uint64_t unused

cdef struct bucket:            # 64 bytes
    uint32_t tags[8]           # 0: free; the last one is unused
    uint32_t places[8]

cdef struct entry:             # 64 bytes
    char key[KEY_BYTES]
    char value[VALUE_BYTES]
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
                if memcmp(e.key, key, KEY_BYTES) == 0:
                    return e
        at = (at + 1) & r.mask


cdef void insert(ring *r, const char *key, const char *value) noexcept nogil:
    cdef uint64_t h = rfp_hash(key, KEY_BYTES, 0)
    cdef uint64_t at = h & r.mask
    cdef bucket *b
    cdef int i
    memcpy(r.entries[r.count].key, key, KEY_BYTES)
    memcpy(r.entries[r.count].value, value, VALUE_BYTES)
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
    cdef uint64_t hashes[PREFETCH_GROUP]
    cdef line *ask
    cdef line *answer
    cdef entry *e
    while True:
        ready = 0
        while ready < PREFETCH_GROUP:
            ask = r.requests + (next_sequence + ready) % RFP_SLOTS_MAX
            if rfp_load32_acquire(&ask.sequence) != next_sequence + ready:
                break
            hashes[ready] = rfp_hash(ask.key, KEY_BYTES, 0)
            rfp_prefetch(r.buckets + (hashes[ready] & r.mask))
            ready += 1
        if ready == 0:
            idle += 1
            if idle % IDLE_POLLS == 0:
                if rfp_load32(&r.stop):
                    return
                sched_yield()          # the client may want this CPU
            rfp_pause()
            continue
        for i in range(ready):
            ask = r.requests + next_sequence % RFP_SLOTS_MAX
            answer = r.responses + next_sequence % RFP_SLOTS_MAX
            e = find(r, ask.key, hashes[i])
            if e == NULL:
                memset(answer.value, 0, VALUE_BYTES)
            elif ask.write:
                memcpy(e.value, ask.value, VALUE_BYTES)
            else:
                memcpy(answer.value, e.value, VALUE_BYTES)
            rfp_store32_release(&answer.sequence, next_sequence)
            next_sequence += 1


cdef uint64_t ask_all(ring *r, stream *s, histogram *h, uint64_t operations, uint32_t window,
                      uint64_t until, bint *late) noexcept nogil:
    """The client: keeps `window` requests in flight.  Returns how many responses were the key's
    value, or a write's."""
    cdef uint64_t began[RFP_SLOTS_MAX]
    cdef request drawn[RFP_SLOTS_MAX]
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
            ask = r.requests + sent % RFP_SLOTS_MAX
            memcpy(ask.key, q.key, KEY_BYTES)
            ask.write = q.kind == KIND_UPDATE
            if ask.write:
                memcpy(ask.value, q.key, KEY_BYTES)
                memcpy(ask.value + KEY_BYTES, q.key, KEY_BYTES)
            began[sent % RFP_SLOTS_MAX] = now
            rfp_store32_release(&ask.sequence, sent)
        before = answered
        while answered < sent:
            answer = r.responses + (answered + 1) % RFP_SLOTS_MAX
            if rfp_load32_acquire(&answer.sequence) != answered + 1:
                break
            q = &drawn[answered % window]
            right += q.kind == KIND_UPDATE or memcmp(answer.value, q.key, KEY_BYTES) == 0
            draw(s, q)
            answered += 1
        if answered != before:
            now = heard = rfp_now()
            while before != answered:
                before += 1
                record(h, now - began[before % RFP_SLOTS_MAX])
            polls = 0
        else:
            polls += 1
            if polls % IDLE_POLLS == 0:
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
        self.r.requests = <line *> aligned(RFP_SLOTS_MAX * sizeof(line))
        self.r.responses = <line *> aligned(RFP_SLOTS_MAX * sizeof(line))
        self.r.buckets = <bucket *> aligned(buckets * sizeof(bucket))
        self.r.entries = <entry *> aligned((records + 1) * sizeof(entry))

    def __init__(self, uint64_t records):
        cdef char key[KEY_ROOM_BYTES]
        cdef char value[VALUE_BYTES]
        cdef uint64_t number
        with nogil:
            for number in range(records):
                write_key(key, number, 12, False)
                memcpy(value, key, KEY_BYTES)
                memcpy(value + KEY_BYTES, key, KEY_BYTES)
                insert(&self.r, key, value)

    def __dealloc__(self):
        free(self.r.requests)
        free(self.r.responses)
        free(self.r.buckets)
        free(self.r.entries)

    def value(self, bytes key not None):
        """Return the value of a key of 16 bytes, or None."""
        cdef entry *e = NULL
        if len(key) == KEY_BYTES:
            e = find(&self.r, key, rfp_hash(<const char *> key, KEY_BYTES, 0))
        return None if e == NULL else e.value[:VALUE_BYTES]

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
        if not 1 <= window < RFP_SLOTS_MAX:
            raise out_of_bounds("window", window, 1, RFP_SLOTS_MAX - 1)
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

"""YCSB's core workload: chooses the operation, the record and the value of each request."""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from bench._generators cimport (
    LATEST, EXPONENTIAL, PADDING_MAX, next_number, random_bits, random_unit, seed_random,
    set_generator, set_zipf, write_key,
)
from rfp.core.core cimport (
    rfp_add64, rfp_exchange32, rfp_fence_full, rfp_load64_acquire, rfp_load8, rfp_store32_release,
    rfp_store64_release, rfp_store8,
)

import random

from bench import _generators
from rfp.errors import InvalidArgument

KINDS = ("READ", "UPDATE", "INSERT", "READ-MODIFY-WRITE", "SCAN")

cdef enum:
    POOL_STARTS = 1 << 16      # start positions of a random field in the pool
    RECORD_BYTES_MAX = 256 << 20  # bytes of a record


EXPECTED_MAX = 2**62           # inserts that zipfian leaves room for


cdef inline void draw_key(stream *s, request *r) noexcept nogil:
    r.key_length = <uint8_t>write_key(r.key, r.number, s.w.padding, s.w.hashed)


cdef inline int32_t draw_field(stream *s) noexcept nogil:
    return <int32_t>random_below(&s.random, s.w.fields) if s.w.fields > 1 else ALL_FIELDS


cdef inline int32_t draw_scan(stream *s) noexcept nogil:
    cdef const workload *w = s.w
    if w.scan_law == UNIFORM_LENGTH:
        return <int32_t>(w.shortest_scan
                         + random_below(&s.random, w.longest_scan - w.shortest_scan + 1))
    return <int32_t>(w.shortest_scan + zipf_rank(<zipf *>&w.scans, &s.random))


cdef void draw_now(stream *s, request *r) noexcept nogil:
    cdef double choice
    cdef const workload *w = s.w
    r.field = ALL_FIELDS
    if w.loading:
        r.kind = KIND_INSERT
    else:
        choice = random_unit(&s.random)
        if choice < w.read:
            r.kind = KIND_READ
            if not w.read_all:
                r.field = draw_field(s)
        elif choice < w.update or choice >= w.scan:
            r.kind = KIND_UPDATE if choice < w.update else KIND_READ_MODIFY_WRITE
            if not w.write_all:
                r.field = draw_field(s)
        elif choice < w.insert:
            r.kind = KIND_INSERT
        else:
            r.kind = KIND_SCAN
            r.field = draw_scan(s)
    if r.kind == KIND_INSERT:
        r.number = rfp_add64(&s.shared.next, 1)
    else:
        r.number = next_number(&s.numbers, rfp_load64_acquire(&s.shared.acknowledged) - 1)
    draw_key(s, r)


cdef void draw(stream *s, request *r) noexcept nogil:
    """Draws the next request, or takes it from the tape if there is one."""
    if s.tape == NULL:
        draw_now(s, r)
        return
    memcpy(r, s.tape + s.tape_next, sizeof(request))
    s.tape_next += 1
    if s.tape_next == s.tape_length:
        s.tape_next = 0


cdef void acknowledge(records *shared, uint64_t number) noexcept nogil:
    """Marks record `number` as existing.  Readers may request it once all older records exist
    too."""
    cdef uint64_t upto = rfp_load64_acquire(&shared.acknowledged)
    # So far ahead only if an older insert hangs: its flag would then alias another's.  The record
    # is simply never requested.
    if number - upto >= UNACKNOWLEDGED:
        return
    rfp_store8(shared.flags + number % UNACKNOWLEDGED, 1)
    while True:
        # Pairs with the fence after unlocking: either the holder sees our flag, or this thread sees
        # the lock free.
        rfp_fence_full()
        upto = rfp_load64_acquire(&shared.acknowledged)
        if not rfp_load8(shared.flags + upto % UNACKNOWLEDGED) or rfp_exchange32(&shared.lock, 1):
            return
        upto = rfp_load64_acquire(&shared.acknowledged)
        while rfp_load8(shared.flags + upto % UNACKNOWLEDGED):
            rfp_store8(shared.flags + upto % UNACKNOWLEDGED, 0)
            upto += 1
        rfp_store64_release(&shared.acknowledged, upto)
        rfp_store32_release(&shared.lock, 0)


cdef inline uint64_t field_length(stream *s) noexcept nogil:
    cdef const workload *w = s.w
    if w.law == CONSTANT_LENGTH:
        return w.longest
    if w.law == UNIFORM_LENGTH:
        return w.shortest + random_below(&s.random, w.longest - w.shortest + 1)
    return w.shortest + zipf_rank(<zipf *>&w.lengths, &s.random)


cdef inline uint64_t verifiable_word(xoshiro *r) noexcept nogil:
    """Returns eight random printable bytes."""
    return (random_bits(r) & 0x3F3F3F3F3F3F3F3Fu) + 0x2020202020202020u


cdef inline void start_verifiable(xoshiro *r, uint64_t number, int32_t field) noexcept nogil:
    seed_random(r, number * 0x100000001B3u + <uint64_t>field)


cdef void fill_verifiable(char *to, uint64_t number, int32_t field, uint64_t length) noexcept nogil:
    """Fills in bytes that follow from the record's number and the field's position."""
    cdef xoshiro r
    cdef uint64_t word, done = 0
    start_verifiable(&r, number, field)
    while done < length:
        word = verifiable_word(&r)
        memcpy(to + done, &word, min(length - done, 8))
        done += 8


cdef bint field_is_intact(const char *data, uint64_t number, int32_t field,
                          uint64_t length) noexcept nogil:
    cdef xoshiro r
    cdef uint64_t word, done = 0
    start_verifiable(&r, number, field)
    while done < length:
        word = verifiable_word(&r)
        if memcmp(data + done, &word, min(length - done, 8)):
            return False
        done += 8
    return True


cdef inline void fill_field(stream *s, uint64_t number, int32_t field, char *to,
                            uint64_t length) noexcept nogil:
    if s.w.verify:
        fill_verifiable(to, number, field, length)
    else:
        memcpy(to, s.w.pool + random_below(&s.random, POOL_STARTS), length)


cdef uint64_t build_record(stream *s, uint64_t number, char *room, const char **at) noexcept nogil:
    cdef const workload *w = s.w
    cdef uint64_t length, size = 0
    cdef uint32_t written
    cdef int32_t field
    at[0] = room
    if w.fields == 1:
        length = field_length(s)
        if w.verify:
            fill_verifiable(room, number, 0, length)
        else:
            at[0] = w.pool + random_below(&s.random, POOL_STARTS)
        return length
    for field in range(w.fields):
        length = field_length(s)
        written = <uint32_t>length
        memcpy(room + size, &written, 4)
        fill_field(s, number, field, room + size + 4, length)
        size += 4 + length
    return size


cdef int64_t next_field(const workload *w, const char *record, uint64_t length,
                        uint64_t place) noexcept nogil:
    """Returns the size of the field at `place` of a record of unknown origin; -1 if there is no
    field."""
    cdef uint32_t size
    if length - place < 4:
        return -1
    memcpy(&size, record + place, 4)
    return -1 if size > w.longest or size > length - place - 4 else <int64_t>size


cdef int64_t replace_field(stream *s, uint64_t number, int32_t field, const char *old,
                           uint64_t length, char *room) noexcept nogil:
    cdef uint64_t place = 0, done = 0
    cdef int64_t size
    cdef uint32_t new_size
    cdef int32_t i
    for i in range(s.w.fields):
        size = next_field(s.w, old, length, place)
        if size < 0:
            return -1
        if i == field:
            new_size = <uint32_t>field_length(s)
            memcpy(room + done, &new_size, 4)
            fill_field(s, number, i, room + done + 4, new_size)
            done += 4 + new_size
        else:
            memcpy(room + done, old + place, 4 + size)
            done += 4 + <uint64_t>size
        place += 4 + <uint64_t>size
    return <int64_t>done if place == length else -1


cdef bint record_is_intact(const workload *w, uint64_t number, int32_t field, const char *record,
                           uint64_t length) noexcept nogil:
    cdef uint64_t place = 0
    cdef int64_t size
    cdef int32_t i
    if w.fields == 1:
        return length == w.longest and field_is_intact(record, number, 0, length)
    for i in range(w.fields):
        size = next_field(w, record, length, place)
        if size != w.longest:
            return False
        if ((field == ALL_FIELDS or field == i)
                and not field_is_intact(record + place + 4, number, i, <uint64_t>size)):
            return False
        place += 4 + <uint64_t>size
    return place == length


def record_size(properties) -> int:
    """Return the bytes of the largest record as stored."""
    fields, length = properties["fieldcount"], properties["fieldlength"]
    return length if fields == 1 else fields * (4 + length)


def operation_shares(properties) -> tuple:
    """Return the shares of the kinds of requests, 1 together.

    Raises:
        InvalidArgument: the shares are invalid.
    """
    given = [properties[name + "proportion"]
             for name in ("read", "update", "insert", "readmodifywrite", "scan")]
    total = sum(given)
    if total <= 0:
        raise InvalidArgument("all proportions are 0",
                              hint="set readproportion, updateproportion ...")
    return tuple(each / total for each in given)


cdef class Workload:
    """One phase, load or run, of a core workload.

    Args:
        properties: a Properties.
        loading: insert the records instead of requesting them.
        known: records that exist before a run (default: recordcount), for a run after one that
            inserted.

    Raises:
        InvalidArgument: the properties contradict each other.
    """

    def __cinit__(self):
        self.shared = <records *>calloc(1, sizeof(records))
        if self.shared != NULL:
            self.shared.flags = <uint8_t *>calloc(1, UNACKNOWLEDGED)
        if self.shared == NULL or self.shared.flags == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.shared != NULL:
            free(self.shared.flags)
            free(self.shared)

    def __init__(self, properties, *, bint loading=False, known=None):
        p = self.properties = properties
        cdef workload *w = &self.c
        record_count = p["recordcount"]
        self.first = p["insertstart"]
        inserted = p["insertcount"]
        if inserted is None:
            inserted = max(record_count - p["insertstart"], 0)
        self.count = inserted
        if self.count == 0 or self.first + self.count > record_count:
            raise InvalidArgument(f"insertstart={self.first} and "
                                  f"insertcount={p['insertcount']} do not fit "
                                  f"recordcount={record_count}",
                                  hint="keep insertstart + insertcount within recordcount, the "
                                       "size of the whole database")
        if loading:
            known = self.first + self.count       # the records that exist after the load
        else:
            known = record_count if known is None else max(known, record_count)
            self.count += known - record_count
        self.operations = self.count if loading else p["operationcount"]

        reads, updates, inserts, both, scans = operation_shares(p)
        w.read = reads
        w.update = w.read + updates
        w.insert = w.update + inserts
        w.scan = w.insert + scans
        if both == 0:  # rounding must not create an operation with share 0
            w.scan = 2
            if scans == 0:
                w.insert = 2
                if inserts == 0:
                    w.update = 2
                    if updates == 0:
                        w.read = 2
        w.shortest_scan = min(p["minscanlength"], p["maxscanlength"])
        w.longest_scan = p["maxscanlength"]
        w.scan_law = {"uniform": UNIFORM_LENGTH,
                      "zipfian": ZIPFIAN_LENGTH}[p["scanlengthdistribution"]]
        set_zipf(&w.scans, w.longest_scan - w.shortest_scan + 1)

        w.loading = loading
        w.hashed = p["insertorder"] == "hashed"
        w.padding = min(p["zeropadding"], 1 << 20)
        if w.padding > PADDING_MAX:
            raise InvalidArgument(f"zeropadding={p['zeropadding']} makes keys too long",
                                  hint=f"set at most {PADDING_MAX}")
        self._lay_out_records(p)

        self.shared.next = self.first if loading else known
        self.shared.acknowledged = known

    def _lay_out_records(self, p):
        cdef workload *w = &self.c
        size = record_size(p)
        if size > RECORD_BYTES_MAX:
            raise InvalidArgument(f"records of {size} bytes exceed the limit of {RECORD_BYTES_MAX}",
                                  hint="reduce fieldcount or fieldlength")
        w.fields = p["fieldcount"]
        w.longest = p["fieldlength"]
        w.shortest = min(p["minfieldlength"], p["fieldlength"])
        w.law = {"constant": CONSTANT_LENGTH, "uniform": UNIFORM_LENGTH,
                 "zipfian": ZIPFIAN_LENGTH}[p["fieldlengthdistribution"]]
        set_zipf(&w.lengths, w.longest - w.shortest + 1)
        w.record_size = size
        w.read_all = p["readallfields"]
        w.write_all = p["writeallfields"] or w.fields == 1
        w.verify = p["dataintegrity"]
        if w.verify and w.law != CONSTANT_LENGTH:
            raise InvalidArgument("dataintegrity requires fields of one length",
                                  hint="set fieldlengthdistribution=constant")
        chooser = random.Random(p["rfp.seed"])
        text = bytes(32 + byte % 64 for byte in chooser.randbytes(POOL_STARTS))
        self.pool = text * (2 + size // POOL_STARTS)
        w.pool = self.pool

    @property
    def records(self) -> int:
        """Number of records that certainly exist: all below this number have been acknowledged."""
        return rfp_load64_acquire(&self.shared.acknowledged)

    @property
    def writes_fields(self) -> bool:
        """Whether an update changes one field of a record, so that it has to read the record
        first."""
        return not self.c.write_all

    @property
    def scans(self) -> bool:
        """Whether the workload scans ranges of keys (for a load: the run after it)."""
        return self.properties["scanproportion"] > 0

    @property
    def verifies(self) -> bool:
        """Whether reads are verified (dataintegrity)."""
        return self.c.verify


cdef class Stream:
    """The requests of one thread.

    Args:
        workload: the workload of this phase.
        thread: number of the thread; it selects the thread's random numbers.
    """

    def __cinit__(self, Workload workload not None, unsigned thread=0):
        p = workload.properties
        cdef uint64_t count = workload.count
        cdef uint64_t seed = (p["rfp.seed"] * 1000003 + 2 * thread) % 2**64
        self.workload = workload
        self.c.w = &workload.c
        self.c.shared = workload.shared
        seed_random(&self.c.random, seed)
        expected = 0
        if not workload.c.loading:
            expected = min(int(workload.operations * operation_shares(p)[KIND_INSERT] * 2),
                           EXPECTED_MAX)
        set_generator(&self.c.numbers, _generators.DISTRIBUTIONS[p["requestdistribution"]],
                      workload.first, count, expected, seed + 1, p["hotspotdatafraction"],
                      p["hotspotopnfraction"], p["exponential.percentile"], p["exponential.frac"],
                      workload.records, &workload.shared.cursor)

    def __dealloc__(self):
        free(self.c.tape)

    def predraw(self, Py_ssize_t n):
        """Draw n requests now and repeat them for ever, so that drawing costs nothing later.

        Raises:
            InvalidArgument: requests depend on inserts during the run.
        """
        cdef Py_ssize_t i
        if (self.c.w.loading or self.c.w.insert > self.c.w.update
                or self.c.numbers.kind in (LATEST, EXPONENTIAL)):
            raise InvalidArgument("cannot draw requests ahead that depend on inserts",
                                  hint="leave rfp.predraw at 0 for loads, inserts, latest and "
                                       "exponential")
        free(self.c.tape)
        self.c.tape = <request *>malloc(n * sizeof(request))
        if self.c.tape == NULL:
            raise MemoryError
        for i in range(n):
            draw_now(&self.c, self.c.tape + i)
        self.c.tape_length, self.c.tape_next = n, 0

    def draw(self) -> tuple:
        """Return the next request: kind (an index of KINDS), key, field (-1: all; of a scan: number
        of records), record number."""
        cdef request r
        draw(&self.c, &r)
        return r.kind, r.key[:r.key_length], r.field, r.number

    def record(self, uint64_t number) -> bytes:
        """Return a value for the whole record."""
        cdef const char *at
        cdef uint64_t length
        cdef char *room = <char *>malloc(self.c.w.record_size + 1)
        if room == NULL:
            raise MemoryError
        try:
            length = build_record(&self.c, number, room, &at)
            return at[:length]
        finally:
            free(room)

    def replace(self, bytes old not None, uint64_t number, int field) -> bytes | None:
        """Return a copy of a record with one new field; None if `old` is not a record of this
        workload."""
        cdef char *room = <char *>malloc(self.c.w.record_size + 1)
        cdef int64_t length
        if room == NULL:
            raise MemoryError
        try:
            length = replace_field(&self.c, number, field, old, len(old), room)
            return room[:length] if length >= 0 else None
        finally:
            free(room)

    def intact(self, bytes record not None, uint64_t number, int field=ALL_FIELDS) -> bool:
        """Return whether a record (or one field of it) contains the bytes that dataintegrity
        wrote."""
        return record_is_intact(self.c.w, number, field, record, len(record))

    def acknowledge(self, uint64_t number):
        """Report that the insert of this record has completed."""
        acknowledge(self.c.shared, number)

"""The driver's loop, without the GIL: draw requests, submit them, reap completions, record
latencies.

The driver reads the clock once before it submits the operations of a round and once after it has
reaped those of a round.  Latencies are the difference, so with a window above 1 they are at most a
round too long and never too short.  With a window of 1 they are exact.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from posix.time cimport nanosleep, timespec

from bench._tally cimport (
    METRIC_VERIFY, STATUS_OK, STATUS_UNEXPECTED_STATE, Tally, count, record, tally,
)
from bench._workload cimport (
    ALL_FIELDS, KIND_INSERT, KIND_READ, KIND_READ_MODIFY_WRITE, KIND_UPDATE, Stream, acknowledge,
    build_record, draw,
    record_is_intact, replace_field, request, stream,
)
from rfp.core.core cimport rfp_load32, rfp_now, rfp_pause, rfp_store32, rfp_store64
from rfp.core.system cimport sched_yield

from rfp.errors import ConnectionFailed, DeadlineExceeded, out_of_bounds

cdef enum:
    EMPTY_REAPS_MAX = 2000     # empty reaps before the thread offers its CPU to others
    NAP_NS_MAX = 1000000       # a stop is noticed after this time
    # ns: closer to a due time than this the driver spins, because a sleep may last that much longer
    CLOSE = 60000

cdef enum stage:               # of a slot
    ONLY = 0                   # the operation is the request
    MERGE = 1                  # an update of one field: the record is being read
    READING = 2                # the first half of a read-modify-write
    WRITING = 3                # and the second half

cdef struct slot:
    operation op
    request request
    int stage
    uint64_t intended          # when the request should have begun, ns
    uint64_t began             # when it began; 0 before
    uint64_t write_began       # read-modify-write: the update
    char *room                 # for one record

cdef struct driver:
    database *db
    stream *requests
    tally *measured
    slot *slots
    uint32_t *free_slots
    uint32_t *ready            # a queue: slots whose operation is to be submitted
    uint32_t window
    uint32_t free_count
    uint32_t ready_first
    uint32_t ready_count
    uint32_t in_flight
    uint64_t left              # requests to draw
    double pace                # ns per request, 0 if there is no target
    uint64_t offset            # ns
    uint64_t start             # when the first request is due
    uint64_t drawn
    uint64_t timeout           # ns
    const uint32_t *stop

cdef enum outcome:
    FINISHED = 0
    DATABASE_LOST = 1
    DRIVER_TIMED_OUT = 2


cdef inline void make_ready(driver *d, uint32_t which) noexcept nogil:
    d.ready[(d.ready_first + d.ready_count) % d.window] = which
    d.ready_count += 1


cdef inline void prepare(driver *d, uint32_t which, uint64_t intended) noexcept nogil:
    """Draws a request into a slot and prepares its first operation."""
    cdef slot *s = d.slots + which
    draw(d.requests, &s.request)
    s.intended = intended
    s.began = 0
    s.stage = ONLY
    s.op.key = s.request.key
    s.op.key_length = s.request.key_length
    s.op.opcode = DRIVER_GET
    if s.request.kind == KIND_READ_MODIFY_WRITE:
        s.stage = READING
    elif s.request.kind == KIND_UPDATE and s.request.field != ALL_FIELDS:
        s.stage = MERGE
    elif s.request.kind != KIND_READ:
        s.op.opcode = DRIVER_PUT
        s.op.value_length = build_record(d.requests, s.request.number, s.room, &s.op.value)


cdef inline bint change(driver *d, slot *s, finished *f) noexcept nogil:
    """Derives the record to write from the record just read.  Returns False if it is not a record
    of this workload."""
    cdef int64_t length
    s.op.opcode = DRIVER_PUT
    if s.request.field == ALL_FIELDS:
        s.op.value_length = build_record(d.requests, s.request.number, s.room, &s.op.value)
        return True
    length = replace_field(d.requests, s.request.number, s.request.field, f.value, f.value_length,
                           s.room)
    s.op.value, s.op.value_length = s.room, <uint64_t>length
    return length >= 0


cdef uint64_t verify(driver *d, slot *s, finished *f) noexcept nogil:
    """Checks a record that was read; returns the time that took, in ns."""
    cdef uint64_t took, before = rfp_now()
    cdef int32_t field = s.request.field if s.request.kind == KIND_READ else ALL_FIELDS
    cdef bint intact = record_is_intact(d.requests.w, s.request.number, field, f.value,
                                        f.value_length)
    took = rfp_now() - before
    count(d.measured, METRIC_VERIFY, STATUS_OK if intact else STATUS_UNEXPECTED_STATE, took)
    return took


cdef inline void measure(driver *d, int what, int how, uint64_t began, uint64_t intended,
                         uint64_t ended) noexcept nogil:
    count(d.measured, what, how, ended - began)
    if how == STATUS_OK and d.pace > 0:
        record(&d.measured.intended[what], ended - intended)


cdef void finish(driver *d, finished *f, uint64_t ended) noexcept nogil:
    """Records a reaped operation, and continues a request that has a second half."""
    cdef slot *s = d.slots + f.id
    cdef int how = f.status
    cdef uint64_t took
    d.in_flight -= 1
    if s.stage == READING:
        measure(d, KIND_READ, how, s.began, s.intended, ended)
    if d.requests.w.verify and how == STATUS_OK and s.op.opcode == DRIVER_GET and s.stage != MERGE:
        took = verify(d, s, f)
        if s.stage == READING:         # not part of the measurement
            s.began += took
            s.intended += took
    if s.stage == READING or s.stage == MERGE:
        if how == STATUS_OK:
            if change(d, s, f):
                s.stage = WRITING if s.stage == READING else ONLY
                make_ready(d, <uint32_t>f.id)
                return
            how = STATUS_UNEXPECTED_STATE
    elif s.stage == WRITING:
        measure(d, KIND_UPDATE, how, s.write_began, s.intended, ended)
    measure(d, s.request.kind, how, s.began, s.intended, ended)
    if s.request.kind == KIND_INSERT and not d.requests.w.loading:
        # Also after a failure: readers may then find no record, but they do not wait for it for
        # ever.
        acknowledge(d.requests.shared, s.request.number)
    rfp_store64(&d.measured.operations, d.measured.operations + 1)
    d.free_slots[d.free_count] = <uint32_t>f.id
    d.free_count += 1


cdef inline uint64_t due(driver *d) noexcept nogil:
    """Returns the time at which the next request should begin."""
    return d.start + <uint64_t>(<double>d.drawn * d.pace)


cdef void rest(driver *d, uint64_t until, uint64_t at) noexcept nogil:
    """Sleeps through most of the time until the next request is due; nothing is in flight."""
    cdef timespec nap
    if until > at + CLOSE:
        nap.tv_sec = 0
        nap.tv_nsec = <long>min(until - at - CLOSE, NAP_NS_MAX)
        nanosleep(&nap, NULL)
    else:
        rfp_pause()


cdef int drive(driver *d) noexcept nogil:
    cdef finished done[REAPED_AT_ONCE]
    cdef uint64_t at = rfp_now(), last_answer = at
    cdef uint32_t which, empty = 0
    cdef int n, i, answer
    cdef slot *s
    d.start = at + d.offset
    while True:
        if rfp_load32(d.stop):
            d.left = 0
        while d.free_count and d.left:
            if d.pace > 0 and due(d) > at:
                break
            d.free_count -= 1
            which = d.free_slots[d.free_count]
            prepare(d, which, due(d) if d.pace > 0 else 0)
            make_ready(d, which)
            d.left -= 1
            d.drawn += 1

        if d.ready_count:
            at = rfp_now()
            if d.in_flight == 0:
                last_answer = at
            while d.ready_count:
                which = d.ready[d.ready_first]
                s = d.slots + which
                if s.began == 0:
                    s.began = at
                elif s.stage == WRITING:
                    s.write_began = at
                answer = d.db.submit(d.db.self, &s.op)
                if answer == WINDOW_FULL:
                    break
                if answer < 0:
                    return DATABASE_LOST
                d.ready_first = (d.ready_first + 1) % d.window
                d.ready_count -= 1
                d.in_flight += 1

        n = d.db.reap(d.db.self, done, REAPED_AT_ONCE) if d.in_flight else 0
        if n > 0:
            at = last_answer = rfp_now()
            empty = 0
            for i in range(n):
                finish(d, done + i, at)
        elif n < 0:
            return DATABASE_LOST
        elif d.in_flight:
            empty += 1
            if d.pace > 0 or empty % 256 == 0:
                at = rfp_now()
                if at - last_answer > d.timeout:
                    return DRIVER_TIMED_OUT
            if d.ready_count == 0 and not (d.free_count and d.left):
                if d.db.wait != NULL:
                    d.db.wait(d.db.self, NAP_NS_MAX)
                elif empty > EMPTY_REAPS_MAX:
                    sched_yield()
                else:
                    rfp_pause()
        elif d.left:
            if d.pace > 0:
                rest(d, due(d), at)
            at = rfp_now()
        elif d.ready_count == 0:
            return FINISHED


cdef class Connection:
    """One thread's connection to a database; subclasses fill the struct of function pointers.

    After close() nothing reads the keys and values of operations in flight.
    """

    cpdef str failure(self):
        """Return the reason why the database returned DRIVER_LOST."""
        return "the database no longer runs"

    cpdef close(self):
        """End the connection; a second call does nothing."""


cdef class StopFlag:
    """Makes the threads of a run end early."""
    cdef uint32_t word

    def set(self):
        """Make the threads draw no more requests, and end when those in flight have completed."""
        rfp_store32(&self.word, 1)

    def is_set(self) -> bool:
        return rfp_load32(&self.word) != 0


def run(Connection connection not None, Stream requests not None, Tally measured not None,
        StopFlag stop not None, *, uint64_t operations, uint32_t window=1, double target=0,
        double offset=0, double timeout=10):
    """Drive a connection with `operations` requests (0: until `stop`) on this thread, without the
    GIL.

    Args:
        window: operations in flight.
        target: requests per second, 0 for the maximum.
        offset: seconds from now until the first request is due.
        timeout: seconds without any completion, after which the connection is closed.

    Raises:
        InvalidArgument: the connection does not accept such a window.
        ConnectionFailed: the database is lost.
        DeadlineExceeded: nothing completed for `timeout` seconds.
    """
    cdef driver d
    cdef int how = FINISHED
    cdef uint32_t i
    if not 1 <= window <= connection.window:
        raise out_of_bounds("rfp.window", window, 1, connection.window)
    d.db, d.requests, d.measured, d.stop = &connection.c, &requests.c, &measured.c, &stop.word
    d.window = d.free_count = window
    d.ready_first = d.ready_count = d.in_flight = 0
    d.left = operations if operations else <uint64_t>-1
    d.drawn = 0
    d.pace = 1e9 / target if target > 0 else 0
    d.offset = <uint64_t>(offset * 1e9)
    d.timeout = <uint64_t>(timeout * 1e9)
    size = requests.c.w.record_size + 8 & ~<uint64_t>7
    cdef uint64_t room = size
    cdef char *rooms = <char *>malloc(window * room)
    d.slots = <slot *>calloc(window, sizeof(slot))
    d.free_slots = <uint32_t *>malloc(2 * window * sizeof(uint32_t))
    try:
        if rooms == NULL or d.slots == NULL or d.free_slots == NULL:
            raise MemoryError
        d.ready = d.free_slots + window
        for i in range(window):
            d.slots[i].op.id = d.free_slots[i] = i
            d.slots[i].room = rooms + i * room
        with nogil:
            how = drive(&d)
        if how == DATABASE_LOST:
            raise ConnectionFailed(connection.failure())
        if how == DRIVER_TIMED_OUT:
            raise DeadlineExceeded(f"timed out waiting {timeout:g} s for a response, with "
                                   f"{d.in_flight} operations in flight",
                                   hint="check that the server runs, or set a larger rfp.timeout=")
    finally:
        if how != FINISHED:
            # first: operations in flight may still read the keys and values below
            connection.close()
        free(d.slots)
        free(d.free_slots)
        free(rooms)

"""The partition as a service: parses each request and dispatches it by opcode."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from rfp.core.core cimport rfp_copy_out, rfp_hash
from rfp.fabric.fabric cimport Region
from rfp.protocol.server.service cimport Service, request, response, service_session
from rfp.protocol.wire cimport RFP_KIND_INLINE, RFP_KIND_REFERENCE, rfp_reference
from rfp.store.layout cimport KV_LINE, KV_MAX_REGION, kv_record, kv_value_offset
from rfp.store.messages cimport (
    KV_BAD_REQUEST, KV_CLEAR, KV_COUNTERS, KV_C_BYTES_TOTAL, KV_C_BYTES_USED, KV_C_INDEX_BYTES,
    KV_C_RECORDS, KV_C_REFUSED, KV_DEFERRED, KV_DELETE, KV_DELETE_MANY, KV_EXISTS, KV_EXISTS_MANY,
    KV_GET, KV_GET_MANY, KV_GET_RANGE, KV_GET_RANGES, KV_IF_ABSENT, KV_IF_VERSION, KV_INCR,
    KV_KIND_VIEW, KV_MAX_KEY, KV_MAX_VALUE, KV_MEMORY_VIEWS, KV_NAME_PLACE, KV_NOT_FOUND, KV_OK,
    KV_PIECE_CRC, KV_PLACED, KV_PUT, KV_PUT_ABORT, KV_PUT_BEGIN, KV_PUT_MANY, KV_PUT_PIECE,
    KV_QUOTA, KV_REFER, KV_RELEASE, KV_SCAN, KV_STATS, KV_TOO_LARGE, KV_TOUCH, KV_UNSUPPORTED,
    KV_USES_MAX, KV_VERSION_MISMATCH, KV_VIEW, KV_VIEW_MIN, kv_number, kv_piece, kv_put, kv_range,
    kv_use, kv_viewed,
)
from rfp.store.server.batch_ops cimport (
    batch_delete, batch_exists, batch_get, batch_get_ranges, batch_put,
)
from rfp.store.server.check cimport partition_check
from rfp.store.server.expiry cimport expiry_tick
from rfp.store.server.index cimport index_prefetch, index_prefetch_records
from rfp.store.server.key_ops cimport (
    clip_range, partition_delete, partition_get, partition_incr, partition_open, partition_place,
    partition_put, partition_refer, partition_touch,
)
from rfp.store.server.pins cimport (
    pin_grant, pin_release, pins_tick, session_resources_close, session_resources_open,
)
from rfp.store.server.records cimport (
    EVICT_BUCKET, EVICT_CLOCK, EVICT_NOTHING, account, list_unlink, partition, pin,
    session_resources, view_holder,
)
from rfp.store.server.scan cimport scan_delete, scan_keys
from rfp.store.server.uploads cimport (
    upload_abort, upload_begin, upload_piece, uploads_close, uploads_tick,
)
from rfp.store.server.views cimport (
    holders_end, holders_ended, holders_open, view_grant, views_tick,
)
from rfp.store.view_table cimport kv_view_table_size, kv_view_words

from rfp.core.choices import EVICTIONS
from rfp.errors import InvalidArgument, bad_choice, out_of_bounds
from rfp.store.counters import COUNTERS

assert len(COUNTERS) == KV_COUNTERS, "the names of the counters must match messages.h"

cdef enum:
    REGION_MIN = 64 << 10
    # A response that copies as many bytes lets the worker serve the other clients next.
    YIELD_BYTES = 64 << 10
    HASHED = 1                 # value of scratch[1] if scratch[0] is the key's hash

VIEW_TABLE_NUMBER = KV_MEMORY_VIEWS
VIEW_HOLDER_BYTES = sizeof(view_holder)


def view_table_bytes(uint32_t partitions):
    """Return the length of a view table."""
    return kv_view_table_size(partitions)


POLICIES = dict(zip(EVICTIONS, (EVICT_CLOCK, EVICT_BUCKET, EVICT_NOTHING)))


# Parsing


cdef uint8_t single_key(const request *r, const char **key, uint32_t *key_length) noexcept nogil:
    """Finds the key of a request that has one; returns KV_UNSUPPORTED for other opcodes."""
    cdef uint32_t fixed = 0
    cdef uint64_t length = r.length
    cdef kv_put put
    if r.opcode == KV_INCR or r.opcode == KV_TOUCH:
        fixed = sizeof(kv_number)
    elif r.opcode == KV_PUT or r.opcode == KV_PUT_BEGIN:
        fixed = sizeof(kv_put)
    elif r.opcode == KV_GET_RANGE:
        fixed = sizeof(kv_range)
    elif r.opcode != KV_GET and r.opcode != KV_EXISTS and r.opcode != KV_DELETE \
            and r.opcode != KV_VIEW:
        return KV_UNSUPPORTED
    if length <= fixed:
        return KV_BAD_REQUEST
    length -= fixed
    if fixed == sizeof(kv_put):
        memcpy(&put, r.payload, sizeof(kv_put))
        if not put.key_length or length != put.key_length + (
                <uint64_t> put.value_length if r.opcode == KV_PUT else 0):
            return KV_BAD_REQUEST
        length = put.key_length
    if length > KV_MAX_KEY:
        return KV_TOO_LARGE
    key[0] = r.payload + fixed
    key_length[0] = <uint32_t> length
    return KV_OK


cdef uint8_t check_flags(const request *r) noexcept nogil:
    """Refuses unknown flags: such a flag may mean a condition, and a request must not run without
    its condition."""
    cdef uint32_t known = 0
    if r.opcode == KV_PUT or r.opcode == KV_PUT_BEGIN:
        known = KV_IF_ABSENT | KV_IF_VERSION
        if (r.flags & known) == known:
            return KV_BAD_REQUEST
    elif r.opcode == KV_PUT_PIECE:
        known = KV_PIECE_CRC
    elif r.opcode == KV_GET or r.opcode == KV_GET_MANY:
        known = KV_NAME_PLACE
    return KV_UNSUPPORTED if r.flags & ~known else <uint8_t> KV_OK


# Responses


cdef void get(partition *p, const request *r, response *out, uint64_t hash, const char *key,
              uint32_t key_length) noexcept nogil:
    cdef kv_record *record = partition_get(p, hash, key, key_length)
    if record == NULL:
        out.status = KV_NOT_FOUND
    elif r.opcode == KV_VIEW and record.value_length >= KV_VIEW_MIN:
        view(p, r, out, record)
    else:
        deliver(p, r, out, hash, record, key_length)


cdef void view(partition *p, const request *r, response *out, kv_record *record) noexcept nogil:
    cdef uint64_t version = record.version
    cdef kv_viewed granted
    if out.capacity < sizeof(kv_viewed):
        out.status = KV_TOO_LARGE
        return
    out.status = view_grant(p, r.session.peer, record, &granted)
    if out.status == KV_OK:
        rfp_copy_out(out.payload, &granted, sizeof(kv_viewed))
        out.length = sizeof(kv_viewed)
        out.kind = KV_KIND_VIEW
        out.result = version
        out.yield_after = True     # it may have been moved


cdef void deliver(partition *p, const request *r, response *out, uint64_t hash, kv_record *record,
                  uint32_t key_length) noexcept nogil:
    cdef rfp_reference reference
    cdef kv_range part
    cdef uint64_t value
    cdef uint32_t added
    cdef pin *held
    part.offset = 0
    part.length = record.value_length
    if r.opcode == KV_GET_RANGE:
        memcpy(&part, r.payload, sizeof(kv_range))
        clip_range(&part, record.value_length)
    value = kv_value_offset(key_length) + part.offset
    if part.length <= out.capacity:
        rfp_copy_out(out.payload, <char *> record + value, part.length)
        out.length = <uint32_t> part.length
        out.yield_after = part.length >= YIELD_BYTES
        if r.flags & KV_NAME_PLACE:
            added = partition_place(p, hash, record, out.payload, out.length, out.capacity)
            out.length += added
            out.status = KV_PLACED if added else KV_OK
    elif out.capacity < sizeof(rfp_reference):
        out.status = KV_TOO_LARGE
        return
    else:
        held = pin_grant(p, <session_resources *> r.session.state, record)
        if held == NULL:
            out.status = KV_QUOTA
            return
        reference.offset = held.record + value
        reference.length = part.length
        reference.pin = held.id
        reference.lease = p.lease
        rfp_copy_out(out.payload, &reference, sizeof(rfp_reference))
        out.length = sizeof(rfp_reference)
        out.kind = RFP_KIND_REFERENCE
    out.result = record.version


cdef void incr(partition *p, const request *r, response *out, uint64_t hash, const char *key,
               uint32_t key_length) noexcept nogil:
    cdef kv_number number
    cdef int64_t total = 0
    if out.capacity < sizeof(kv_number):
        out.status = KV_BAD_REQUEST
        return
    memcpy(&number, r.payload, sizeof(kv_number))
    out.status = partition_incr(p, hash, key, key_length, <int64_t> number.number, &total,
                                &out.result)
    if out.status == KV_OK:
        number.number = <uint64_t> total
        rfp_copy_out(out.payload, &number, sizeof(kv_number))
        out.length = sizeof(kv_number)


cdef void dispatch_single_key(partition *p, request *r, response *out, const char *key,
                              uint32_t key_length) noexcept nogil:
    cdef uint64_t hash = (r.scratch[0] if r.scratch[1] == HASHED
                          else rfp_hash(key, key_length, p.seed))
    cdef kv_number number
    cdef kv_record *record
    cdef kv_put put
    if r.opcode == KV_GET or r.opcode == KV_GET_RANGE or r.opcode == KV_VIEW:
        get(p, r, out, hash, key, key_length)
    elif r.opcode == KV_PUT:
        memcpy(&put, r.payload, sizeof(kv_put))
        out.status = partition_put(p, hash, key, key_length, key + key_length, put.value_length,
                                   put.ttl, r.flags, put.version, &out.result)
        out.yield_after = put.value_length >= YIELD_BYTES
    elif r.opcode == KV_DELETE:
        out.status = partition_delete(p, hash, key, key_length, &out.result)
    elif r.opcode == KV_EXISTS:
        record = partition_get(p, hash, key, key_length)
        if record == NULL:
            out.status = KV_NOT_FOUND
        else:
            out.result = record.version
    elif r.opcode == KV_INCR:
        incr(p, r, out, hash, key, key_length)
    elif r.opcode == KV_TOUCH:
        memcpy(&number, r.payload, sizeof(kv_number))
        out.status = partition_touch(p, hash, key, key_length, number.number, &out.result)
    else:
        memcpy(&put, r.payload, sizeof(kv_put))
        out.status = upload_begin(p, <session_resources *> r.session.state, hash, &put, key,
                                  r.flags, &out.result)


cdef void count(partition *p, uint64_t *counters) noexcept nogil:
    """Copies all counters, including those that other structures count already."""
    memcpy(counters, p.counters, sizeof(p.counters))
    counters[KV_C_RECORDS] = p.index.records
    counters[KV_C_BYTES_TOTAL] = p.length
    counters[KV_C_BYTES_USED] = p.length - (p.memory.end - p.memory.start) + p.memory.used
    counters[KV_C_INDEX_BYTES] = KV_LINE * (p.index.room + p.index.lines)


cdef void dispatch_other(partition *p, request *r, response *out) noexcept nogil:
    cdef uint64_t[KV_COUNTERS] counters
    cdef kv_number number
    cdef kv_piece piece
    cdef kv_use use
    cdef uint32_t i
    if r.opcode == KV_GET_MANY:
        batch_get(p, r, out)
    elif r.opcode == KV_GET_RANGES:
        batch_get_ranges(p, r, out)
    elif r.opcode == KV_EXISTS_MANY:
        batch_exists(p, r, out)
    elif r.opcode == KV_PUT_MANY:
        batch_put(p, r, out)
    elif r.opcode == KV_DELETE_MANY:
        batch_delete(p, r, out)
    elif r.opcode == KV_SCAN:
        scan_keys(p, r, out)
    elif r.opcode == KV_CLEAR:
        scan_delete(p, r, out)
    elif r.opcode == KV_PUT_PIECE:
        if r.length != sizeof(kv_piece):
            out.status = KV_BAD_REQUEST
            return
        memcpy(&piece, r.payload, sizeof(kv_piece))
        out.status = upload_piece(p, r.session, &piece, r.flags, &out.result)
        out.yield_after = True
    elif r.opcode == KV_PUT_ABORT:
        if r.length != sizeof(kv_number):
            out.status = KV_BAD_REQUEST
            return
        memcpy(&number, r.payload, sizeof(kv_number))
        out.status = upload_abort(p, <session_resources *> r.session.state, number.number)
    elif r.opcode == KV_RELEASE:
        out.status = KV_BAD_REQUEST if r.length else KV_OK
    elif r.opcode == KV_REFER:
        if not 0 < r.count <= KV_USES_MAX or r.length != r.count * sizeof(kv_use):
            out.status = KV_BAD_REQUEST
            return
        for i in range(r.count):
            memcpy(&use, r.payload + i * sizeof(kv_use), sizeof(kv_use))
            partition_refer(p, use.hash, use.slot)
    elif r.opcode == KV_STATS:
        if r.length:
            out.status = KV_BAD_REQUEST
            return
        count(p, counters)
        out.length = min(<uint32_t> KV_COUNTERS, out.capacity // 8) * 8
        rfp_copy_out(out.payload, counters, out.length)
    else:
        out.status = KV_UNSUPPORTED


# The service


cdef void opened(void *context, service_session *s) noexcept nogil:
    s.state = session_resources_open(<partition *> context, s.peer)


cdef void closed(void *context, service_session *s) noexcept nogil:
    if s.state != NULL:
        uploads_close(<partition *> context, <session_resources *> s.state)
        session_resources_close(<partition *> context, <session_resources *> s.state)
        s.state = NULL


cdef void prepare(void *context, request *r, int stage) noexcept nogil:
    cdef partition *p = <partition *> context
    cdef const char *key
    cdef uint32_t key_length
    if stage == 0:
        r.scratch[1] = 0
        if single_key(r, &key, &key_length) == KV_OK:
            r.scratch[0] = rfp_hash(key, key_length, p.seed)
            r.scratch[1] = HASHED
            index_prefetch(&p.index, r.scratch[0])
    elif r.scratch[1] == HASHED:
        index_prefetch_records(&p.index, r.scratch[0])


cdef void execute(void *context, request *r, response *out) noexcept nogil:
    cdef partition *p = <partition *> context
    cdef const char *key
    cdef uint32_t key_length
    cdef uint8_t status
    out.status = KV_OK
    out.kind = RFP_KIND_INLINE
    out.length = 0
    out.yield_after = False
    out.result = 0
    if r.release:
        pin_release(p, <session_resources *> r.session.state, r.release)
    if r.flags:
        out.status = check_flags(r)
    if out.status == KV_OK:
        status = single_key(r, &key, &key_length)
        if status == KV_OK:
            dispatch_single_key(p, r, out, key, key_length)
        elif status == KV_UNSUPPORTED:
            dispatch_other(p, r, out)
        else:
            out.status = status
    if out.status > KV_VERSION_MISMATCH and out.status != KV_DEFERRED and \
            out.status != KV_PLACED:
        p.counters[KV_C_REFUSED] += 1


cdef bint tick(void *context, uint64_t now) noexcept nogil:
    cdef partition *p = <partition *> context
    cdef bint more
    if now > p.now:
        p.now = now
        p.now_ms = now // 1000000
    pins_tick(p)
    uploads_tick(p)
    more = views_tick(p)
    return expiry_tick(p) or more


cdef class Holder:
    """Owns a view_holder; it exists at least until the worker does not use that any more."""
    cdef view_holder *h
    cdef Region table

    def __dealloc__(self):
        free(self.h)


cdef class Partition(Service):
    """A key-value store in one region, as a service that one worker runs.

    Args:
        region: memory that peers may read, at least 64 KiB.
        seed: seed of the hash of keys.
        eviction: the records to evict when memory is used up: "clock" (not used lately), "bucket"
            (the least recently used of a bucket of 8, as in section 4.2 of the RFP paper), "none".
        first_version: versions count up from here, so it must be beyond all versions assigned
            before a restart.
        lease_ns: how long a value that was too large for a response keeps its place for the client,
            in ns.
        session_quota: bytes that one session may have pinned and uploading, and that all sessions
            of one client may be uploading.
        max_value: bytes of the longest value.
        view_quota: bytes that the views of one process may keep, at most a quarter of the arena;
            0: an eighth.

    Raises:
        InvalidArgument: an argument is outside its range.
        MemoryError: no memory for the partition's state.
    """

    def __cinit__(self, Region region not None, *, uint64_t seed, str eviction="clock",
                  uint64_t first_version, uint64_t lease_ns, uint64_t session_quota,
                  uint64_t max_value, uint64_t view_quota=0):
        cdef uint64_t length = region.c.length // KV_LINE * KV_LINE
        if eviction not in EVICTIONS:
            raise bad_choice("eviction", eviction, EVICTIONS)
        if region.c.base == NULL or not REGION_MIN <= length <= KV_MAX_REGION:
            raise out_of_bounds("region length", length, REGION_MIN, KV_MAX_REGION)
        if max_value > KV_MAX_VALUE:
            raise out_of_bounds("max_value", max_value, 0, KV_MAX_VALUE)
        if not 0 < lease_ns < 1 << 62:
            raise InvalidArgument(f"lease_ns must be between 1 and 2**62 - 1, got {lease_ns}")
        if not 0 < first_version < 1 << 63:
            raise InvalidArgument("first_version must be between 1 and "
                                  f"2**63 - 1, got {first_version}")
        self.p = <partition *> calloc(1, sizeof(partition))
        if self.p == NULL:
            raise MemoryError
        self.region = region
        self.holders = {}
        partition_open(self.p, region.c.base, length, seed, POLICIES[eviction], first_version,
                       lease_ns, session_quota, max_value)
        if view_quota:
            self.p.process_view_quota = min(view_quota, self.p.view_quota)
        self.c.context = self.p
        self.c.opened = opened
        self.c.closed = closed
        self.c.prepare = prepare
        self.c.execute = execute
        self.c.tick = tick

    def __dealloc__(self):
        cdef session_resources *h
        cdef account *a
        if self.p != NULL:
            while self.p.sessions.first != NULL:
                h = <session_resources *> self.p.sessions.first
                list_unlink(&self.p.sessions, &h.links)
                free(h)
            while self.p.accounts != NULL:
                a = self.p.accounts
                self.p.accounts = a.next
                free(a)
            free(self.p)

    def open_views(self, uint64_t peer, Region table not None, uint32_t index):
        """Let a client process hold views.

        Args:
            peer: number of the process, as in its sessions.
            table: its view table, which it may write at any time.
            index: of this partition in the table.

        Raises:
            InvalidArgument: the table is too short, or the process has one already.
            MemoryError: out of memory.
        """
        cdef Holder holder
        if not peer or peer in self.holders or table.c.base == NULL \
                or table.c.length < kv_view_table_size(index + 1):
            raise InvalidArgument(f"cannot hold views of client {peer} in a table of "
                                  f"{table.c.length} bytes")
        holder = Holder.__new__(Holder)
        holder.table = table
        holder.h = holders_open(self.p, peer, kv_view_words(table.c.base, index))
        if holder.h == NULL:
            raise MemoryError
        self.holders[peer] = holder

    def end_views(self, uint64_t peer):
        """Begin to end the views of a client process; views_ended() returns True at the end."""
        holders_end(self.p, (<Holder> self.holders[peer]).h)

    def views_ended(self, uint64_t peer):
        """Return whether no view of an ended process keeps memory any more; forget it then."""
        if peer in self.holders and not holders_ended((<Holder> self.holders[peer]).h):
            return False
        self.holders.pop(peer, None)
        return True

    def stats(self):
        """Return the partition's counters by name: the same as the response to KV_STATS."""
        cdef uint64_t[KV_COUNTERS] counters
        count(self.p, counters)
        return {name: counters[i] for i, name in enumerate(COUNTERS)}

    def check(self):
        """Verify every invariant of arena, index, pins and uploads.  No worker may run meanwhile.

        Raises:
            RuntimeError: names the first invariant that does not hold.

        Cost:
            Reads all records.
        """
        cdef const char *problem
        with nogil:
            problem = partition_check(self.p)
        if problem != NULL:
            raise RuntimeError(problem.decode())

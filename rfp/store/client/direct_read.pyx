"""Direct reads (the contract is in direct_read.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from rfp.core.core cimport (
    rfp_copy_in, rfp_crc32c, rfp_fence_acquire, rfp_hash, rfp_load32, rfp_load64,
    rfp_load64_acquire, rfp_now, rfp_prefetch,
)
from rfp.core.limits cimport RFP_LINE
from rfp.core.owner_word cimport RFP_OWNER_WORD, rfp_owner_alive
from rfp.fabric.fabric cimport RemoteRegion, queue_pair
from rfp.protocol.client.remote_arena cimport RemoteArena
from rfp.store.client.recency cimport recency, recency_note
from rfp.store.client.requests cimport kv_worker
from rfp.store.layout cimport (
    KV_ARENA_START, KV_COUNTS_REARRANGEMENTS, KV_EVICTS, KV_EXPIRY_SHIFT, KV_LAYOUT_VERSION,
    KV_LINE, KV_MAX_LINES, KV_MAX_SEALED, KV_PARTITION_MAGIC, KV_REARRANGEMENTS, KV_SLOTS,
    KV_STATE_KEY, kv_bucket, kv_mask, kv_overflow, kv_partition_header, kv_record, kv_record_size,
    kv_key_crc, kv_same, kv_seal_crc, kv_slot_length, kv_slot_link, kv_slot_offset, kv_slot_tag,
    kv_tag, kv_value_crc, kv_value_offset,
)

cdef enum:
    # Walks before the server is asked: a record that is being replaced is whole again within a
    # microsecond.
    WALKS_MAX = 4
    # Longest content of another key's record that a proof of absence reads, in bytes.
    PROOF_BYTES_MAX = 4096
    # Longest value that is copied with the GIL held, in bytes.
    GIL_BYTES_MAX = 65536
    # Bytes of values that get_many() copies before it lets other threads run.
    SLICE_BYTES = 1 << 20


cdef inline const kv_record *record_at(const direct_arena *a, uint64_t offset) noexcept nogil:
    return <const kv_record *> (a.base + offset)

cdef inline bint whole_header(const direct_arena *a, uint64_t slot,
                              direct_record *found) noexcept nogil:
    """Copies the header of the record that a slot points to; returns whether the record is valid
    and inside the region."""
    cdef uint64_t state, length
    cdef const kv_record *record
    found.slot = slot
    found.offset = kv_slot_offset(slot)
    if found.offset < KV_ARENA_START or found.offset > a.length - sizeof(kv_record):
        return False
    record = record_at(a, found.offset)
    found.version = rfp_load64_acquire(&record.version)
    if not found.version:
        return False
    state = rfp_load64(&record.state)
    found.crc = rfp_load32(&record.crc)
    found.value_length = rfp_load32(&record.value_length)
    found.key_length = <uint32_t> (state & KV_STATE_KEY)
    found.expiry = state >> KV_EXPIRY_SHIFT
    length = kv_record_size(found.key_length, found.value_length)
    if kv_slot_length(slot) and kv_slot_length(slot) != length:
        return False
    return length <= a.length - found.offset

cdef inline bint is_of(const direct_arena *a, const direct_record *found, const char *key,
                       uint32_t key_length) noexcept nogil:
    return found.key_length == key_length and \
        kv_same(<const char *> (record_at(a, found.offset) + 1), key, key_length)


cdef inline uint64_t bucket_count(const direct_arena *a) noexcept nogil:
    """Returns the number of buckets, or 0 if the header contains an impossible one."""
    cdef const kv_partition_header *header = <const kv_partition_header *> a.base
    cdef uint64_t buckets = rfp_load64_acquire(&header.buckets)
    return buckets if buckets <= (a.length - KV_ARENA_START) // KV_LINE else 0

cdef inline const uint64_t *bucket_line(const direct_arena *a, uint64_t bucket) noexcept nogil:
    return <const uint64_t *> (a.base + a.length - KV_LINE * (bucket + 1))

cdef inline const uint64_t *next_line(const direct_arena *a, const uint64_t *line) noexcept nogil:
    """Returns the overflow line that a line links to; NULL: none inside the region."""
    cdef uint64_t last = rfp_load64_acquire(line + KV_SLOTS - 1)
    cdef uint64_t offset = kv_slot_offset(last)
    if not kv_slot_link(last) or offset < KV_ARENA_START or \
            offset > a.length - sizeof(kv_overflow):
        return NULL
    return <const uint64_t *> (a.base + offset + sizeof(kv_overflow) - 8 * KV_SLOTS)

cdef inline const uint64_t *first_line(const direct_arena *a, uint64_t hash) noexcept nogil:
    cdef uint64_t buckets = bucket_count(a)
    return bucket_line(a, kv_bucket(hash, buckets, kv_mask(buckets)) if buckets else 0)

cdef inline const uint64_t *rearrangements(const direct_arena *a, uint64_t bucket) noexcept nogil:
    return <const uint64_t *> (a.base + sizeof(kv_partition_header)) + bucket % KV_REARRANGEMENTS

cdef void direct_prefetch_line(const direct_arena *a, uint64_t hash) noexcept nogil:
    rfp_prefetch(first_line(a, hash))

cdef void direct_prefetch_records(const direct_arena *a, uint64_t hash) noexcept nogil:
    cdef const uint64_t *line = first_line(a, hash)
    cdef uint64_t slot, tag = kv_tag(hash)
    cdef int i
    for i in range(KV_SLOTS):
        slot = rfp_load64(line + i)
        if kv_slot_tag(slot) == tag:       # a prefetch of any address is harmless
            rfp_prefetch(a.base + kv_slot_offset(slot))
            rfp_prefetch(a.base + kv_slot_offset(slot) + KV_LINE)


cdef bint direct_open(direct_arena *a, const char *base, uint64_t length, const char *owner_word,
                      uint32_t owner, bint same_clock) noexcept nogil:
    cdef const kv_partition_header *header = <const kv_partition_header *> base
    a.base = NULL
    if length < KV_ARENA_START + KV_LINE or length % KV_LINE:
        return False
    if rfp_load64_acquire(&header.magic) != KV_PARTITION_MAGIC:
        return False
    if rfp_load32(&header.version) != KV_LAYOUT_VERSION or rfp_load64(&header.length) != length:
        return False
    a.base = base
    a.length = length
    a.seed = rfp_load64(&header.seed)
    a.owner_word = owner_word
    a.owner = owner
    a.same_clock = same_clock
    return True


cdef direct_result direct_at(const direct_arena *a, uint64_t slot, const char *key,
                             uint32_t key_length, direct_record *found) noexcept nogil:
    if whole_header(a, slot, found) and is_of(a, found, key, key_length):
        return DIRECT_FOUND
    return DIRECT_UNSURE


# Absence


cdef bint is_other_key(const direct_arena *a, const uint64_t *place, uint64_t slot, const char *key,
                       uint32_t key_length) noexcept nogil:
    """Returns whether the record of a slot is proven to be the current one of another key."""
    cdef direct_record other
    cdef uint32_t crc
    cdef char[PROOF_BYTES_MAX] copy
    cdef uint64_t value
    if not whole_header(a, slot, &other):
        return False
    value = kv_value_offset(other.key_length) - sizeof(kv_record)
    if value + other.value_length > PROOF_BYTES_MAX:
        return False
    rfp_copy_in(copy, <const char *> (record_at(a, other.offset) + 1), value + other.value_length)
    crc = kv_key_crc(a.seed, copy, other.key_length)
    crc = kv_value_crc(crc, copy + value, other.value_length)
    if kv_seal_crc(crc, other.key_length, other.value_length, other.version) != other.crc:
        return False
    if other.key_length == key_length and kv_same(copy, key, key_length):
        return False
    rfp_fence_acquire()
    return rfp_load64(place) == slot and \
        rfp_load64(&record_at(a, other.offset).version) == other.version


cdef bint is_absent(const direct_arena *a, const char *key, uint32_t key_length,
                    uint64_t hash) noexcept nogil:
    """Returns whether the key is proven to have no value."""
    cdef const kv_partition_header *header = <const kv_partition_header *> a.base
    cdef uint64_t buckets = bucket_count(a), bucket, count, slot, tag = kv_tag(hash)
    cdef const uint64_t *counter
    cdef const uint64_t *line
    cdef int lines, i
    if not buckets or not rfp_load32(&header.flags) & KV_COUNTS_REARRANGEMENTS:
        return False
    bucket = kv_bucket(hash, buckets, kv_mask(buckets))
    counter = rearrangements(a, bucket)
    count = rfp_load64_acquire(counter)
    # The counter first: a split between the two loads changes the number read here.
    if count % 2 or bucket_count(a) != buckets:
        return False
    line = bucket_line(a, bucket)
    for lines in range(KV_MAX_LINES + 1):
        for i in range(KV_SLOTS):
            slot = rfp_load64_acquire(line + i)
            if kv_slot_tag(slot) == tag and not is_other_key(a, line + i, slot, key, key_length):
                return False
        if not kv_slot_link(slot):
            break
        line = next_line(a, line)
        if line == NULL:
            return False
    else:
        return False
    rfp_fence_acquire()
    return rfp_load64(counter) == count and rfp_load64(&header.buckets) == buckets and \
        rfp_owner_alive(a.owner_word, a.owner)


# Values


cdef direct_result direct_find(const direct_arena *a, const char *key, uint32_t key_length,
                               uint64_t hash, direct_record *found) noexcept nogil:
    cdef uint64_t buckets, slot, tag = kv_tag(hash)
    cdef const uint64_t *line
    cdef int attempt, lines, i
    cdef bint disturbed
    for attempt in range(WALKS_MAX):
        buckets = bucket_count(a)
        if not buckets:
            return DIRECT_UNSURE
        line = bucket_line(a, kv_bucket(hash, buckets, kv_mask(buckets)))
        disturbed = False
        for lines in range(KV_MAX_LINES + 1):
            for i in range(KV_SLOTS):
                slot = rfp_load64_acquire(line + i)
                if kv_slot_tag(slot) != tag:
                    continue
                if not whole_header(a, slot, found):
                    disturbed = True
                elif is_of(a, found, key, key_length):
                    return DIRECT_FOUND
            line = next_line(a, line)
            if line == NULL:
                break
        if not disturbed and is_absent(a, key, key_length, hash):
            return DIRECT_ABSENT
    return DIRECT_UNSURE


cdef bint copy_sealed(const direct_arena *a, const char *key, const direct_record *found,
                      char *target) noexcept nogil:
    """Copies a value that the CRC covers; returns whether the copy is whole."""
    cdef const char *record = a.base + found.offset
    cdef uint32_t crc = kv_key_crc(a.seed, key, found.key_length)
    rfp_copy_in(target, record + kv_value_offset(found.key_length), found.value_length)
    crc = rfp_crc32c(crc, target, found.value_length)
    return kv_seal_crc(crc, found.key_length, found.value_length, found.version) == found.crc


cdef bint copy_long(const direct_arena *a, const char *key, uint64_t hash,
                    const direct_record *found, uint32_t offset, uint32_t length,
                    char *target) noexcept nogil:
    """Copies a part of a value that the CRC does not cover; returns whether the copy is whole."""
    cdef const kv_record *record = record_at(a, found.offset)
    cdef const char *value = <const char *> record + kv_value_offset(found.key_length) + offset
    cdef uint64_t buckets = bucket_count(a), count
    cdef uint32_t crc = kv_key_crc(a.seed, key, found.key_length)
    cdef const uint64_t *counter
    # The CRC of the header shows that the version is this record's, and no other word's.
    if kv_seal_crc(crc, found.key_length, found.value_length, found.version) != found.crc:
        return False
    if not buckets:
        return False
    counter = rearrangements(a, kv_bucket(hash, buckets, kv_mask(buckets)))
    count = rfp_load64_acquire(counter)
    if count % 2 or rfp_load64_acquire(&record.version) != found.version:
        return False
    rfp_copy_in(target, value, length)
    rfp_fence_acquire()
    return rfp_load64(&record.version) == found.version and rfp_load64(counter) == count


cdef inline direct_result proven(const direct_arena *a, const direct_record *found,
                                 bint whole) noexcept nogil:
    rfp_fence_acquire()
    if not whole or not rfp_owner_alive(a.owner_word, a.owner):
        return DIRECT_UNSURE
    # The server's clock may be older than this one: it decides about a value whose time seems to be
    # over.
    if found.expiry and (not a.same_clock or found.expiry <= rfp_now() // 1000000):
        return DIRECT_UNSURE
    return DIRECT_FOUND


cdef direct_result direct_take(const direct_arena *a, const char *key, uint64_t hash,
                               const direct_record *found, char *target) noexcept nogil:
    if found.value_length <= KV_MAX_SEALED:
        return proven(a, found, copy_sealed(a, key, found, target))
    return proven(a, found, copy_long(a, key, hash, found, 0, found.value_length, target))


cdef direct_result direct_take_part(const direct_arena *a, const char *key, uint64_t hash,
                                    const direct_record *found, uint32_t offset, uint32_t length,
                                    char *target) noexcept nogil:
    cdef char[KV_MAX_SEALED] copy
    if found.value_length > KV_MAX_SEALED:
        return proven(a, found, copy_long(a, key, hash, found, offset, length, target))
    if not copy_sealed(a, key, found, copy):
        return DIRECT_UNSURE
    if length:
        memcpy(target, copy + offset, length)
    return proven(a, found, True)


cdef void direct_use(const direct_arena *a, recency *uses, channel *ch, uint32_t worker,
                     uint64_t hash, const direct_record *found) noexcept nogil:
    cdef const kv_partition_header *header = <const kv_partition_header *> a.base
    if rfp_load32(&header.flags) & KV_EVICTS:
        recency_note(uses, ch, worker, hash, found.slot)


# The partitions of a connection


cdef class DirectReads:
    """Direct reads of the partitions of a connection.

    Args:
        connection: with the server's arenas and its incarnation.
    """

    def __cinit__(self, connection, *_):
        cdef RemoteArena arena
        cdef RemoteRegion line = connection.owner_line
        self.seed = connection.seed
        self.until_liveness_check = READS_PER_LIVENESS_CHECK
        if line is None or not connection.owner:
            return
        for i, arena in enumerate(connection.arenas):
            if arena is None or arena.c.count != 1 or arena.c.chunks[0] == NULL:
                return
            if not direct_open(&self.arenas[i], arena.c.chunks[0].base,
                               arena.c.length // RFP_LINE * RFP_LINE, line.c.base + RFP_OWNER_WORD,
                               connection.owner, connection.same_clock):
                return
        self.count = len(connection.arenas)

    @property
    def counters(self):
        """Return how many reads found a value, proved a miss, and had to be sent to the server."""
        return {"found": self.found, "absent": self.absent, "unsure": self.unsure}

    cdef bint probe(self, channel *ch) noexcept:
        cdef direct_record found
        direct_find(&self.arenas[0], b"probe", 5, self.seed, &found)
        return rfp_owner_alive(self.arenas[0].owner_word, self.arenas[0].owner)

    cdef uint32_t worker_of(self, uint64_t hash) noexcept:
        return kv_worker(hash, self.count) if self.count > 1 else 0

    cdef bint server_runs(self, channel *ch) noexcept:
        cdef queue_pair *pair = ch.rings[0].pair
        self.until_liveness_check = READS_PER_LIVENESS_CHECK
        return pair.ops.alive(pair)

    cdef uint64_t hash_of(self, bytes key) noexcept:
        return rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), self.seed)

    cdef direct_result locate(self, channel *ch, bytes key, uint64_t hash, uint32_t *worker,
                              direct_record *record) noexcept:
        cdef direct_result result
        worker[0] = self.worker_of(hash)
        self.until_liveness_check -= 1
        if not self.until_liveness_check and not self.server_runs(ch):
            return DIRECT_UNSURE
        if ch.rings[worker[0]].unsettled:
            return DIRECT_UNSURE
        result = direct_find(&self.arenas[worker[0]], PyBytes_AS_STRING(key),
                             <uint32_t> PyBytes_GET_SIZE(key), hash, record)
        if result == DIRECT_ABSENT:
            self.absent += 1
        elif result == DIRECT_UNSURE:
            self.unsure += 1
        return result

    cdef void used_record(self, channel *ch, uint32_t worker, uint64_t hash,
                          const direct_record *record) noexcept:
        self.found += 1
        direct_use(&self.arenas[worker], &self.uses, ch, worker, hash, record)

    cdef object get(self, channel *ch, bytes key, Py_buffer *view, uint64_t *version,
                    direct_result *result):
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t length = <uint32_t> PyBytes_GET_SIZE(key)
        cdef uint64_t hash = rfp_hash(text, length, self.seed)
        self.until_liveness_check -= 1
        if not self.until_liveness_check and not self.server_runs(ch):
            result[0] = DIRECT_UNSURE
            return None
        return self.read(ch, text, length, hash, view, True, version, result)

    cdef bint exists(self, channel *ch, bytes key, uint64_t hash,
                     direct_result *result) noexcept:
        cdef direct_record found
        cdef uint32_t worker
        result[0] = self.locate(ch, key, hash, &worker, &found)
        if result[0] == DIRECT_FOUND:
            result[0] = self.take_part(ch, key, hash, worker, &found, 0, 0, NULL)
        return result[0] == DIRECT_FOUND

    cdef object get_range(self, channel *ch, bytes key, uint64_t offset, uint64_t length,
                          direct_result *result):
        cdef direct_record found
        cdef uint64_t hash = self.hash_of(key)
        cdef uint32_t worker
        cdef object part
        result[0] = self.locate(ch, key, hash, &worker, &found)
        if result[0] != DIRECT_FOUND:
            return None
        offset = min(offset, <uint64_t> found.value_length)
        length = min(length, found.value_length - offset)
        part = PyBytes_FromStringAndSize(NULL, length)
        result[0] = self.take_part(ch, key, hash, worker, &found, offset, length,
                                   PyBytes_AS_STRING(part))
        if result[0] != DIRECT_FOUND:
            return None
        direct_use(&self.arenas[worker], &self.uses, ch, worker, hash, &found)
        return part

    cdef direct_result take_part(self, channel *ch, bytes key, uint64_t hash, uint32_t worker,
                                 const direct_record *found, uint32_t offset, uint32_t length,
                                 char *target) noexcept:
        cdef const direct_arena *a = &self.arenas[worker]
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef direct_result result
        cdef uint32_t busy = ch.busy
        if length <= GIL_BYTES_MAX:
            result = direct_take_part(a, text, hash, found, offset, length, target)
        else:                  # a busy channel keeps the arena mapped
            ch.busy = 1
            with nogil:
                result = direct_take_part(a, text, hash, found, offset, length, target)
            ch.busy = busy
        if result == DIRECT_FOUND:
            self.found += 1
        else:
            self.unsure += 1
        return result

    cdef Py_ssize_t exists_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                                list values, list rest) except -1:
        cdef uint64_t hashes[PREFETCHED]
        cdef direct_result result
        cdef bint found
        cdef Py_ssize_t i, n = min(end - begin, <Py_ssize_t> PREFETCHED)
        for i in range(n):
            hashes[i] = self.hash_of(<bytes> keys[begin + i])
            direct_prefetch_line(&self.arenas[self.worker_of(hashes[i])], hashes[i])
        for i in range(n):
            direct_prefetch_records(&self.arenas[self.worker_of(hashes[i])], hashes[i])
        for i in range(n):
            found = self.exists(ch, <bytes> keys[begin + i], hashes[i], &result)
            if result == DIRECT_UNSURE:
                rest.append(begin + i)
            else:
                values[begin + i] = found
        return begin + n

    cdef Py_ssize_t get_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                             list values, list rest) except -1:
        cdef uint64_t hashes[PREFETCHED]
        cdef const char *text
        cdef uint32_t length
        cdef Py_ssize_t i, n
        cdef uint64_t version, copied = 0
        cdef direct_result result
        self.until_liveness_check -= <uint32_t> min(end - begin, self.until_liveness_check)
        if not self.until_liveness_check and not self.server_runs(ch):
            rest.extend(range(begin, end))
            return end
        while begin < end and copied < SLICE_BYTES:
            n = min(end - begin, <Py_ssize_t> PREFETCHED)
            for i in range(n):
                key = keys[begin + i]
                hashes[i] = rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), self.seed)
                direct_prefetch_line(&self.arenas[self.worker_of(hashes[i])], hashes[i])
            for i in range(n):
                direct_prefetch_records(&self.arenas[self.worker_of(hashes[i])], hashes[i])
            for i in range(n):
                key = keys[begin + i]
                text = PyBytes_AS_STRING(key)
                length = <uint32_t> PyBytes_GET_SIZE(key)
                value = self.read(ch, text, length, hashes[i], NULL, False, &version, &result)
                if result == DIRECT_UNSURE:
                    rest.append(begin + i)
                elif result == DIRECT_FOUND:
                    values[begin + i] = value
                    copied += PyBytes_GET_SIZE(value)
            begin += n
        return begin

    cdef object read(self, channel *ch, const char *key, uint32_t length, uint64_t hash,
                     Py_buffer *view, bint may_release_gil, uint64_t *version,
                     direct_result *result):
        cdef uint32_t worker = self.worker_of(hash)
        cdef const direct_arena *a = &self.arenas[worker]
        cdef direct_record found
        cdef object value
        cdef char *target
        cdef uint32_t busy
        # A request whose call timed out may change this key yet.  The server executes a request of
        # this thread after it, so its response says what became of that change.
        if ch.rings[worker].unsettled:
            result[0] = DIRECT_UNSURE
            return None
        result[0] = direct_find(a, key, length, hash, &found)
        if result[0] == DIRECT_ABSENT:
            self.absent += 1
            return None
        if result[0] == DIRECT_FOUND and (may_release_gil or found.value_length <= GIL_BYTES_MAX):
            if view == NULL:
                value = PyBytes_FromStringAndSize(NULL, found.value_length)
                target = PyBytes_AS_STRING(value)
            elif found.value_length <= <uint64_t> view.len:
                value = found.value_length
                target = <char *> view.buf
            else:              # the server decides that the buffer is too short
                result[0] = DIRECT_UNSURE
                return None
            if found.value_length <= GIL_BYTES_MAX:
                result[0] = direct_take(a, key, hash, &found, target)
            else:              # a busy channel keeps the arena mapped
                busy = ch.busy
                ch.busy = 1
                with nogil:
                    result[0] = direct_take(a, key, hash, &found, target)
                ch.busy = busy
            if result[0] == DIRECT_FOUND:
                self.found += 1
                version[0] = found.version
                direct_use(a, &self.uses, ch, worker, hash, &found)
                return value
        result[0] = DIRECT_UNSURE
        self.unsure += 1
        return None

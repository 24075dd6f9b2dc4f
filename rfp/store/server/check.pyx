"""Verification of a partition's memory: records, blocks, index, pins and uploads against each
other."""

from libc.stdint cimport uint32_t, uint64_t
from rfp.store.layout cimport (
    KV_BLOCK_END, KV_BLOCK_FREE, KV_BLOCK_ORPHAN, KV_BLOCK_OVERFLOW, KV_BLOCK_RECORD,
    KV_BLOCK_RESERVED, KV_EXPIRY_SHIFT, KV_LINE, KV_PARTITION_MAGIC, KV_REARRANGEMENTS, KV_SLOTS,
    KV_STATE_KEY, KV_STATE_PIN, KV_STATE_PINS, KV_UNIT, kv_bucket, kv_mask, kv_overflow, kv_record,
    kv_key_crc, kv_record_size, kv_seal_crc, kv_slot, kv_slot_offset, kv_tag, kv_value_crc,
    kv_value_offset,
)
from rfp.store.messages cimport (
    KV_C_BYTES_RESERVED, KV_C_PINS, KV_C_UPLOADS, KV_C_VALUE_BYTES, KV_C_VIEWS, KV_MAX_KEY,
)
from rfp.store.server.arena cimport arena, arena_check, arena_kind, arena_size
from rfp.store.server.index cimport (
    index_chain, index_hash, index_rearrangements, index_slot,
)
from rfp.store.server.records cimport (
    EVICT_BUCKET, MAX_PINS, MAX_UPLOADS, account, partition, pin, record_at, session_resources,
    upload,
)
from rfp.store.server.views cimport views_check


cdef const char *check_record(partition *p, uint64_t block) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    cdef uint32_t key_length = record.state & KV_STATE_KEY, crc
    cdef uint64_t size = kv_record_size(key_length, record.value_length)
    if not 0 < key_length <= KV_MAX_KEY or size > arena_size(&p.memory, block):
        return "a record is longer than its block"
    crc = kv_key_crc(p.seed, record + 1, key_length)
    crc = kv_value_crc(crc, <char *> record + kv_value_offset(key_length), record.value_length)
    if arena_kind(&p.memory, block) == KV_BLOCK_ORPHAN:
        if record.version:
            return "a record that left the index is valid"
        return NULL
    if not record.version:
        return "a record in the index is not valid"
    if kv_seal_crc(crc, key_length, record.value_length, record.version) != record.crc:
        return "a record's CRC does not match its content"
    if record.version >= p.version:
        return "a record has a version that was not assigned yet"
    return NULL


cdef const char *check_blocks(partition *p) noexcept nogil:
    cdef arena *a = &p.memory
    cdef uint64_t block = a.start, records = 0, lines = 0, reserved = 0, held = 0, pins = 0
    cdef uint64_t values = 0, expiring = 0
    cdef uint64_t expiry
    cdef uint32_t kind
    cdef const char *problem
    cdef kv_record *record
    cdef uint64_t *slot
    cdef upload *u
    while True:
        kind = arena_kind(a, block)
        record = record_at(p, block)
        if kind == KV_BLOCK_END:
            break
        if kind == KV_BLOCK_RECORD or kind == KV_BLOCK_ORPHAN:
            problem = check_record(p, block)
            if problem != NULL:
                return problem
            pins += (record.state & KV_STATE_PINS) // KV_STATE_PIN
        if kind == KV_BLOCK_RECORD:
            records += 1
            values += record.value_length
            slot = index_slot(&p.index, index_hash(&p.index, record), block)
            if slot == NULL:
                return "a record is not in the index"
            expiry = record.state >> KV_EXPIRY_SHIFT
            expiring += expiry != 0
            if expiry and not p.sweeping and expiry < p.soonest:
                return "a record expires before the next expiry sweep"
        elif kind == KV_BLOCK_ORPHAN:
            if not record.state & KV_STATE_PINS:
                return "an unreachable record occupies memory"
        elif kind == KV_BLOCK_RESERVED:
            reserved += 1
        elif kind == KV_BLOCK_OVERFLOW:
            lines += 1
        elif kind != KV_BLOCK_FREE:
            return "a block has an unknown kind"
        block += arena_size(a, block)
    if records != p.index.records:
        return "index record count does not match the records found"
    if lines != p.index.lines:
        return "index overflow line count does not match the lines found"
    if values != p.counters[KV_C_VALUE_BYTES]:
        return "value byte count does not match the records found"
    if expiring != p.expiring:
        return "count of expiring records does not match the records found"
    if pins != p.counters[KV_C_PINS] + p.counters[KV_C_VIEWS]:
        return "the records' pin counts do not match the pins granted"
    u = <upload *> p.uploads.first
    while u != NULL:
        held += u.place.block != 0
        u = <upload *> u.links.next
    if reserved != held:
        return "a reserved block belongs to no upload"
    return NULL


cdef const char *check_index(partition *p) noexcept nogil:
    cdef uint64_t[64] slots
    cdef uint64_t[8] lines
    cdef uint64_t bucket, records = 0, chained = 0, hash, block
    cdef int n, n_lines, i
    cdef kv_record *record
    for bucket in range(KV_REARRANGEMENTS):
        if index_rearrangements(p.index.base, bucket)[0] % 2:
            return "a rearrangement counter is odd while nothing is rearranged"
    if p.index.mask != kv_mask(p.index.buckets) or p.index.buckets > p.index.room:
        return "the index has more buckets than fit into its memory"
    if p.index.header.buckets != p.index.buckets or p.index.header.magic != KV_PARTITION_MAGIC:
        return "the partition header has the wrong number of buckets"
    if <uint64_t> (p.index.top - p.index.base) - KV_LINE * p.index.room != p.memory.end + KV_UNIT:
        return "the index does not begin at the end of the arena"
    for bucket in range(p.index.buckets):
        n = index_chain(&p.index, bucket, slots, lines, &n_lines)
        records += n
        chained += n_lines
        if n_lines and p.policy == EVICT_BUCKET:
            return "a fixed-size table has overflow lines"
        if n_lines != ((n - 2) // (KV_SLOTS - 1) if n > KV_SLOTS else 0):
            return "a bucket chain has a gap"
        for i in range(n_lines):
            if arena_kind(&p.memory, lines[i]) != KV_BLOCK_OVERFLOW:
                return "a chain link does not point to an overflow line"
            if (<kv_overflow *> (p.index.base + lines[i])).bucket != bucket:
                return "an overflow line belongs to another bucket"
        for i in range(n):
            block = kv_slot_offset(slots[i])
            record = record_at(p, block)
            if arena_kind(&p.memory, block) != KV_BLOCK_RECORD:
                return "a slot does not point to a record"
            hash = index_hash(&p.index, record)
            if kv_bucket(hash, p.index.buckets, p.index.mask) != bucket:
                return "a record is in the wrong bucket"
            if slots[i] != kv_slot(kv_tag(hash), block,
                                   kv_record_size(record.state & KV_STATE_KEY,
                                                  record.value_length)):
                return "a slot's tag or length does not match its record"
    if records != p.index.records or chained != p.index.lines:
        return "record or line count does not match the bucket chains"
    return NULL


cdef const char *check_sessions(partition *p) noexcept nogil:
    cdef session_resources *h = <session_resources *> p.sessions.first
    cdef uint64_t bytes, pins = 0, uploads = 0, reserved = 0, unused, listed = 0
    cdef pin *x
    cdef upload *u
    cdef account *a = p.accounts
    cdef bint fresh = False
    cdef int i
    while h != NULL:
        bytes = 0
        unused = 0
        for i in range(MAX_PINS):
            if h.pins[i].id:
                pins += 1
                bytes += h.pins[i].bytes
                if not record_at(p, h.pins[i].record).state & KV_STATE_PINS:
                    return "a pinned record has no pin count"
        x = h.unused
        while x != NULL and unused <= MAX_PINS:
            unused += 1
            x = <pin *> x.links.next
        for i in range(MAX_PINS):
            unused += h.pins[i].id != 0
        if unused != MAX_PINS:
            return "a session's used and free pins do not match its total"
        for i in range(MAX_UPLOADS):
            if h.uploads[i].id:
                uploads += 1
                bytes += h.uploads[i].place.size
                reserved += h.uploads[i].place.size
                if h.uploads[i].place.block \
                        and arena_kind(&p.memory, h.uploads[i].place.block) != KV_BLOCK_RESERVED:
                    return "an upload has no reserved block"
        if bytes != h.bytes or bytes > p.quota:
            return "a session's byte count does not match its pins and uploads"
        h = <session_resources *> h.links.next
    x = <pin *> p.pins.first
    while x != NULL and listed <= pins:
        if x == p.new_pin:
            fresh = True
        if (x.deadline == 0) != fresh:
            return "the pins are not in order of their leases"
        listed += 1
        x = <pin *> x.links.next
    if listed != pins or pins != p.counters[KV_C_PINS]:
        return "pin count does not match the pins found"
    listed = 0
    u = <upload *> p.uploads.first
    while u != NULL and listed <= uploads:
        listed += 1
        u = <upload *> u.links.next
    if listed != uploads or uploads != p.counters[KV_C_UPLOADS] \
            or reserved != p.counters[KV_C_BYTES_RESERVED]:
        return "upload count does not match the uploads found"
    while a != NULL:
        if a.uploading > p.quota or a.uploading > reserved:
            return "a client's uploads exceed its quota"
        reserved -= a.uploading
        a = a.next
    if reserved:
        return "upload byte count does not match the clients' uploads"
    return NULL


cdef const char *partition_check(partition *p) noexcept nogil:
    cdef const char *problem = arena_check(&p.memory)
    if problem == NULL:
        problem = check_index(p)
    if problem == NULL:
        problem = check_blocks(p)
    if problem == NULL:
        problem = check_sessions(p)
    if problem == NULL:
        problem = views_check(p)
    return problem

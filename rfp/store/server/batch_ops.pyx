"""Batches: parse the items, start their cache misses together, execute them one by one."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rfp.core.core cimport rfp_copy_out, rfp_hash, rfp_store8
from rfp.protocol.server.service cimport request, response
from rfp.store.layout cimport kv_record, kv_value_offset
from rfp.store.messages cimport (
    KV_BAD_REQUEST, KV_C_GETS, KV_C_HITS, KV_DEFERRED, KV_MAX_KEY, KV_NAME_PLACE, KV_NOT_FOUND,
    KV_OK, KV_PLACED, KV_TOO_LARGE, kv_item, kv_key, kv_number, kv_pair, kv_range,
)
from rfp.store.server.index cimport index_prefetch, index_prefetch_records
from rfp.store.server.key_ops cimport (
    clip_range, partition_delete, partition_get, partition_place, partition_put,
)
from rfp.store.server.records cimport partition

cdef enum:
    # Items whose cache misses are started together: as many as a core can have outstanding.
    ITEMS_AT_ONCE = 16
    PLACED_MAX = 64            # items of a request whose places are named
    # Of a response that names places, kept free for some: else a batch that fills its response
    # would name none, however often it is repeated.
    PLACED_BYTES = 4 * 16
    RESPONSE_YIELD_BYTES = 64 << 10

cdef enum shape:               # of the items of a request
    KEYS                       # kv_key, key
    PAIRS                      # kv_pair, key, value
    RANGES                     # kv_key, key, kv_range

cdef struct entry:
    const char *key
    const char *value          # or the kv_range
    uint32_t key_length
    uint32_t value_length
    uint64_t hash


cdef inline const char *take(const char *at, const char *end, shape kind,
                             entry *e) noexcept nogil:
    """Parses one item; returns the beginning of the next one, or NULL if the item is incomplete."""
    cdef kv_pair pair
    cdef kv_key key
    cdef uint64_t left = end - at
    if kind == PAIRS:
        if left < sizeof(kv_pair):
            return NULL
        memcpy(&pair, at, sizeof(kv_pair))
        left -= sizeof(kv_pair)
        e.key = at + sizeof(kv_pair)
        e.key_length = pair.key_length
        e.value_length = pair.value_length
    else:
        if left < sizeof(kv_key):
            return NULL
        memcpy(&key, at, sizeof(kv_key))
        left -= sizeof(kv_key)
        e.key = at + sizeof(kv_key)
        e.key_length = key.key_length
        e.value_length = sizeof(kv_range) if kind == RANGES else 0
    if not e.key_length or left < <uint64_t> e.key_length + e.value_length:
        return NULL
    e.value = e.key + e.key_length
    return e.value + e.value_length


cdef bint well_formed(const request *r, const response *out, const char *at,
                      shape kind) noexcept nogil:
    cdef const char *end = r.payload + r.length
    cdef entry e
    cdef uint32_t _
    if out.capacity < r.count * sizeof(kv_item):
        return False
    for _ in range(r.count):
        at = take(at, end, kind, &e)
        if at == NULL:
            return False
    return at == end


cdef struct group:             # of a batch: the items that are executed next
    entry[ITEMS_AT_ONCE] entries
    uint32_t first             # number of the first one
    uint32_t count
    const char *at             # behind the last one


cdef inline bint first_group(const request *r, response *out, const char *at, shape kind,
                             group *g) noexcept nogil:
    """Begins before the first item, which is at `at`; False: the payload is malformed."""
    g.first = g.count = 0
    g.at = at
    if well_formed(r, out, at, kind):
        return True
    out.status = KV_BAD_REQUEST
    return False


cdef inline bint next_group(partition *p, const request *r, shape kind, group *g) noexcept nogil:
    """Parses the next items and starts their cache misses; False: there are none."""
    cdef const char *at = g.at
    cdef const char *end = r.payload + r.length
    cdef entry *e
    cdef uint32_t i, n
    g.first += g.count
    if g.first == r.count:
        return False
    n = min(<uint32_t> ITEMS_AT_ONCE, r.count - g.first)
    for i in range(n):
        e = g.entries + i
        at = take(at, end, kind, e)
        e.hash = rfp_hash(e.key, e.key_length, p.seed)
        index_prefetch(&p.index, e.hash)
    for i in range(n):
        index_prefetch_records(&p.index, g.entries[i].hash)
    g.count = n
    g.at = at
    return True


cdef inline void answer(response *out, uint32_t i, uint8_t status, uint32_t length,
                        uint64_t version) noexcept nogil:
    cdef kv_item item
    memset(&item, 0, sizeof(kv_item))
    item.status = status
    item.length = length
    item.version = version
    rfp_copy_out(out.payload + i * sizeof(kv_item), &item, sizeof(kv_item))


cdef uint32_t name_places(partition *p, response *out, uint32_t filled, kv_record **records,
                          const uint64_t *hashes, uint32_t n) noexcept nogil:
    """Adds the places of records behind all values, as far as there is room; returns the length."""
    cdef uint32_t i, added
    for i in range(n):
        if records[i] == NULL:
            continue
        added = partition_place(p, hashes[i], records[i], out.payload, filled, out.capacity)
        if added:
            filled += added
            rfp_store8(out.payload + i * sizeof(kv_item), KV_PLACED)
    return filled


cdef inline void get_parts(partition *p, const request *r, response *out,
                           shape kind) noexcept nogil:
    """Answers with the values, or with the ranges of them that the items name."""
    cdef uint32_t filled = r.count * <uint32_t> sizeof(kv_item), i
    cdef uint32_t capacity = out.capacity
    cdef kv_record *records[PLACED_MAX]
    cdef uint64_t hashes[PLACED_MAX]
    cdef group g
    cdef const entry *e
    cdef kv_record *record
    cdef kv_range part
    if not first_group(r, out, r.payload, kind, &g):
        return
    if r.flags & KV_NAME_PLACE:
        memset(records, 0, sizeof(records))
        capacity = max(filled, capacity - min(capacity, <uint32_t> PLACED_BYTES))
    while next_group(p, r, kind, &g):
        for i in range(g.count):
            e = g.entries + i
            if e.key_length > KV_MAX_KEY:
                answer(out, g.first + i, KV_TOO_LARGE, 0, 0)
                continue
            record = partition_get(p, e.hash, e.key, e.key_length)
            if record == NULL:
                answer(out, g.first + i, KV_NOT_FOUND, 0, 0)
                continue
            part.offset = 0
            part.length = record.value_length
            if kind == RANGES:
                memcpy(&part, e.value, sizeof(kv_range))
                clip_range(&part, record.value_length)
            if part.length > capacity - filled:
                # The client will request it again, and the partition will count it then.
                p.counters[KV_C_GETS] -= 1
                p.counters[KV_C_HITS] -= 1
                answer(out, g.first + i, KV_DEFERRED, 0, record.version)
            else:
                rfp_copy_out(out.payload + filled,
                             <char *> record + kv_value_offset(e.key_length) + part.offset,
                             part.length)
                filled += <uint32_t> part.length
                answer(out, g.first + i, KV_OK, <uint32_t> part.length, record.version)
                if g.first + i < PLACED_MAX:
                    records[g.first + i] = record
                    hashes[g.first + i] = e.hash
    if r.flags & KV_NAME_PLACE:
        filled = name_places(p, out, filled, records, hashes, min(r.count, <uint32_t> PLACED_MAX))
    out.length = filled
    out.yield_after = filled >= RESPONSE_YIELD_BYTES


cdef void batch_get(partition *p, const request *r, response *out) noexcept nogil:
    get_parts(p, r, out, KEYS)


cdef void batch_get_ranges(partition *p, const request *r, response *out) noexcept nogil:
    get_parts(p, r, out, RANGES)


cdef void batch_exists(partition *p, const request *r, response *out) noexcept nogil:
    cdef uint32_t i
    cdef group g
    cdef const entry *e
    cdef kv_record *record
    if not first_group(r, out, r.payload, KEYS, &g):
        return
    while next_group(p, r, KEYS, &g):
        for i in range(g.count):
            e = g.entries + i
            if e.key_length > KV_MAX_KEY:
                answer(out, g.first + i, KV_TOO_LARGE, 0, 0)
                continue
            record = partition_get(p, e.hash, e.key, e.key_length)
            if record == NULL:
                answer(out, g.first + i, KV_NOT_FOUND, 0, 0)
            else:
                answer(out, g.first + i, KV_OK, 0, record.version)
    out.length = r.count * <uint32_t> sizeof(kv_item)


cdef void batch_put(partition *p, const request *r, response *out) noexcept nogil:
    cdef kv_number ttl
    cdef uint32_t i
    cdef group g
    cdef const entry *e
    cdef uint64_t version
    cdef uint8_t status
    if r.length < sizeof(kv_number):
        out.status = KV_BAD_REQUEST
        return
    memcpy(&ttl, r.payload, sizeof(kv_number))
    if not first_group(r, out, r.payload + sizeof(kv_number), PAIRS, &g):
        return
    while next_group(p, r, PAIRS, &g):
        for i in range(g.count):
            e = g.entries + i
            version = 0
            status = KV_TOO_LARGE
            if e.key_length <= KV_MAX_KEY:
                status = partition_put(p, e.hash, e.key, e.key_length, e.value, e.value_length,
                                       ttl.number, 0, 0, &version)
            answer(out, g.first + i, status, 0, version)
    out.length = r.count * <uint32_t> sizeof(kv_item)
    out.yield_after = r.length >= RESPONSE_YIELD_BYTES


cdef void batch_delete(partition *p, const request *r, response *out) noexcept nogil:
    cdef uint32_t i
    cdef group g
    cdef const entry *e
    cdef uint64_t version
    cdef uint8_t status
    if not first_group(r, out, r.payload, KEYS, &g):
        return
    while next_group(p, r, KEYS, &g):
        for i in range(g.count):
            e = g.entries + i
            version = 0
            status = KV_TOO_LARGE
            if e.key_length <= KV_MAX_KEY:
                status = partition_delete(p, e.hash, e.key, e.key_length, &version)
            answer(out, g.first + i, status, 0, version)
    out.length = r.count * <uint32_t> sizeof(kv_item)

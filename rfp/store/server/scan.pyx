"""Scans: each request visits some buckets and returns the position from which to continue.

The server keeps no state for a scan, and a scan returns each key that exists during all of it,
while the index grows and records move.

Positions.  The position of a hash is the hash, rotated so that the bits that choose the bucket come
first, and with its bits reversed: the bit that the index uses first becomes the highest one.  The
bucket of a position uses its d highest bits, so its records are exactly the range of 2^(64-d)
positions around it.  For 5 buckets, of which 0 and 4 came from a split:

    positions  0      1/8     1/4             1/2             3/4              1
               | 0    | 4     | 2             | 1             | 3              |

A split divides the range of one bucket into two halves; a position never changes.  So a scan that
visits positions in ascending order is not affected by growth: "all before the position is done, all
from it on is not" remains true, and no key is visited twice because of a split.

Within a bucket the records are taken in the order of position, then version.  A response that is
full ends before a record; the scan continues with that record's position and version.  The version
orders keys whose whole hashes are equal.  It only grows: a key that is put again between two steps
moves towards the end of this order, so it may be returned twice, never missed.

A bucket is visited within one request, which no other one interrupts.  So moves of records by
eviction or by the growth of the index do not matter: the chain contains each record once.

Bounds.  A request visits at most BUCKETS_MAX buckets, and no further one once it has visited
RECORDS_MAX records, also if it finds no key; then the worker serves the other clients first.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rfp.core.core cimport rfp_copy_out, rfp_prefetch
from rfp.core.system cimport __builtin_bswap64, __builtin_popcountll
from rfp.protocol.server.service cimport request, response
from rfp.store.layout cimport (
    KV_LINE, KV_STATE_KEY, kv_bucket, kv_record, kv_same, kv_slot_offset,
)
from rfp.store.messages cimport (
    KV_BAD_REQUEST, KV_C_DELETES, KV_C_EXPIRATIONS, KV_MAX_KEY, KV_TOO_LARGE, kv_key,
    kv_scan, kv_scanned,
)
from rfp.store.server.index cimport index, index_bucket, index_chain, index_hash, index_slot
from rfp.store.server.records cimport partition, record_at, record_expired, record_remove

cdef enum:
    BUCKETS_MAX = 64
    RECORDS_MAX = 128

cdef struct found_record:
    uint64_t position
    uint64_t version
    uint64_t hash
    kv_record *record


cdef inline uint64_t reverse_bits(uint64_t x) noexcept nogil:
    x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1
    x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4
    return __builtin_bswap64(x)

# The index uses the bits of a hash from bit 16 on (kv_bucket).
cdef inline uint64_t position_of(uint64_t hash) noexcept nogil:
    return reverse_bits(hash >> 16 | hash << 48)

cdef inline uint64_t bucket_at(index *x, uint64_t position) noexcept nogil:
    cdef uint64_t rotated = reverse_bits(position)
    return kv_bucket(rotated << 16 | rotated >> 48, x.buckets, x.mask)

cdef inline uint64_t bucket_end(index *x, uint64_t bucket, uint64_t position) noexcept nogil:
    """Returns the end of the bucket's range of positions, which contains `position`; 0: the end."""
    cdef uint64_t mask = x.mask, size
    # A bucket that has not been split since the mask became wider ignores its last bit.
    if bucket <= mask >> 1 and bucket + (mask >> 1) + 1 >= x.buckets:
        mask >>= 1
    if mask == 0:
        return 0
    size = <uint64_t> 1 << (64 - __builtin_popcountll(mask))
    return (position & ~(size - 1)) + size


cdef inline bint is_behind(const found_record *a, const found_record *b) noexcept nogil:
    return a.position > b.position or a.position == b.position and a.version > b.version


cdef int records_of(partition *p, uint64_t bucket, const kv_scan *start, const char *prefix,
                    uint32_t prefix_length, found_record *found, int *visited) noexcept nogil:
    """Finds the records of a bucket that begin with the prefix and are not before the scan's place,
    in their order; returns their number."""
    cdef uint64_t[64] slots
    cdef uint64_t[8] lines
    cdef int n_lines, n = 0, i, k
    cdef kv_record *record
    cdef found_record f
    visited[0] = index_chain(&p.index, bucket, slots, lines, &n_lines)
    for i in range(visited[0]):
        rfp_prefetch(p.memory.base + kv_slot_offset(slots[i]))
        rfp_prefetch(p.memory.base + kv_slot_offset(slots[i]) + KV_LINE)
    for i in range(visited[0]):
        record = record_at(p, kv_slot_offset(slots[i]))
        if (record.state & KV_STATE_KEY) < prefix_length:
            continue
        if not kv_same(<char *> (record + 1), prefix, prefix_length):
            continue
        f.hash = index_hash(&p.index, record)
        f.position = position_of(f.hash)
        f.version = record.version
        f.record = record
        if f.position < start.position:
            continue
        if f.position == start.position and f.version < start.version:
            continue
        k = n
        while k > 0 and is_behind(&found[k - 1], &f):
            found[k] = found[k - 1]
            k -= 1
        found[k] = f
        n += 1
    return n


cdef bint parse(const request *r, response *out, kv_scan *start, const char **prefix,
                uint32_t *prefix_length) noexcept nogil:
    if r.length < sizeof(kv_scan) or out.capacity < sizeof(kv_scanned):
        out.status = KV_BAD_REQUEST
        return False
    memcpy(start, r.payload, sizeof(kv_scan))
    prefix[0] = r.payload + sizeof(kv_scan)
    prefix_length[0] = r.length - <uint32_t> sizeof(kv_scan)
    if prefix_length[0] > KV_MAX_KEY:
        out.status = KV_TOO_LARGE
        return False
    if not start.limit:
        out.status = KV_BAD_REQUEST
        return False
    return True


cdef inline void answer(response *out, uint64_t position, uint64_t version) noexcept nogil:
    cdef kv_scanned next
    next.position = position
    next.version = version
    rfp_copy_out(out.payload, &next, sizeof(kv_scanned))


cdef void scan_keys(partition *p, const request *r, response *out) noexcept nogil:
    cdef kv_scan at
    cdef found_record[64] found
    cdef const char *prefix
    cdef uint32_t prefix_length, filled = sizeof(kv_scanned), size
    cdef uint64_t bucket, keys = 0
    cdef int n, i, visited, records = 0, _
    cdef kv_key head
    if not parse(r, out, &at, &prefix, &prefix_length):
        return
    out.yield_after = True
    for _ in range(BUCKETS_MAX):
        bucket = bucket_at(&p.index, at.position)
        n = records_of(p, bucket, &at, prefix, prefix_length, found, &visited)
        for i in range(n):
            if record_expired(p, found[i].record):
                continue
            head.key_length = found[i].record.state & KV_STATE_KEY
            size = <uint32_t> sizeof(kv_key) + head.key_length
            if keys == at.limit or size > out.capacity - filled:
                if not keys:
                    out.status = KV_TOO_LARGE      # no response of this capacity can go on
                    return
                answer(out, found[i].position, found[i].version)
                out.length = filled
                return
            rfp_copy_out(out.payload + filled, &head, sizeof(kv_key))
            rfp_copy_out(out.payload + filled + sizeof(kv_key), found[i].record + 1,
                         head.key_length)
            filled += size
            keys += 1
        at.position = bucket_end(&p.index, bucket, at.position)
        at.version = 0
        records += visited
        if not at.position or records >= RECORDS_MAX or keys == at.limit:
            break
        rfp_prefetch(index_bucket(&p.index, bucket_at(&p.index, at.position)))
    answer(out, at.position, at.version)
    out.length = filled


cdef void scan_delete(partition *p, const request *r, response *out) noexcept nogil:
    cdef kv_scan at
    cdef found_record[64] found
    cdef const char *prefix
    cdef uint32_t prefix_length
    cdef uint64_t bucket, deleted = 0, block
    cdef int n, i, visited, records = 0, _
    if not parse(r, out, &at, &prefix, &prefix_length):
        return
    out.yield_after = True
    for _ in range(BUCKETS_MAX):
        bucket = bucket_at(&p.index, at.position)
        n = records_of(p, bucket, &at, prefix, prefix_length, found, &visited)
        for i in range(n):
            if deleted == at.limit:
                answer(out, found[i].position, found[i].version)
                out.length = sizeof(kv_scanned)
                out.result = deleted
                return
            if record_expired(p, found[i].record):
                p.counters[KV_C_EXPIRATIONS] += 1
            else:
                p.counters[KV_C_DELETES] += 1
                deleted += 1
            block = <uint64_t> (<char *> found[i].record - p.memory.base)
            # A removal moves other slots of the chain, never a record.
            record_remove(p, found[i].hash, index_slot(&p.index, found[i].hash, block))
        at.position = bucket_end(&p.index, bucket, at.position)
        at.version = 0
        records += visited
        if not at.position or records >= RECORDS_MAX or deleted == at.limit:
            break
        rfp_prefetch(index_bucket(&p.index, bucket_at(&p.index, at.position)))
    answer(out, at.position, at.version)
    out.length = sizeof(kv_scanned)
    out.result = deleted

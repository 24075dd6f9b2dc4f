"""Server-bypass: a GET that reads the server's index by one-sided READs."""

from libc.string cimport memcpy

from rfp.fabric.fabric cimport READ, remote_region
from rfp.protocol.client.client_ring cimport (
    DONE, NOT_ATTACHED, UNDECIDED, client_ring, client_ring_response_offset,
)
from rfp.protocol.client.one_sided cimport client_ring_transfer
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, ARENA_MISSING, remote_arena, remote_arena_find,
)
from rfp.store.layout cimport (
    KV_EXPIRY_SHIFT, KV_LAYOUT_VERSION, KV_LINE, KV_MAX_LINES, KV_MAX_SEALED, KV_PARTITION_MAGIC,
    KV_SLOTS, KV_STATE_KEY, kv_bucket, kv_mask, kv_overflow, kv_partition_header, kv_record,
    kv_key_crc, kv_same, kv_seal_crc, kv_slot_length, kv_slot_link, kv_slot_offset, kv_slot_tag,
    kv_tag, kv_value_crc, kv_value_offset,
)


cdef outcome fetch(bypass *b, client_ring *ring, remote_arena *arena, uint64_t offset,
                   uint64_t length, uint64_t deadline, char **copy) noexcept nogil:
    """READ a part of the partition into the response buffer of the next request, unused now."""
    cdef uint64_t response_offset = client_ring_response_offset(ring, ring.head)
    cdef remote_region *region
    cdef uint64_t at, size
    cdef int place
    if length > ring.slot_size:
        return UNDECIDED
    place = remote_arena_find(arena, offset, length, &region, &at, &size)
    if place == ARENA_MISSING:
        b.missing = offset
        return NOT_ATTACHED
    if place != ARENA_HERE or size < length:
        return UNDECIDED                # outside, or across two chunks
    b.reads += 1
    copy[0] = ring.scratch.base + response_offset
    return client_ring_transfer(ring, READ, ring.scratch, response_offset, region, at, length,
                                deadline)


cdef bint is_record(const char *copy, uint64_t length, uint64_t seed, const char *key,
                    uint32_t key_length) noexcept nogil:
    """Return whether these bytes are a whole record of this key that never expires."""
    cdef const kv_record *record = <const kv_record *> copy
    cdef uint64_t value = kv_value_offset(key_length)
    cdef uint32_t crc
    if length < value or (record.state & KV_STATE_KEY) != key_length or \
            record.value_length > length - value:
        return False
    if record.value_length > KV_MAX_SEALED or record.state >> KV_EXPIRY_SHIFT:
        return False
    if not kv_same(copy + sizeof(kv_record), key, key_length):
        return False
    crc = kv_key_crc(seed, key, key_length)
    crc = kv_value_crc(crc, copy + value, record.value_length)
    return kv_seal_crc(crc, key_length, record.value_length, record.version) == record.crc


cdef outcome bypass_get(bypass *b, client_ring *ring, remote_arena *arena,
                        const char *key, uint32_t key_length, uint64_t hash, uint64_t seed,
                        uint64_t deadline, const char **value, uint32_t *value_length,
                        uint64_t *version) noexcept nogil:
    """READ the partition header (once, and again after a miss), the bucket, the record.

    For most GETs these are two READs.
    """
    cdef uint64_t line[8]
    cdef uint64_t buckets, offset, length, where
    cdef uint64_t tag = kv_tag(hash)
    cdef const kv_partition_header *header
    cdef const kv_record *record
    cdef char *copy
    cdef int lines, i
    cdef outcome result
    # The response buffer is unused only if no request is in flight: abandoned ones must end first.
    if ring.count:
        return UNDECIDED
    b.walks += 1
    if b.buckets == 0:
        result = fetch(b, ring, arena, 0, sizeof(kv_partition_header), deadline, &copy)
        if result != DONE:
            return result
        header = <const kv_partition_header *> copy
        if header.magic != KV_PARTITION_MAGIC or header.version != KV_LAYOUT_VERSION or \
                header.length > arena.length:
            return UNDECIDED
        b.buckets = header.buckets
    buckets = b.buckets
    if buckets == 0 or buckets > arena.length // KV_LINE:
        b.buckets = 0
        return UNDECIDED
    # The table grows down from the end of the region: bucket b is 64 * (b + 1) bytes before it.
    where = arena.length - KV_LINE * (kv_bucket(hash, buckets, kv_mask(buckets)) + 1)
    for lines in range(KV_MAX_LINES + 1):
        result = fetch(b, ring, arena, where, KV_SLOTS * 8, deadline, &copy)
        if result != DONE:
            return result
        memcpy(line, copy, sizeof(line))
        for i in range(KV_SLOTS):
            if kv_slot_tag(line[i]) != tag:
                continue
            offset, length = kv_slot_offset(line[i]), kv_slot_length(line[i])
            if length == 0 or length > ring.slot_size:
                return UNDECIDED            # too long for a slot: it needs a reference
            result = fetch(b, ring, arena, offset, length, deadline, &copy)
            if result != DONE:
                return result
            if is_record(copy, length, seed, key, key_length):
                record = <const kv_record *> copy
                value[0] = copy + kv_value_offset(key_length)
                value_length[0] = record.value_length
                version[0] = record.version
                b.found += 1
                return DONE
        if not kv_slot_link(line[KV_SLOTS - 1]):
            break
        where = kv_slot_offset(line[KV_SLOTS - 1]) + sizeof(kv_overflow) - KV_SLOTS * 8
    # The key has no value; or the table has grown, or a record has moved during the walk.
    b.buckets = 0
    return UNDECIDED

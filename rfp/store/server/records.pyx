"""The life of records: find, write, enter the index, leave it, free their memory."""

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport (
    RFP_ASSERT, rfp_copy_out, rfp_store32, rfp_store64, rfp_store64_release,
)
from rfp.store.layout cimport (
    KV_BLOCK_ORPHAN, KV_BLOCK_RECORD, KV_EXPIRY_SHIFT, KV_MAX_EXPIRY, KV_STATE_KEY, KV_STATE_PIN,
    KV_STATE_PINS, KV_STATE_REFERENCED, kv_record, kv_record_size, kv_seal_crc, kv_slot_offset,
)
from rfp.store.messages cimport KV_C_EVICTIONS, KV_C_EXPIRATIONS, KV_C_VALUE_BYTES, KV_MAX_KEY
from rfp.store.server.arena cimport arena_become, arena_free, arena_kind, arena_size
from rfp.store.server.index cimport (
    index_find, index_hash, index_remove, index_slot, record_invalidate,
)


cdef uint64_t *record_find(partition *p, uint64_t hash, const char *key,
                           uint32_t key_length) noexcept nogil:
    cdef uint64_t *slot = index_find(&p.index, hash, key, key_length)
    RFP_ASSERT(key_length <= KV_MAX_KEY)
    if slot != NULL and record_expired(p, record_at(p, kv_slot_offset(slot[0]))):
        p.counters[KV_C_EXPIRATIONS] += 1
        record_remove(p, hash, slot)
        return NULL
    return slot


cdef void record_begin(partition *p, uint64_t block, const char *key, uint32_t key_length,
                       uint32_t value_length, uint64_t expiry, bint replaces) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    cdef uint64_t hand = p.memory.cursors[0]
    # An overwrite counts as a use.  A new record ahead of the clock hand is marked too, so that it
    # gets the same lifetime as one behind the hand.
    cdef bint referenced = replaces or block >= hand > p.memory.start
    RFP_ASSERT(key_length <= KV_MAX_KEY)
    RFP_ASSERT(expiry <= KV_MAX_EXPIRY)
    RFP_ASSERT(kv_record_size(key_length, value_length) <= arena_size(&p.memory, block))
    record_invalidate(record)
    rfp_store32(&record.value_length, value_length)
    rfp_store64(&record.state,
                expiry << KV_EXPIRY_SHIFT | (KV_STATE_REFERENCED if referenced else 0) | key_length)
    rfp_copy_out(record + 1, key, key_length)


cdef void record_seal(partition *p, uint64_t block, uint32_t crc) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    RFP_ASSERT(p.version != 0)
    RFP_ASSERT(record.version == 0)
    rfp_store32(&record.crc, kv_seal_crc(crc, record.state & KV_STATE_KEY, record.value_length,
                                         p.version))
    p.version += 1


cdef void record_entered(partition *p, uint64_t block, uint64_t version) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    cdef uint64_t expiry = record.state >> KV_EXPIRY_SHIFT
    RFP_ASSERT(arena_kind(&p.memory, block) == KV_BLOCK_RECORD)
    rfp_store64_release(&record.version, version)
    p.counters[KV_C_VALUE_BYTES] += record.value_length
    if expiry:
        p.expiring += 1
        p.soonest = min(p.soonest, expiry)
        p.upcoming = min(p.upcoming, expiry)


cdef void record_left(partition *p, uint64_t block) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    RFP_ASSERT(arena_kind(&p.memory, block) == KV_BLOCK_RECORD)
    RFP_ASSERT(record.version == 0)
    RFP_ASSERT(p.counters[KV_C_VALUE_BYTES] >= record.value_length)
    p.counters[KV_C_VALUE_BYTES] -= record.value_length
    if record.state >> KV_EXPIRY_SHIFT:
        RFP_ASSERT(p.expiring > 0)
        p.expiring -= 1
    if record.state & KV_STATE_PINS:
        arena_become(&p.memory, block, KV_BLOCK_ORPHAN)
    else:
        arena_free(&p.memory, block)


cdef void record_remove(partition *p, uint64_t hash, uint64_t *slot) noexcept nogil:
    cdef uint64_t block = kv_slot_offset(slot[0])
    RFP_ASSERT(block != 0)
    record_invalidate(record_at(p, block))
    index_remove(&p.index, hash, slot)
    record_left(p, block)


cdef void record_evict(partition *p, uint64_t block) noexcept nogil:
    cdef uint64_t hash = index_hash(&p.index, record_at(p, block))
    RFP_ASSERT(arena_kind(&p.memory, block) == KV_BLOCK_RECORD)
    p.counters[KV_C_EXPIRATIONS if record_expired(p, record_at(p, block)) else KV_C_EVICTIONS] += 1
    record_remove(p, hash, index_slot(&p.index, hash, block))


cdef void record_unpin(partition *p, uint64_t block) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    RFP_ASSERT((record.state & KV_STATE_PINS) != 0)
    rfp_store64(&record.state, record.state - KV_STATE_PIN)
    if not record.state & KV_STATE_PINS and arena_kind(&p.memory, block) == KV_BLOCK_ORPHAN:
        arena_free(&p.memory, block)


cdef uint64_t expiry_of(partition *p, uint64_t ttl) noexcept nogil:
    if not ttl:
        return 0
    if ttl >= KV_MAX_EXPIRY:
        return KV_MAX_EXPIRY
    # Rounded up, and the worker's clock may be 1 ms old: no value expires early.
    return min(<uint64_t> KV_MAX_EXPIRY, (p.now + 1999999) // 1000000 + ttl)

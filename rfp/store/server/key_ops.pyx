"""The operations on one key: get, put, delete, increment, touch; and how the index grows after a
put."""

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport (
    rfp_copy_out, rfp_store64, rfp_store64_release,
)
from rfp.store.layout cimport (
    KV_BLOCK_RECORD, KV_BLOCK_RESERVED, KV_COUNTS_REARRANGEMENTS, KV_EVICTS, KV_EXPIRY_SHIFT,
    KV_MAX_SEALED, KV_SLOTS, KV_STATE_KEY, KV_STATE_PINS, KV_STATE_REFERENCED, kv_mask, kv_overflow,
    kv_key_crc, kv_record, kv_record_size, kv_slot, kv_slot_offset, kv_slot_tag, kv_tag,
    kv_value_crc, kv_value_offset,
)
from rfp.store.messages cimport (
    KV_C_DELETES, KV_C_EVICTIONS, KV_C_GETS, KV_C_HITS, KV_C_INCRS, KV_C_MISSES, KV_C_PUTS,
    KV_C_TOUCHES, KV_EXISTS_ALREADY, KV_IF_ABSENT, KV_IF_VERSION, KV_NOT_A_NUMBER, KV_NOT_FOUND,
    KV_OK, KV_OUT_OF_MEMORY, KV_OVERFLOW, KV_PLACE_EVICTS, KV_PLACE_EXPIRES, KV_TOO_LARGE,
    KV_VERSION_MISMATCH, kv_place,
)
from rfp.store.server.arena cimport arena_allocate, arena_become, arena_free, arena_kind, arena_size
from rfp.store.server.eviction cimport eviction_in_chain, eviction_make_room
from rfp.store.server.index cimport (
    INDEX_GRANULE, INDEX_INSERTED, INDEX_LOAD, INDEX_NO_MEMORY, index_insert, index_insert_first,
    index_line, index_move, index_move_first, index_next_line, index_open, index_slot, index_split,
    record_invalidate,
)
from rfp.store.server.records cimport (
    EVICT_BUCKET, EVICT_CLOCK, expiry_of, need_uses, partition, record_at, record_begin,
    record_entered, record_evict, record_find, record_left, record_refer, record_remove,
    record_seal,
)

cdef enum:
    # Of a fixed table: least bytes of the region for each bucket of eight records; the number of
    # buckets is a power of two.
    BYTES_PER_BUCKET = 768
    FIRST_BUCKETS = INDEX_GRANULE
    # Insertions before the index tries to grow again, after a block that it could not move was in
    # its way.
    GROWTH_RETRY_INSERTIONS = 1024
    # Longest record that moves out of the index's way, in bytes; a longer one is evicted, because a
    # move would cost too much.
    MOVED_MAX = 64 << 10
    DIGITS = 20


cdef void partition_open(partition *p, char *base, uint64_t length, uint64_t seed, int policy,
                         uint64_t first_version, uint64_t lease, uint64_t quota,
                         uint64_t max_value) noexcept nogil:
    cdef uint64_t buckets = FIRST_BUCKETS
    memset(p, 0, sizeof(partition))
    p.length = length
    p.seed = seed
    p.policy = policy
    p.version = first_version
    p.lease = lease
    p.quota = quota
    p.max_value = max_value
    p.soonest = <uint64_t> -1
    p.upcoming = <uint64_t> -1
    if policy == EVICT_BUCKET:
        buckets = (kv_mask(length // BYTES_PER_BUCKET + 1) + 1) // 2
    # Strict LRU moves slots at each use: it would count all the time.
    index_open(&p.index, &p.memory, base, length, seed, buckets,
               KV_EVICTS if policy == EVICT_BUCKET else KV_COUNTS_REARRANGEMENTS)
    p.evicts_from = (p.memory.end - p.memory.start) // 4 * 3
    p.view_quota = (p.memory.end - p.memory.start) // 4
    p.process_view_quota = p.view_quota // 2


cdef kv_record *partition_get(partition *p, uint64_t hash, const char *key,
                              uint32_t key_length) noexcept nogil:
    cdef uint64_t *slot = record_find(p, hash, key, key_length)
    cdef kv_record *record
    p.counters[KV_C_GETS] += 1
    if slot == NULL:
        p.counters[KV_C_MISSES] += 1
        return NULL
    p.counters[KV_C_HITS] += 1
    record = record_at(p, kv_slot_offset(slot[0]))
    if p.policy == EVICT_CLOCK:
        record_refer(record)
    elif p.policy == EVICT_BUCKET:
        index_move_first(&p.index, hash, slot)
    return record


cdef uint32_t partition_place(partition *p, uint64_t hash, const kv_record *record, char *payload,
                              uint32_t length, uint32_t capacity) noexcept nogil:
    cdef uint64_t size = kv_record_size(record.state & KV_STATE_KEY, record.value_length)
    cdef kv_place place
    if record.value_length > KV_MAX_SEALED or capacity - length < sizeof(kv_place):
        return 0
    place.slot = kv_slot(kv_tag(hash), <const char *> record - p.memory.base, size)
    place.flags = KV_PLACE_EXPIRES if record.state >> KV_EXPIRY_SHIFT else 0
    if p.index.header.flags & KV_EVICTS:
        place.flags |= KV_PLACE_EVICTS
    place.unused = 0
    rfp_copy_out(payload + length, &place, sizeof(kv_place))
    return sizeof(kv_place)


cdef void partition_refer(partition *p, uint64_t hash, uint64_t slot) noexcept nogil:
    # Whatever the client sent: only a word that the bucket contains now is followed.
    cdef uint64_t *line = index_line(&p.index, hash)
    cdef int i
    if not kv_slot_tag(slot):
        return
    while line != NULL:
        for i in range(KV_SLOTS):
            if line[i] == slot:
                if p.policy == EVICT_CLOCK:
                    record_refer(record_at(p, kv_slot_offset(slot)))
                elif p.policy == EVICT_BUCKET:
                    index_move_first(&p.index, hash, line + i)
                return
        line = index_next_line(&p.index, line)


# Putting


cdef uint8_t put_condition(partition *p, uint64_t *slot, uint32_t flags, uint64_t expected,
                           uint64_t *version) noexcept nogil:
    version[0] = record_at(p, kv_slot_offset(slot[0])).version if slot != NULL else 0
    if flags & KV_IF_ABSENT and slot != NULL:
        return KV_EXISTS_ALREADY
    if flags & KV_IF_VERSION and (slot == NULL or version[0] != expected):
        return KV_VERSION_MISMATCH
    return KV_OK


cdef bint clear(partition *p, uint64_t obstacle) noexcept nogil:
    """Moves the record at the end of the arena out of the way; evicts records that the clock finds
    colder to make room for it."""
    cdef kv_record *record = record_at(p, obstacle)
    cdef uint64_t size = arena_size(&p.memory, obstacle), block = 0
    if p.policy != EVICT_CLOCK or arena_kind(&p.memory, obstacle) != KV_BLOCK_RECORD \
            or record.state & KV_STATE_PINS:
        return False
    if size <= MOVED_MAX:
        block = eviction_make_room(p, 0, size, obstacle)
    if block:
        index_move(&p.index, obstacle, block)
    else:
        record_evict(p, obstacle)
    return True


cdef void grow_index(partition *p) noexcept nogil:
    """Adds buckets for the records that came in, and evicts records if there is no other memory."""
    cdef uint64_t obstacle = 0
    cdef int _
    if p.growth_retry_in:
        p.growth_retry_in -= 1
        return
    for _ in range(2 * INDEX_GRANULE):
        if 2 * p.index.records <= INDEX_LOAD * p.index.buckets:
            return
        if not index_split(&p.index, &obstacle) and not (obstacle and clear(p, obstacle)):
            break
    p.growth_retry_in = GROWTH_RETRY_INSERTIONS


cdef bint insert(partition *p, uint64_t hash, uint64_t entry) noexcept nogil:
    """Puts a new record into the index; evicts another if necessary."""
    cdef uint64_t *last
    cdef uint64_t line
    cdef int found
    if p.policy == EVICT_BUCKET:
        last = index_line(&p.index, hash) + KV_SLOTS - 1
        if last[0]:
            record_remove(p, hash, last)
            p.counters[KV_C_EVICTIONS] += 1
        index_insert_first(&p.index, hash, entry)
        return True
    found = index_insert(&p.index, hash, entry)
    if found == INDEX_NO_MEMORY:
        line = eviction_make_room(p, hash, sizeof(kv_overflow), 0)
        if line:
            arena_free(&p.memory, line)
            found = index_insert(&p.index, hash, entry)
    return found == INDEX_INSERTED or eviction_in_chain(p, hash, entry)


cdef uint8_t publish(partition *p, uint64_t hash, uint64_t *slot, uint64_t block, uint32_t crc,
                     uint64_t *version) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    cdef uint64_t entry = kv_slot(kv_tag(hash), block,
                                  kv_record_size(record.state & KV_STATE_KEY, record.value_length))
    cdef uint64_t old
    version[0] = p.version
    record_seal(p, block, crc)
    if slot != NULL:
        old = kv_slot_offset(slot[0])
        record_invalidate(record_at(p, old))
        rfp_store64_release(slot, entry)
        if p.policy == EVICT_BUCKET:
            index_move_first(&p.index, hash, slot)
        record_left(p, old)
    elif not insert(p, hash, entry):
        # The version is used up: a READ of this place may have brought a part of the record, and
        # the rest of another one with the same version would prove it.
        arena_free(&p.memory, block)
        version[0] = 0
        return KV_OUT_OF_MEMORY
    # Before this point a sweep must not find it.
    arena_become(&p.memory, block, KV_BLOCK_RECORD)
    record_entered(p, block, version[0])
    if p.memory.used > p.evicts_from:
        need_uses(p)           # a while before the first eviction
    if p.policy != EVICT_BUCKET and slot == NULL:
        grow_index(p)
    return KV_OK


cdef uint8_t replace(partition *p, uint64_t hash, uint64_t *slot, const char *key,
                     uint32_t key_length, const char *value, uint32_t value_length, uint64_t expiry,
                     uint64_t *version) noexcept nogil:
    """Stores a new record instead of the content of `slot` (or NULL), which stays if there is no
    room."""
    cdef uint64_t size = kv_record_size(key_length, value_length)
    cdef uint64_t old = kv_slot_offset(slot[0]) if slot != NULL else 0
    cdef uint64_t block = arena_allocate(&p.memory, size, KV_BLOCK_RESERVED)
    if not block:
        block = eviction_make_room(p, hash, size, old)
        if not block:
            return KV_OUT_OF_MEMORY
        if slot != NULL:       # eviction may have changed its chain
            slot = index_slot(&p.index, hash, old)
    record_begin(p, block, key, key_length, value_length, expiry, slot != NULL)
    rfp_copy_out(p.memory.base + block + kv_value_offset(key_length), value, value_length)
    return publish(p, hash, slot, block,
                   kv_value_crc(kv_key_crc(p.seed, key, key_length), value,
                                value_length), version)


cdef uint8_t partition_put(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                           const char *value, uint32_t value_length, uint64_t ttl, uint32_t flags,
                           uint64_t expected, uint64_t *version) noexcept nogil:
    cdef uint64_t *slot
    cdef uint8_t status
    version[0] = 0
    if value_length > p.max_value:
        return KV_TOO_LARGE
    slot = record_find(p, hash, key, key_length)
    status = put_condition(p, slot, flags, expected, version)
    if status == KV_OK:
        status = replace(p, hash, slot, key, key_length, value, value_length, expiry_of(p, ttl),
                         version)
    if status == KV_OK:
        p.counters[KV_C_PUTS] += 1
    return status


cdef uint8_t partition_delete(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                              uint64_t *version) noexcept nogil:
    cdef uint64_t *slot = record_find(p, hash, key, key_length)
    version[0] = 0
    if slot == NULL:
        return KV_NOT_FOUND
    version[0] = record_at(p, kv_slot_offset(slot[0])).version
    record_remove(p, hash, slot)
    p.counters[KV_C_DELETES] += 1
    return KV_OK


cdef uint8_t partition_touch(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                             uint64_t ttl, uint64_t *version) noexcept nogil:
    cdef uint64_t *slot = record_find(p, hash, key, key_length)
    cdef uint64_t expiry = expiry_of(p, ttl), state
    cdef kv_record *record
    version[0] = 0
    if slot == NULL:
        return KV_NOT_FOUND
    record = record_at(p, kv_slot_offset(slot[0]))
    version[0] = record.version
    state = record.state
    p.expiring += (expiry != 0) - (state >> KV_EXPIRY_SHIFT != 0)
    if expiry:
        p.soonest = min(p.soonest, expiry)
        p.upcoming = min(p.upcoming, expiry)
    state &= (<uint64_t> 1 << KV_EXPIRY_SHIFT) - 1
    state |= expiry << KV_EXPIRY_SHIFT | KV_STATE_REFERENCED
    rfp_store64(&record.state, state)
    if p.policy == EVICT_BUCKET:
        index_move_first(&p.index, hash, slot)
    p.counters[KV_C_TOUCHES] += 1
    return KV_OK


# Numbers: decimal, an optional '-', nothing else


cdef uint8_t read_number(const char *text, uint32_t length, int64_t *number) noexcept nogil:
    cdef bint negative = length > 0 and text[0] == c'-'
    cdef uint32_t i = 1 if negative else 0
    cdef int64_t value = 0
    if i == length or length > DIGITS:
        return KV_NOT_A_NUMBER
    while i < length:
        if text[i] < c'0' or text[i] > c'9':
            return KV_NOT_A_NUMBER
        # Collected as a negative number, because there is one more of these.
        if value < (INT64_MIN + (text[i] - c'0')) / 10:
            return KV_NOT_A_NUMBER
        value = value * 10 - (text[i] - c'0')
        i += 1
    if not negative:
        if value == INT64_MIN:
            return KV_NOT_A_NUMBER
        value = -value
    number[0] = value
    return KV_OK


cdef uint32_t write_number(int64_t number, char *text) noexcept nogil:
    """Writes the digits; returns their number, at most DIGITS."""
    cdef char[DIGITS] digits
    cdef uint64_t rest = <uint64_t> number
    cdef uint32_t n = 0, length = 0
    if number < 0:
        rest = 0 - rest
        text[0] = c'-'
        length = 1
    while True:
        digits[n] = <char> (c'0' + rest % 10)
        rest //= 10
        n += 1
        if not rest:
            break
    while n:
        n -= 1
        text[length] = digits[n]
        length += 1
    return length


cdef uint8_t partition_incr(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                            int64_t delta, int64_t *total, uint64_t *version) noexcept nogil:
    cdef uint64_t *slot = record_find(p, hash, key, key_length)
    cdef uint64_t expiry = 0
    cdef kv_record *record
    cdef int64_t number = 0
    cdef char[DIGITS] text
    cdef uint8_t status
    version[0] = 0
    if slot != NULL:
        record = record_at(p, kv_slot_offset(slot[0]))
        version[0] = record.version
        expiry = record.state >> KV_EXPIRY_SHIFT
        status = read_number(<char *> record + kv_value_offset(key_length), record.value_length,
                             &number)
        if status != KV_OK:
            return status
    if (number > INT64_MAX - delta) if delta > 0 else (number < INT64_MIN - delta):
        return KV_OVERFLOW
    total[0] = number + delta
    status = replace(p, hash, slot, key, key_length, text, write_number(total[0], text), expiry,
                     version)
    if status == KV_OK:
        p.counters[KV_C_INCRS] += 1
    return status

# The operations on one key.  Each returns a kv_status; hash is that of the key.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from rfp.store.layout cimport kv_record
from rfp.store.messages cimport kv_place, kv_range
from rfp.store.server.records cimport partition

cdef void partition_open(partition *p, char *base, uint64_t length, uint64_t seed, int policy,
                         uint64_t first_version, uint64_t lease, uint64_t quota,
                         uint64_t max_value) noexcept nogil
# Returns the record, not expired and marked as used, or NULL.
cdef kv_record *partition_get(partition *p, uint64_t hash, const char *key,
                              uint32_t key_length) noexcept nogil
# Copies the place of a record behind `length` bytes of a response, if there is room and the CRC
# covers the value.  Returns the bytes added: 0, or sizeof(kv_place).
cdef uint32_t partition_place(partition *p, uint64_t hash, const kv_record *record, char *payload,
                              uint32_t length, uint32_t capacity) noexcept nogil
# Marks the record of a slot word as used if the index contains exactly this word now.
cdef void partition_refer(partition *p, uint64_t hash, uint64_t slot) noexcept nogil
cdef uint8_t partition_put(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                           const char *value, uint32_t value_length, uint64_t ttl, uint32_t flags,
                           uint64_t expected, uint64_t *version) noexcept nogil
cdef uint8_t partition_delete(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                              uint64_t *version) noexcept nogil
cdef uint8_t partition_incr(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                            int64_t delta, int64_t *total, uint64_t *version) noexcept nogil
cdef uint8_t partition_touch(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                             uint64_t ttl, uint64_t *version) noexcept nogil
# Returns KV_OK if a put with these flags applies to the content of `slot` (or NULL); else *version
# is the version found there.
cdef uint8_t put_condition(partition *p, uint64_t *slot, uint32_t flags, uint64_t expected,
                           uint64_t *version) noexcept nogil
# Completes a record and makes it visible, instead of the content of `slot` (or NULL).  crc: of key
# and value.  Frees the record on failure.
cdef uint8_t publish(partition *p, uint64_t hash, uint64_t *slot, uint64_t block, uint32_t crc,
                     uint64_t *version) noexcept nogil

# Cuts a range, which a client chose, at the end of a value.
cdef inline void clip_range(kv_range *part, uint32_t value_length) noexcept nogil:
    part.offset = min(part.offset, <uint64_t> value_length)
    part.length = min(part.length, value_length - part.offset)

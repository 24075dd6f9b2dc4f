# What can be done with one key.  Each returns a kv_status; hash is of the key.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from rfp.store.layout cimport kv_record
from rfp.store.server.records cimport partition

cdef void partition_open(partition *p, char *base, uint64_t length, uint64_t seed, int policy, uint64_t first_version,
                         uint64_t lease, uint64_t quota, uint64_t max_value) noexcept nogil
# The record, alive and marked as used, or NULL.
cdef kv_record *partition_get(partition *p, uint64_t hash, const char *key, uint32_t key_length) noexcept nogil
cdef uint8_t partition_put(partition *p, uint64_t hash, const char *key, uint32_t key_length, const char *value,
                           uint32_t value_length, uint64_t ttl, uint32_t flags, uint64_t expected,
                           uint64_t *version) noexcept nogil
cdef uint8_t partition_delete(partition *p, uint64_t hash, const char *key, uint32_t key_length,
                              uint64_t *version) noexcept nogil
cdef uint8_t partition_incr(partition *p, uint64_t hash, const char *key, uint32_t key_length, int64_t delta, int64_t *total,
                            uint64_t *version) noexcept nogil
cdef uint8_t partition_touch(partition *p, uint64_t hash, const char *key, uint32_t key_length, uint64_t ttl,
                             uint64_t *version) noexcept nogil
# Whether a put with these flags applies to what `slot` (or NULL) holds; if not, *version says what stands there.
cdef uint8_t put_condition(partition *p, uint64_t *slot, uint32_t flags, uint64_t expected, uint64_t *version) noexcept nogil
# Makes a record whole and visible, instead of what `slot` (or NULL) holds.  crc: of key and value.  Frees it if it cannot.
cdef uint8_t publish(partition *p, uint64_t hash, uint64_t *slot, uint64_t block, uint32_t crc, uint64_t *version) noexcept nogil

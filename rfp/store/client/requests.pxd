# Requests to the store, without the GIL and without Python objects: for the client and for the
# benchmark's loop.
#
# A key belongs to one worker; each worker has its own ring.  kv_submit_* build a request in the
# ring's next slot, and return False if all slots are taken (or the connection is lost: ring.lost);
# client_ring_flush posts them.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from rfp.protocol.client.channel cimport channel
from rfp.protocol.client.client_ring cimport client_ring

cdef uint32_t kv_worker(uint64_t hash, uint32_t workers) noexcept nogil
cdef bint kv_submit(client_ring *ring, uint8_t opcode, const char *key, uint32_t key_length,
                    uint64_t tag) noexcept nogil
# KV_GET; place: the response names the record's place.
cdef bint kv_submit_get(client_ring *ring, bint place, const char *key, uint32_t key_length,
                        uint64_t tag) noexcept nogil
cdef bint kv_submit_number(client_ring *ring, uint8_t opcode, uint64_t number, const char *key,
                           uint32_t key_length, uint64_t tag) noexcept nogil
cdef bint kv_submit_range(client_ring *ring, uint64_t offset, uint64_t length, const char *key,
                          uint32_t key_length, uint64_t tag) noexcept nogil
cdef bint kv_submit_scan(client_ring *ring, uint8_t opcode, uint64_t position, uint64_t version,
                         uint64_t limit, const char *prefix, uint32_t prefix_length,
                         uint64_t tag) noexcept nogil
cdef uint32_t kv_inline_limit(client_ring *ring, uint32_t key_length) noexcept nogil
cdef bint kv_submit_put(client_ring *ring, uint8_t opcode, uint32_t flags,
                        const char *key, uint32_t key_length,
                        const char *value, uint32_t value_length,
                        uint64_t ttl, uint64_t version, uint64_t tag) noexcept nogil
cdef bint kv_submit_piece(client_ring *ring, uint32_t flags, uint64_t upload, uint64_t offset,
                          uint32_t length, uint32_t crc, uint64_t staging,
                          uint64_t tag) noexcept nogil

"""Requests to the store, built in a ring without Python objects."""

from libc.string cimport memcpy

from rfp.protocol.client.client_ring cimport client_ring_payload, client_ring_submit
from rfp.protocol.wire cimport RFP_REQUEST_HEADER
from rfp.store.messages cimport (
    KV_GET, KV_GET_RANGE, KV_NAME_PLACE, KV_PUT, KV_PUT_PIECE, kv_number, kv_piece, kv_put,
    kv_range, kv_scan,
)


cdef uint32_t kv_worker(uint64_t hash, uint32_t workers) noexcept nogil:
    """Return the worker of a hash: its low 16 bits, scaled (the index uses the others)."""
    return <uint32_t> (((hash & 0xffff) * workers) >> 16)


cdef bint kv_submit(client_ring *ring, uint8_t opcode, const char *key, uint32_t key_length,
                    uint64_t tag) noexcept nogil:
    """Build a request whose payload is a key, or empty."""
    cdef char *payload = client_ring_payload(ring)
    if payload == NULL:
        return False
    memcpy(payload, key, key_length)
    client_ring_submit(ring, opcode, 0, 0, key_length, tag)
    return True


cdef bint kv_submit_get(client_ring *ring, bint place, const char *key, uint32_t key_length,
                        uint64_t tag) noexcept nogil:
    """Build KV_GET."""
    cdef char *payload = client_ring_payload(ring)
    if payload == NULL:
        return False
    memcpy(payload, key, key_length)
    client_ring_submit(ring, KV_GET, 0, KV_NAME_PLACE if place else 0, key_length, tag)
    return True


cdef bint kv_submit_number(client_ring *ring, uint8_t opcode, uint64_t number, const char *key,
                           uint32_t key_length, uint64_t tag) noexcept nogil:
    """Build a request whose payload is a number and a key."""
    cdef char *payload = client_ring_payload(ring)
    if payload == NULL:
        return False
    (<kv_number *> payload).number = number
    memcpy(payload + sizeof(kv_number), key, key_length)
    client_ring_submit(ring, opcode, 0, 0, sizeof(kv_number) + key_length, tag)
    return True


cdef bint kv_submit_range(client_ring *ring, uint64_t offset, uint64_t length, const char *key,
                          uint32_t key_length, uint64_t tag) noexcept nogil:
    """Build KV_GET_RANGE."""
    cdef char *payload = client_ring_payload(ring)
    cdef kv_range *part = <kv_range *> payload
    if payload == NULL:
        return False
    part.offset = offset
    part.length = length
    memcpy(payload + sizeof(kv_range), key, key_length)
    client_ring_submit(ring, KV_GET_RANGE, 0, 0, sizeof(kv_range) + key_length, tag)
    return True


cdef bint kv_submit_scan(client_ring *ring, uint8_t opcode, uint64_t position, uint64_t version,
                         uint64_t limit, const char *prefix, uint32_t prefix_length,
                         uint64_t tag) noexcept nogil:
    """Build KV_SCAN or KV_CLEAR."""
    cdef char *payload = client_ring_payload(ring)
    cdef kv_scan *scan = <kv_scan *> payload
    if payload == NULL:
        return False
    scan.position = position
    scan.version = version
    scan.limit = limit
    memcpy(payload + sizeof(kv_scan), prefix, prefix_length)
    client_ring_submit(ring, opcode, 0, 0, sizeof(kv_scan) + prefix_length, tag)
    return True


cdef uint32_t kv_inline_limit(client_ring *ring, uint32_t key_length) noexcept nogil:
    """Return the length of the longest value that fits into a slot with a key of this length."""
    return ring.slot_size - RFP_REQUEST_HEADER - sizeof(kv_put) - key_length


cdef bint kv_submit_put(client_ring *ring, uint8_t opcode, uint32_t flags,
                        const char *key, uint32_t key_length,
                        const char *value, uint32_t value_length,
                        uint64_t ttl, uint64_t version, uint64_t tag) noexcept nogil:
    """Build KV_PUT with its value, or KV_PUT_BEGIN, which only announces one."""
    cdef char *payload = client_ring_payload(ring)
    cdef kv_put *put = <kv_put *> payload
    cdef uint32_t length = sizeof(kv_put) + key_length
    if payload == NULL:
        return False
    put.key_length = key_length
    put.value_length = value_length
    put.ttl = ttl
    put.version = version
    memcpy(payload + sizeof(kv_put), key, key_length)
    if opcode == KV_PUT:
        memcpy(payload + length, value, value_length)
        length += value_length
    client_ring_submit(ring, opcode, 0, flags, length, tag)
    return True


cdef bint kv_submit_piece(client_ring *ring, uint32_t flags, uint64_t upload, uint64_t offset,
                          uint32_t length, uint32_t crc, uint64_t staging,
                          uint64_t tag) noexcept nogil:
    """Build KV_PUT_PIECE, whose bytes are in the staging region already."""
    cdef kv_piece *piece = <kv_piece *> client_ring_payload(ring)
    if piece == NULL:
        return False
    piece.upload = upload
    piece.offset = offset
    piece.length = length
    piece.crc = crc
    piece.staging = staging
    client_ring_submit(ring, KV_PUT_PIECE, 0, flags, sizeof(kv_piece), tag)
    return True

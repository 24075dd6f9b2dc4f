"""Uploads: begin with room for the value, copy and check pieces, publish the record; abort and
time-outs."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from rfp.core.core cimport rfp_copy_in, rfp_crc32c
from rfp.protocol.server.service cimport service_session
from rfp.store.layout cimport (
    KV_BLOCK_RESERVED, KV_MAX_SEALED, kv_key_crc, kv_record_size, kv_slot_offset, kv_value_offset,
)
from rfp.store.messages cimport (
    KV_BAD_REQUEST, KV_C_BYTES_RESERVED, KV_C_PUTS, KV_C_UPLOADS, KV_DEFERRED, KV_MAX_PIECE, KV_OK,
    KV_OUT_OF_MEMORY, KV_PIECE_CRC, KV_QUOTA, KV_TOO_LARGE, KV_UNKNOWN_UPLOAD, kv_piece, kv_put,
)
from rfp.store.server.arena cimport arena_allocate
from rfp.store.server.eviction cimport (
    EVICTION_DONE, EVICTION_IMPOSSIBLE, eviction_abandon, eviction_sweep,
)
from rfp.store.server.key_ops cimport publish, put_condition
from rfp.store.server.records cimport (
    EVICT_NOTHING, MAX_UPLOADS, expiry_of, list_append, list_unlink, partition, record_begin,
    record_find, session_resources, upload,
)
from rfp.store.server.views cimport views_reap

cdef enum:
    # Blocks that one request visits to make room: less than a millisecond.
    SWEEP_SLICE = 4096
    # Bytes copied and checksummed at a time: the copy is still in the L1 cache when its CRC is
    # computed.
    CHUNK_BYTES = 12288

cdef uint64_t STALLED = 30 * 1000000000     # ns without a piece
cdef uint64_t QUIET = 2 * 1000000000        # the same if another upload needs the room


cdef void enlist(partition *p, upload *u) noexcept nogil:
    """Adds it to the partition's list, which has the oldest last piece first."""
    u.touched = p.now
    list_append(&p.uploads, &u.links)


cdef void touch(partition *p, upload *u) noexcept nogil:
    list_unlink(&p.uploads, &u.links)
    enlist(p, u)


cdef void finish(partition *p, upload *u) noexcept nogil:
    """Ends the upload and frees the memory that it still holds."""
    eviction_abandon(p, &u.place)
    list_unlink(&p.uploads, &u.links)
    u.id = 0
    u.owner.bytes -= u.place.size
    u.owner.account.uploading -= u.place.size
    p.counters[KV_C_UPLOADS] -= 1
    p.counters[KV_C_BYTES_RESERVED] -= u.place.size


cdef upload *find(session_resources *h, uint64_t id) noexcept nogil:
    if h == NULL or not id or h.uploads[id % MAX_UPLOADS].id != id:
        return NULL
    return &h.uploads[id % MAX_UPLOADS]


cdef upload *start(partition *p, session_resources *h, uint64_t hash, const kv_put *put,
                   const char *key, uint32_t flags) noexcept nogil:
    """Returns a new upload, or NULL if the session has its maximum."""
    cdef upload *u
    cdef int i
    for i in range(MAX_UPLOADS):
        u = &h.uploads[i]
        if not u.id:
            break
    else:
        return NULL
    p.serial += 1
    u.id = p.serial * MAX_UPLOADS + i
    u.owner = h
    u.place.size = kv_record_size(put.key_length, put.value_length)
    u.place.scanned = 0
    u.place.block = arena_allocate(&p.memory, u.place.size, KV_BLOCK_RESERVED)
    u.ready = u.place.block != 0
    u.hash = hash
    u.flags = flags
    u.put = put[0]
    u.received = 0
    u.crc = kv_key_crc(p.seed, key, put.key_length)
    memcpy(u.key, key, put.key_length)
    h.bytes += u.place.size
    h.account.uploading += u.place.size
    p.counters[KV_C_UPLOADS] += 1
    p.counters[KV_C_BYTES_RESERVED] += u.place.size
    enlist(p, u)
    return u


cdef upload *find_unready(session_resources *h, const kv_put *put, const char *key,
                          uint32_t flags) noexcept nogil:
    """Returns the upload that this same request began and that still has no room, or NULL."""
    cdef upload *u
    cdef int i
    for i in range(MAX_UPLOADS):
        u = &h.uploads[i]
        if u.id and not u.ready and u.flags == flags and not memcmp(&u.put, put, sizeof(kv_put)) \
                and not memcmp(u.key, key, put.key_length):
            return u
    return NULL


cdef bint take_quiet(partition *p, upload *u) noexcept nogil:
    """Ends the upload with the oldest last piece, if `u` finds no room; returns False if none is
    quiet for long enough."""
    cdef upload *quiet = <upload *> p.uploads.first
    if quiet == NULL or quiet == u or p.now - quiet.touched <= QUIET:
        return False
    finish(p, quiet)
    u.place.scanned = 0
    u.place.block = arena_allocate(&p.memory, u.place.size, KV_BLOCK_RESERVED)
    u.ready = u.place.block != 0
    return True


cdef uint8_t upload_begin(partition *p, session_resources *h, uint64_t hash, const kv_put *put,
                          const char *key, uint32_t flags, uint64_t *result) noexcept nogil:
    cdef uint64_t *slot = record_find(p, hash, key, put.key_length)
    cdef uint64_t size = kv_record_size(put.key_length, put.value_length)
    cdef upload *u = find_unready(h, put, key, flags) if h != NULL else NULL
    cdef uint8_t status = put_condition(p, slot, flags, put.version, result)
    cdef int made
    if put.value_length > p.max_value:
        result[0] = 0
        status = KV_TOO_LARGE
    if status != KV_OK:
        if u != NULL:
            finish(p, u)
        return status
    result[0] = 0
    if u == NULL:
        if size > p.memory.end - p.memory.start:
            return KV_OUT_OF_MEMORY
        if h == NULL or size > p.quota - h.bytes:
            return KV_QUOTA
        if size > p.quota - h.account.uploading:
            # The client is uploading as much in its other sessions, and sends the request again
            # until one of them is done.
            return KV_DEFERRED
        u = start(p, h, hash, put, key, flags)
        if u == NULL:
            return KV_QUOTA
    else:
        touch(p, u)
    if not u.ready:
        # The old value stays until the new one is complete.
        u.place.exempt = kv_slot_offset(slot[0]) if slot != NULL else 0
        made = EVICTION_IMPOSSIBLE
        if p.policy != EVICT_NOTHING:
            made = eviction_sweep(p, &u.place, SWEEP_SLICE)
        if made == EVICTION_IMPOSSIBLE and views_reap(p, True):
            u.place.scanned = 0
            u.place.block = arena_allocate(&p.memory, u.place.size, KV_BLOCK_RESERVED)
            if u.place.block:
                made = EVICTION_DONE
        if made == EVICTION_IMPOSSIBLE:
            if not take_quiet(p, u):
                finish(p, u)
                return KV_OUT_OF_MEMORY
        else:
            u.ready = made == EVICTION_DONE
    result[0] = u.id
    return KV_OK if u.ready else <uint8_t> KV_DEFERRED


cdef uint8_t complete(partition *p, upload *u, uint64_t *version) noexcept nogil:
    cdef uint64_t *slot = record_find(p, u.hash, u.key, u.put.key_length)
    cdef uint64_t block = u.place.block
    cdef uint8_t status = put_condition(p, slot, u.flags, u.put.version, version)
    if status == KV_OK:
        u.place.block = 0      # publish() owns it now
        record_begin(p, block, u.key, u.put.key_length, u.put.value_length, expiry_of(p, u.put.ttl),
                     slot != NULL)
        status = publish(p, u.hash, slot, block, u.crc, version)
    if status == KV_OK:
        p.counters[KV_C_PUTS] += 1
    finish(p, u)
    return status


cdef uint8_t upload_piece(partition *p, service_session *s, const kv_piece *piece, uint32_t flags,
                          uint64_t *version) noexcept nogil:
    cdef upload *u = find(<session_resources *> s.state, piece.upload)
    cdef uint32_t crc, piece_crc = 0, done = 0, n
    cdef const char *source
    cdef char *to
    version[0] = 0
    if u == NULL or not u.ready:
        return KV_UNKNOWN_UPLOAD
    if piece.offset != u.received or piece.length > KV_MAX_PIECE \
            or piece.length > u.put.value_length - u.received:
        return KV_BAD_REQUEST
    if not piece.length and u.put.value_length:
        return KV_BAD_REQUEST
    if piece.length and (s.staging == NULL or piece.length > s.staging_length or
                         piece.staging > s.staging_length - piece.length):
        return KV_BAD_REQUEST
    source = s.staging + piece.staging
    to = p.memory.base + u.place.block + kv_value_offset(u.put.key_length) + u.received
    crc = u.crc
    while done < piece.length:
        n = min(piece.length - done, <uint32_t> CHUNK_BYTES)
        # The checksums are computed from the copy: the client may change its own memory at any
        # time.
        rfp_copy_in(to + done, source + done, n)
        if u.put.value_length <= KV_MAX_SEALED:
            crc = rfp_crc32c(crc, to + done, n)
        if flags & KV_PIECE_CRC:
            piece_crc = rfp_crc32c(piece_crc, to + done, n)
        done += n
    if flags & KV_PIECE_CRC and piece_crc != piece.crc:
        return KV_BAD_REQUEST  # the client may send the same piece again
    touch(p, u)  # only accepted pieces count: refused ones must not prolong an upload
    u.crc = crc
    u.received += piece.length
    return complete(p, u, version) if u.received == u.put.value_length else <uint8_t> KV_OK


cdef uint8_t upload_abort(partition *p, session_resources *h, uint64_t id) noexcept nogil:
    cdef upload *u = find(h, id)
    if not id and h != NULL:
        # For a client that cannot know the number: its KV_PUT_BEGIN is on the way, or it missed the
        # response.
        uploads_close(p, h)
        return KV_OK
    if u == NULL:
        return KV_UNKNOWN_UPLOAD
    finish(p, u)
    return KV_OK


cdef void uploads_close(partition *p, session_resources *h) noexcept nogil:
    cdef int i
    for i in range(MAX_UPLOADS):
        if h.uploads[i].id:
            finish(p, &h.uploads[i])


cdef void uploads_tick(partition *p) noexcept nogil:
    cdef upload *first = <upload *> p.uploads.first
    while first != NULL and p.now - first.touched > STALLED:
        finish(p, first)
        first = <upload *> p.uploads.first

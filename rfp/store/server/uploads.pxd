# Uploads: a value arrives in pieces in a record that is visible only after the last piece.
#
# Room for a long value may cost the eviction of millions of short ones, so it is made in bounded
# steps: KV_PUT_BEGIN returns KV_DEFERRED until there is room, and the same request, sent again,
# continues.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport service_session
from rfp.store.messages cimport kv_piece, kv_put
from rfp.store.server.records cimport partition, session_resources, upload

# A slow upload costs only its own client: the uploads of one client together hold at most the
# quota, and an upload without a piece for 2 s ends if another one needs its room.
#
# Each function returns a kv_status.
cdef uint8_t upload_begin(partition *p, session_resources *h, uint64_t hash, const kv_put *put,
                          const char *key, uint32_t flags, uint64_t *result) noexcept nogil
# The piece is in the session's staging memory, which the client may still be changing.  After the
# last piece *version is set.
cdef uint8_t upload_piece(partition *p, service_session *s, const kv_piece *piece, uint32_t flags,
                          uint64_t *version) noexcept nogil
cdef uint8_t upload_abort(partition *p, session_resources *h, uint64_t id) noexcept nogil
cdef void uploads_close(partition *p, session_resources *h) noexcept nogil
# Frees the uploads whose client has stopped sending.
cdef void uploads_tick(partition *p) noexcept nogil

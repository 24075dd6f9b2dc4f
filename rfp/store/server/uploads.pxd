# Uploads: a value that comes in pieces into a record that nobody sees before the last one.
#
# Room for a long value may cost the eviction of millions of short ones.  So it is made in bounded steps: KV_PUT_BEGIN is answered
# with KV_DEFERRED until there is room, and goes on where it was when it is sent again.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport service_session
from rfp.store.messages cimport kv_piece, kv_put
from rfp.store.server.records cimport partition, session_resources, upload

# An upload that takes its time does so on its own account: those of one client together hold at most the quota, and one that was
# quiet for 2 s goes when another needs its room.
#
# Each returns a kv_status.
cdef uint8_t upload_begin(partition *p, session_resources *h, uint64_t hash, const kv_put *put, const char *key, uint32_t flags,
                          uint64_t *result) noexcept nogil
# The piece stands in the session's staging memory, which the client may still be changing.  After the last one *version is set.
cdef uint8_t upload_piece(partition *p, service_session *s, const kv_piece *piece, uint32_t flags,
                          uint64_t *version) noexcept nogil
cdef uint8_t upload_abort(partition *p, session_resources *h, uint64_t id) noexcept nogil
cdef void uploads_close(partition *p, session_resources *h) noexcept nogil
# Frees those whose client has stopped sending.
cdef void uploads_tick(partition *p) noexcept nogil

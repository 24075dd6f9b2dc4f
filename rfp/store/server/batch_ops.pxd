# Batches: many keys in one request, each with its own result.  A batch is not atomic, but a
# malformed payload changes nothing.

from rfp.protocol.server.service cimport request, response
from rfp.store.server.records cimport partition

# Each sets response.status, length and yield_after.
cdef void batch_get(partition *p, const request *r, response *out) noexcept nogil
cdef void batch_get_ranges(partition *p, const request *r, response *out) noexcept nogil
cdef void batch_exists(partition *p, const request *r, response *out) noexcept nogil
cdef void batch_put(partition *p, const request *r, response *out) noexcept nogil
cdef void batch_delete(partition *p, const request *r, response *out) noexcept nogil

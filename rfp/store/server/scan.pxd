# Scans: all keys, or those with a prefix, in steps of bounded work.  scan.pyx has the proof that no
# key is missed.

from rfp.protocol.server.service cimport request, response
from rfp.store.server.records cimport partition

# One step of a scan, and of a scan that deletes the keys it finds.  Each sets response.status,
# length, result and yield_after.
cdef void scan_keys(partition *p, const request *r, response *out) noexcept nogil
cdef void scan_delete(partition *p, const request *r, response *out) noexcept nogil

# The versions of multi-version structures: the oldest one that a session uses; all at one moment.

from rfp.protocol.server.service cimport request, response
from rnvm.backend.state cimport backend

# Answers RNVM_RETAINED: the oldest version of a structure in use, at most the last one applied.
cdef void call_retained(backend *s, const request *asked, response *answer) noexcept nogil
# Answers RNVM_MOMENT: the versions of several structures at one moment.
cdef void call_moment(backend *s, const request *asked, response *answer) noexcept nogil

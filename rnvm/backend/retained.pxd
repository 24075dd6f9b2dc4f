# The oldest version of each multi-version structure that a session uses.

from rfp.protocol.server.service cimport request, response
from rnvm.backend.state cimport backend

# Answers RNVM_RETAINED: the oldest version of a structure in use, at most the last one applied.
cdef void call_retained(backend *s, const request *asked, response *answer) noexcept nogil

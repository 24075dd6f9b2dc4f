# The back-end's side of front-ends: what executes their calls and does the daily work of the pool.

from libc.stdint cimport int64_t, uint32_t
from rfp.fabric.fabric cimport Region
from rfp.protocol.server.service cimport Service, request, response
from rnvm.backend.state cimport backend
from rnvm.format.messages cimport rnvm_open
from rnvm.pool.pool cimport Pool


cdef class PoolService(Service):
    """Serves a pool to front-ends; its worker's thread alone touches the pool."""
    cdef readonly Pool pool
    cdef public str title              # of the pool, for the log
    cdef backend b
    cdef object giving                 # held while rings are given out or taken back
    cdef dict rings                    # session -> regions that its front-end writes
    cdef Region words                  # of locks that front-ends settle by compare-and-swap
    cdef void take_back(self, uint32_t index) noexcept
    cdef int open(self, const request *asked, response *answer) except -1
    cdef bint make(self, bytes name, const rnvm_open *question, bytes codec) except -1
    cdef int drop(self, const request *asked, response *answer, int64_t user) except -1
    cdef int list(self, const request *asked, response *answer) except -1

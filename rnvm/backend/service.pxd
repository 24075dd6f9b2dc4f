# The back-end's service: executes the calls of front-ends and does the regular work of the pool.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport Fabric, Region
from rfp.protocol.server.service cimport Service, request, response
from rnvm.backend.state cimport backend
from rnvm.format.messages cimport rnvm_open
from rnvm.pool.pool cimport Pool


cdef class PoolService(Service):
    """Serve a pool to front-ends; only its worker's thread uses the pool."""
    cdef readonly Pool pool
    cdef public str title              # of the pool, for the log
    cdef backend b
    cdef uint32_t entries              # of b.uses and b.opened
    cdef object giving                 # held while rings are shared or withdrawn
    cdef dict rings                    # session -> regions that its front-end writes
    cdef Region words                  # lock words for compare-and-swap
    cdef Fabric fabric
    cdef dict streams                  # place of a mirror -> its stream, acknowledgements, shares
    cdef mirror_memory(self, fabric, uint64_t number)
    cdef reap(self, bint all)
    cdef void take_back(self, uint32_t index) noexcept
    cdef int open(self, const request *asked, response *answer, int64_t user) except -1
    cdef bytes other_partitions(self, bytes name)
    cdef bint make(self, bytes name, const rnvm_open *question, bytes codec) except -1
    cdef int drop(self, const request *asked, response *answer, int64_t user) except -1
    cdef int catch_up(self) except? -1
    cdef bint few_mirrors(self, const request *asked, response *answer) noexcept
    cdef bint drop_all(self, list entries, response *answer, int64_t user) except -1
    cdef int list(self, const request *asked, response *answer) except -1

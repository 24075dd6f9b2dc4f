# The measurements of one thread: for each metric a histogram and a count of each status.
#
# One thread writes; any thread may read meanwhile.  A histogram takes its 270 KB of memory when it
# first counts a value.

from libc.stdint cimport uint32_t, uint64_t

from bench._histogram cimport histogram, record
from rfp.core.core cimport rfp_store64

cpdef enum:                    # YCSB's names for how an operation ended
    STATUS_OK = 0
    STATUS_ERROR = 1
    STATUS_NOT_FOUND = 2
    STATUS_UNEXPECTED_STATE = 3
    STATUS_SERVICE_UNAVAILABLE = 4
    STATUS_COUNT = 5

cpdef enum:                    # the first five are the kinds of requests
    METRIC_VERIFY = 5
    METRIC_CLEANUP = 6
    METRICS = 7

cdef struct tally:                 # the three arrays are used as one, too
    histogram done[METRICS]        # latency since the operation began
    histogram intended[METRICS]    # latency since it should have begun
    histogram failed[METRICS]
    uint64_t returns[METRICS * STATUS_COUNT]
    uint64_t operations            # of the workload: a read-modify-write is one

cdef inline void count(tally *t, int what, int how, uint64_t ns) noexcept nogil:
    record(&t.done[what] if how == STATUS_OK else &t.failed[what], ns)
    cdef uint64_t *cell = t.returns + what * STATUS_COUNT + how
    rfp_store64(cell, cell[0] + 1)


cdef class Tally:
    cdef tally c

# The measurements of one thread: for each metric a histogram and a count of each status.
#
# One thread writes; any thread may read meanwhile.  A histogram takes its 270 KB of memory when it
# first counts a value.

from libc.stdint cimport uint32_t, uint64_t

from bench._histogram cimport histogram, record
from rfp.core.core cimport rfp_store64

cdef enum status:              # YCSB's names for how an operation ended
    OK = 0
    ERROR = 1
    NOT_FOUND = 2
    UNEXPECTED_STATE = 3
    SERVICE_UNAVAILABLE = 4
    STATUSES = 5

cdef enum metric:              # the first five are the kinds of requests
    VERIFY = 5
    CLEANUP = 6
    METRICS = 7

cdef struct tally:                 # the three arrays are used as one, too
    histogram done[METRICS]        # latency since the operation began
    histogram intended[METRICS]    # latency since it should have begun
    histogram failed[METRICS]
    uint64_t returns[METRICS * STATUSES]
    uint64_t operations            # of the workload: a read-modify-write is one

cdef inline void count(tally *t, int what, int how, uint64_t ns) noexcept nogil:
    record(&t.done[what] if how == OK else &t.failed[what], ns)
    cdef uint64_t *cell = t.returns + what * STATUSES + how
    rfp_store64(cell, cell[0] + 1)


cdef class Tally:
    cdef tally c

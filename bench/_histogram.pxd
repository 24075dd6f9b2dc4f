# A log-linear histogram of nanoseconds: 1024 steps per power of two, so any value is kept to within
# 0.1 %.
#
# The layout is HdrHistogram's for three significant digits, from 1 ns to 73 minutes; a longer value
# counts as the longest.  One thread records; any other thread may read at the same time and sees
# each count whole.

from libc.stdint cimport uint64_t

from rfp.core.core cimport rfp_store64

cdef enum:
    COUNTS = 33792

cdef struct histogram:
    uint64_t count
    uint64_t total             # sum of the values, ns
    uint64_t least
    uint64_t most
    uint64_t *counts           # COUNTS of them

cdef extern from *:
    """
    #define BENCH_LONGEST 4398046511103ull
    static inline unsigned bench_index(uint64_t v)
    {
        unsigned shift = v < 2048 ? 0 : 53 - (unsigned)__builtin_clzll(v);
        return (shift << 10) + (unsigned)(v >> shift);
    }
    """
    const uint64_t LONGEST "BENCH_LONGEST"             # 2^42 - 1 ns
    unsigned index_of "bench_index"(uint64_t v) noexcept nogil

cdef inline void record(histogram *h, uint64_t ns) noexcept nogil:
    if ns > LONGEST:
        ns = LONGEST
    cdef uint64_t *cell = h.counts + index_of(ns)
    rfp_store64(cell, cell[0] + 1)
    rfp_store64(&h.total, h.total + ns)
    if ns < h.least:
        rfp_store64(&h.least, ns)
    if ns > h.most:
        rfp_store64(&h.most, ns)
    rfp_store64(&h.count, h.count + 1)

cdef void add(histogram *to, const histogram *other) noexcept nogil


cdef class Histogram:
    cdef histogram c

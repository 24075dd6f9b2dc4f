"""Latencies in nanoseconds, three significant digits, cheap enough to record every operation."""

from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport calloc, free

from rfp.core.core cimport rfp_load64

from rfp.errors import InvalidArgument, out_of_bounds


cdef inline uint64_t highest_of(unsigned index) noexcept nogil:
    """Returns the greatest value that is counted at this index."""
    if index < 2048:
        return index
    cdef unsigned shift = (index >> 10) - 1
    return ((<uint64_t>(index - (shift << 10)) + 1) << shift) - 1


cdef void add(histogram *to, const histogram *other) noexcept nogil:
    """Adds the counts of `other`, whose thread may be recording meanwhile."""
    cdef unsigned i
    cdef uint64_t n, counted = 0
    for i in range(COUNTS):
        n = rfp_load64(other.counts + i)
        to.counts[i] += n
        counted += n
    # The sum of the same counts: other.count may be newer than they are.
    to.count += counted
    to.total += rfp_load64(&other.total)
    to.least = min(to.least, rfp_load64(&other.least))
    to.most = max(to.most, rfp_load64(&other.most))


cdef class Histogram:
    """Counts values in nanoseconds, each to within 0.1 %.

    >>> h = Histogram()
    >>> for ns in (100, 200, 300, 400): h.record(ns)
    >>> h.count, h.mean, h.percentile(50)
    (4, 250.0, 200)
    """

    def __cinit__(self):
        self.c.counts = <uint64_t *>calloc(COUNTS, sizeof(uint64_t))
        if self.c.counts == NULL:
            raise MemoryError
        self.c.least = UINT64_MAX

    def __dealloc__(self):
        free(self.c.counts)

    def record(self, ns, uint64_t times=1):
        """Count one value in nanoseconds, `times` times."""
        cdef uint64_t value
        if ns < 0:
            raise InvalidArgument(f"a latency must be 0 nanoseconds or more, got {ns}")
        value = LONGEST if ns > LONGEST else ns
        if times == 0:
            return
        record(&self.c, value)
        self.c.counts[index_of(value)] += times - 1
        self.c.total += value * (times - 1)
        self.c.count += times - 1

    def add(self, Histogram other not None):
        """Add the counts of another histogram, which may be recording meanwhile."""
        add(&self.c, &other.c)

    def since(self, Histogram before not None) -> Histogram:
        """Return the values counted after `before`, an earlier copy of this one.  Minimum and
        maximum are to within 0.1 %."""
        cdef Histogram delta = Histogram()
        cdef unsigned i
        cdef uint64_t n
        for i in range(COUNTS):
            n = self.c.counts[i] - before.c.counts[i]
            if n:
                delta.c.counts[i] = n
                delta.c.count += n
                delta.c.least = min(delta.c.least, highest_of(i))
                delta.c.most = min(highest_of(i), self.c.most)
        delta.c.total = self.c.total - before.c.total
        return delta

    def copy(self) -> Histogram:
        """Return a copy of the current counts."""
        cdef Histogram other = Histogram()
        other.add(self)
        return other

    @property
    def count(self) -> int:
        """Number of values counted."""
        return rfp_load64(&self.c.count)

    @property
    def minimum(self) -> int:
        """The least value, exactly; 0 if there is none."""
        return self.c.least if self.c.count else 0

    @property
    def maximum(self) -> int:
        """The greatest value, exactly; 0 if there is none."""
        return self.c.most

    @property
    def mean(self) -> float:
        """The mean, exactly; 0 if there is none."""
        return self.c.total / <double>self.c.count if self.c.count else 0.0

    def percentile(self, double p) -> int:
        """Return the value, in ns, that p percent of the values do not exceed; to within 0.1 %; 0
        if there is none."""
        cdef uint64_t seen = 0, wanted
        cdef unsigned i
        cdef double exact
        if not 0 <= p <= 100:
            raise out_of_bounds("percentile", p, 0, 100)
        exact = p / 100.0 * <double>self.c.count
        # 99.9 % of 1000 is 999.0000000000001 in floating point, but must give rank 999.
        wanted = <uint64_t>(exact * (1.0 - 1e-12))
        if <double>wanted < exact * (1.0 - 1e-12):
            wanted += 1
        wanted = max(wanted, 1)
        for i in range(COUNTS):
            seen += self.c.counts[i]
            if seen >= wanted:
                return max(min(highest_of(i), self.c.most), self.c.least)
        return self.c.most

    def buckets(self) -> list:
        """Return (greatest value, count) for each non-empty step, in ascending order."""
        cdef unsigned i
        return [(highest_of(i), self.c.counts[i]) for i in range(COUNTS) if self.c.counts[i]]

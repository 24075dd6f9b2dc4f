"""The measurements of one thread."""

from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport calloc, free

from bench._histogram cimport COUNTS, Histogram, add
from rfp.core.core cimport rfp_load64, rfp_store64

from bench import _workload

METRIC_NAMES = (*_workload.KINDS, "VERIFY", "CLEANUP")
assert METRIC_NAMES.index("VERIFY") == METRIC_VERIFY
STATUS_NAMES = ("OK", "ERROR", "NOT_FOUND", "UNEXPECTED_STATE", "SERVICE_UNAVAILABLE")


cdef class Tally:
    """Histograms and counts of statuses, by metric (an index of METRIC_NAMES)."""

    def __cinit__(self):
        cdef histogram *each = self.c.done            # then intended, then failed
        for i in range(3 * METRICS):
            # Allocated by calloc and untouched, an unused histogram costs address space, not
            # memory.
            each[i].counts = <uint64_t *>calloc(COUNTS, sizeof(uint64_t))
            each[i].least = UINT64_MAX
            if each[i].counts == NULL:
                raise MemoryError

    def __dealloc__(self):
        cdef histogram *each = self.c.done
        for i in range(3 * METRICS):
            free(each[i].counts)

    def count(self, int what, int how, uint64_t ns, uint64_t intended_ns=0):
        """Count one operation.

        Args:
            what: metric.
            how: status.
            ns: latency since the operation began.
            intended_ns: latency since it should have begun, in ns (0: no target).
        """
        count(&self.c, what, how, ns)
        if how == STATUS_OK and intended_ns:
            record(&self.c.intended[what], intended_ns)

    def finish(self):
        """Count one more completed operation of the workload."""
        rfp_store64(&self.c.operations, self.c.operations + 1)

    @property
    def operations(self) -> int:
        """Number of operations of the workload completed so far."""
        return rfp_load64(&self.c.operations)

    def histogram(self, int what, str kind="done") -> Histogram:
        """Return a copy of the histogram of a metric; kind: done, intended or failed."""
        cdef Histogram copy = Histogram()
        cdef histogram *source
        if kind == "done":
            source = &self.c.done[what]
        elif kind == "intended":
            source = &self.c.intended[what]
        else:
            source = &self.c.failed[what]
        if rfp_load64(&source.count):
            add(&copy.c, source)
        return copy

    def returns(self, int what) -> dict:
        """Return how many operations of a metric ended with each status."""
        return {name: self.c.returns[what * STATUS_COUNT + i] for i, name in enumerate(STATUS_NAMES)
                if self.c.returns[what * STATUS_COUNT + i]}

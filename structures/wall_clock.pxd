# The time of day, for leases: they outlive processes, boots and hosts.

from libc.stdint cimport uint64_t

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_REALTIME
    int clock_gettime(int clock, timespec *t)

cdef inline uint64_t wall_clock_ns() noexcept nogil:
    """Return nanoseconds since 1970."""
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec

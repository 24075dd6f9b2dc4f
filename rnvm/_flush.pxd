# Stores of this process to persistent memory: cache lines sent on their way, and waited for.

cdef extern from "rnvm/flush.h" nogil:
    void flush_lines "rnvm_flush"(const void *at, size_t n)
    void flush_drain "rnvm_flush_drain"()

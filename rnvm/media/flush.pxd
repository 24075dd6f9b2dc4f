# Stores to persistent memory: write-back of cache lines, and the wait for it.

cdef extern from "rnvm/media/flush.h" nogil:
    void store_lines "rnvm_store_lines"(void *to, const void *from_, size_t n)
    void flush "rnvm_flush"(const void *from_, size_t n)
    void flush_drain "rnvm_flush_drain"()
    void store_flushed "rnvm_store_flushed"(void *to, const void *source, size_t n)
    int flush_kind "rnvm_flush_kind"()

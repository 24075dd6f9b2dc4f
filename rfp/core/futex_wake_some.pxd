# Declarations of futex_wake_some.h.  This file has no module.

from libc.stdint cimport uint64_t

cdef extern from "rfp/core/futex_wake_some.h" nogil:
    int rfp_futex_wake_some(const void *word, uint64_t most)

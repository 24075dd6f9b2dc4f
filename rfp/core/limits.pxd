# Declarations of limits.h.

from libc.stdint cimport uint64_t

cdef extern from "rfp/core/limits.h" nogil:
    enum:
        RFP_LINE
        RFP_PAGE
        RFP_WORKERS_MAX
        RFP_SLOTS_MAX
        RFP_SLOT_BYTES_MAX
        RFP_SIZE_CLASSES
    const uint64_t RFP_MAPPED_BYTES_MAX

cdef uint64_t system_page      # bytes of the kernel's page

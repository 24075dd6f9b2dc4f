# Declarations of owner_word.h.

from libc.stdint cimport uint32_t

cdef extern from "rfp/core/owner_word.h" nogil:
    const uint32_t RFP_OWNER_WORD
    struct rfp_owner_before:
        pass
    int rfp_owner_hold(void *memory, uint32_t *owner, rfp_owner_before *before)
    void rfp_owner_release(void *memory, const rfp_owner_before *before)
    bint rfp_owner_alive(const void *word, uint32_t owner)
    bint rfp_owner_supported(void *memory)

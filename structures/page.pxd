# Declarations of page.h.

from libc.stdint cimport uint16_t, uint32_t
from rnvm.format.node cimport rnvm_node

cdef extern from "structures/page.h" nogil:
    enum:
        PAGE_BYTES
        PAGE_FIRST
        PAGE_ROOM
        PAGE_INLINE

    struct page:
        rnvm_node node
        uint16_t count
        uint16_t heap
        uint16_t dead
        uint16_t level
        uint16_t *slots

    struct page_entry:
        const char *key
        const char *payload
        uint32_t sizes
        uint32_t key_length
        uint32_t payload_length

    uint32_t page_payload(uint32_t sizes)
    uint32_t page_entry_size(uint32_t sizes)
    uint32_t page_used(const page *p)
    uint32_t page_gap(const page *p)
    bint page_sound(const page *p)
    bint page_entry_at(const page *p, uint32_t index, page_entry *e)
    int keys_compare(const char *a, uint32_t a_length, const char *b, uint32_t b_length)
    int page_search(const page *p, const char *key, uint32_t length, bint *found)
    void page_clear(page *p, uint32_t level)
    bint page_put(page *p, uint32_t index, uint32_t sizes, const char *key, const char *payload)
    bint page_append(page *p, const page_entry *e)
    bint page_remove(page *p, uint32_t index)
    bint page_take(page *p, const page *source, uint32_t first, uint32_t to)
    uint32_t separator_length(const char *left, uint32_t left_length, const char *right,
                              uint32_t right_length)

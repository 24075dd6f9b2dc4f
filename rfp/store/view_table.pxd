# Declarations of view_table.h.  This file has no module of its own.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "rfp/store/view_table.h" nogil:
    enum:
        KV_VIEW_PINS
        KV_VIEW_USES_MAX

    struct kv_view_table:
        uint64_t serving

    uint64_t kv_view_table_size(uint32_t partitions)
    uint64_t *kv_view_words(char *table, uint32_t partition)
    bint kv_view_hold(uint64_t *word, uint32_t generation)
    void kv_view_drop(uint64_t *word)
    void kv_view_grant(uint64_t *word, uint32_t generation)
    void kv_view_grant_again(uint64_t *word, uint32_t generation)
    bint kv_view_reap(uint64_t *word, uint32_t generation, bint fresh)

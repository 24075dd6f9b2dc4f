# The allocator of a partition: one contiguous range, cut into blocks.  A block's header leads to
# both its neighbours (layout.h).
#
# TLSF: two levels of free lists by size, each found through a bitmap, so allocate and free take
# constant time, and free blocks merge at once.  arena.pyx draws the size classes and the blocks.  A
# block is named by its offset from base; 0 is none.  Each function keeps the two cursors on block
# boundaries.

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_store64
from rfp.store.layout cimport kv_block, kv_block_before, kv_block_kind, kv_block_size

cdef enum:
    ARENA_LEAST = 32           # bytes of the smallest block: word, next, previous, size
    ARENA_LEVELS = 32
    ARENA_LISTS = 32

cdef struct arena:
    char *base
    uint64_t start             # offset of the first block
    uint64_t end               # offset of the end block
    uint64_t used              # bytes of blocks that are not free
    uint64_t[2] cursors  # of the sweeps over the blocks: [0] the clock hand of eviction, [1] expiry
    uint32_t levels
    uint32_t[32] lists
    uint64_t[32][32] heads

# start and end are multiples of 16; 16 bytes at end belong to the arena too.
cdef void arena_open(arena *a, char *base, uint64_t start, uint64_t end) noexcept nogil
# Returns a block of at least `size` bytes, or 0.
cdef uint64_t arena_allocate(arena *a, uint64_t size, uint32_t kind) noexcept nogil
# Returns one of the lowest such blocks among a bounded number of candidates, if it ends below
# `limit`; else 0.
cdef uint64_t arena_allocate_low(arena *a, uint64_t size, uint32_t kind,
                                 uint64_t limit) noexcept nogil
cdef void arena_free(arena *a, uint64_t block) noexcept nogil
# Turns a free block into a reserved one of at most `most` bytes.
cdef void arena_take(arena *a, uint64_t block, uint64_t most) noexcept nogil
# Grows a reserved block into the free block behind it, up to `most` bytes.
cdef void arena_extend(arena *a, uint64_t block, uint64_t most) noexcept nogil
# Grows a reserved block into the free block before it, up to `most` bytes; returns its new
# beginning.
cdef uint64_t arena_extend_back(arena *a, uint64_t block, uint64_t most) noexcept nogil
# Gives back the part of the block beyond `size`.
cdef void arena_trim(arena *a, uint64_t block, uint64_t size) noexcept nogil
# Moves the block behind the reserved one to the beginning of the reserved one, and the reserved one
# behind it.  Returns the new beginning of the reserved one, or 0 if the block is the larger one.
# The caller redirects all pointers to the block before it writes into the reserved one.
cdef uint64_t arena_slide(arena *a, uint64_t reserved) noexcept nogil
# Moves the end of the arena `bytes` down, cut from a free block at its end.
cdef void arena_shrink(arena *a, uint64_t bytes) noexcept nogil
# Returns whether arena_shrink() can cut that much from a block of this size.
cdef bint arena_may_shrink(uint64_t size, uint64_t bytes) noexcept nogil
# Returns the block before this one, 0 for the first.
cdef uint64_t arena_previous(arena *a, uint64_t block) noexcept nogil
# Returns the first invariant that does not hold, or NULL.
cdef const char *arena_check(arena *a) noexcept nogil


cdef inline uint64_t arena_word(arena *a, uint64_t block) noexcept nogil:
    return (<uint64_t *> (a.base + block))[0]

cdef inline uint64_t arena_size(arena *a, uint64_t block) noexcept nogil:
    return kv_block_size(arena_word(a, block))

cdef inline uint32_t arena_kind(arena *a, uint64_t block) noexcept nogil:
    return kv_block_kind(arena_word(a, block))

cdef inline void arena_become(arena *a, uint64_t block, uint32_t kind) noexcept nogil:
    cdef uint64_t word = arena_word(a, block)
    rfp_store64(a.base + block, kv_block(kv_block_size(word), kv_block_before(word), kind))

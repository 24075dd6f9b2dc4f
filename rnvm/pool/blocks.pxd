# The block allocator: an owner word in the pool for every three blocks, and a bit here for each
# block that may be allocated.
#
#   in the pool    word 0: check | owner of block 2 | of block 1 | of block 0  (16 bits each)
#   in memory      pool.taken: a bit for each block, 1 = must not be allocated now
#
# Owners are RNVM_NOBODY, RNVM_GRANTED | session, RNVM_USED | structure index + 1, RNVM_UNKNOWN.  A
# change of one word is atomic; one of several words is not, and none is durable before the caller
# has drained.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.pool.state cimport pool

# Returns the owner of a block; RNVM_UNKNOWN if its word is damaged.
cdef uint32_t block_owner(const pool *p, uint64_t block) noexcept nogil
# Gives `count` consecutive free blocks to an owner.  Returns the first, or RNVM_NO_BLOCK: there are
# none.
cdef uint64_t blocks_allocate(pool *p, uint64_t count, uint32_t owner) noexcept nogil
# Writes the owner of blocks; does not change whether they may be allocated.
cdef void blocks_assign(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil
# Writes the owner, and marks the blocks as allocated.
cdef void blocks_claim(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil
# Makes blocks free to allocate again.
cdef void blocks_release(pool *p, uint64_t first, uint64_t count) noexcept nogil
# Frees all blocks of an owner, but allocates none of them before blocks_reclaim().  Returns how
# many.
cdef uint64_t blocks_free_all(pool *p, uint32_t owner) noexcept nogil
# Retires blocks: they have no owner, but readers may still read them.
cdef void blocks_retire(pool *p, uint64_t first, uint64_t count) noexcept nogil
# Makes blocks allocatable that were retired before this pool.reclaim_epoch and before the last
# checkpoint.  Returns how many.
cdef uint64_t blocks_reclaim(pool *p, uint64_t reclaim_epoch) noexcept nogil
# Loads the bits from the words.
cdef void blocks_load(pool *p) noexcept nogil
# Writes empty owner maps of all groups that begin at or behind this offset.
cdef void blocks_format(pool *p, uint64_t size) noexcept nogil

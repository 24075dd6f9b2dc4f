# Who owns which block: a word for every three, in the pool, and a bit for each, here, that says whether it may be handed out.
#
# Owners are RNVM_NOBODY, RNVM_GRANTED | session, RNVM_USED | structure index + 1, RNVM_UNKNOWN.  A change of one word is atomic;
# one of several blocks is not, and none is durable before the caller has drained.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.pool.state cimport pool

# The owner of a block; RNVM_UNKNOWN where its word is damaged.
cdef uint32_t block_owner(const pool *p, uint64_t block) noexcept nogil
# Gives count consecutive free blocks to an owner.  The first, or RNVM_NO_BLOCK where there are none.
cdef uint64_t blocks_allocate(pool *p, uint64_t count, uint32_t owner) noexcept nogil
# Writes the owner of blocks; says nothing about whether they may be handed out.
cdef void blocks_assign(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil
# Writes it, and hands the blocks to nobody else.
cdef void blocks_claim(pool *p, uint64_t first, uint64_t count, uint32_t owner) noexcept nogil
# Blocks may be handed out again.
cdef void blocks_release(pool *p, uint64_t first, uint64_t count) noexcept nogil
# Frees all that an owner has, but hands nothing out before blocks_reclaim().  How many there were.
cdef uint64_t blocks_free_all(pool *p, uint32_t owner) noexcept nogil
# Blocks are nobody's, but readers may still look at them.
cdef void blocks_retire(pool *p, uint64_t first, uint64_t count) noexcept nogil
# Hands out again what was retired before this moment (pool.reclaim_epoch) and before the last checkpoint.  How many blocks.
cdef uint64_t blocks_reclaim(pool *p, uint64_t reclaim_epoch) noexcept nogil
# The bits, from the words.
cdef void blocks_load(pool *p) noexcept nogil
# The maps of all groups that begin at this offset or behind it, for nobody.
cdef void blocks_format(pool *p, uint64_t size) noexcept nogil

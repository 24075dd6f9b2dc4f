"""Create, drop and publish structures in the catalog."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport rfp_crc32c, rfp_fence_full, rfp_load64, rfp_store64, rfp_store64_release
from rnvm.format.layout cimport (
    RNVM_DROPPING, RNVM_FREE, RNVM_LIVE, RNVM_LOCK, RNVM_NAME_LIVE, RNVM_NO_BLOCK, RNVM_PROGRESS,
    RNVM_USED, rnvm_address, rnvm_block_at, rnvm_name, rnvm_name_at, rnvm_structure, rnvm_word,
    rnvm_word_value,
)
from rnvm.format.messages cimport RNVM_LIVE_STRUCTURE, RNVM_STATUS_SPARE
from rnvm.media.medium cimport medium_drain, medium_write, medium_write64
from rnvm.pool.blocks cimport blocks_allocate, blocks_free_all
from rnvm.pool.dual_copy cimport dual_copy_format
from rnvm.pool.state cimport pool, structure


cdef enum:
    COVERED = 12               # offset of the first field that the CRC covers
    ZEROS = 512                # bytes written at a time: the smallest block


cdef uint32_t catalog_entry_crc(uint32_t seed, uint64_t at, const rnvm_name *entry) noexcept nogil:
    cdef uint32_t crc = rfp_crc32c(seed, &at, sizeof(at))
    return rfp_crc32c(crc, &entry.kind, RNVM_NAME_LIVE - COVERED)


cdef uint64_t catalog_entry_state(uint32_t seed, uint64_t at, uint32_t state,
                                  uint32_t incarnation) noexcept nogil:
    return rnvm_word(seed, at, <uint64_t> incarnation << 8 | state)


cdef void zero_blocks(pool *p, uint64_t first, uint64_t count) noexcept nogil:
    cdef char[ZEROS] zeros
    cdef uint64_t at = rnvm_block_at(&p.g, first)
    cdef uint64_t end = at + count * p.g.block
    memset(zeros, 0, sizeof(zeros))
    while at < end:
        medium_write(p.m, at, zeros, sizeof(zeros))
        at += sizeof(zeros)


cdef uint32_t incarnation_at(pool *p, uint64_t at) noexcept nogil:
    return <uint32_t> (rnvm_word_value(rfp_load64(p.m.base + at)) >> 8 & 0xffff)


cdef void catalog_publish(pool *p, uint32_t index) noexcept nogil:
    rfp_store64_release(p.m.base + rnvm_name_at(&p.g, index) + RNVM_NAME_LIVE
                        + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_STRUCTURE),
                        p.structures[index].id)


cdef uint32_t catalog_create(pool *p, rnvm_name *entry) noexcept nogil:
    cdef uint32_t index, incarnation
    cdef uint64_t at, root
    cdef uint64_t[3] nothing
    cdef structure *made
    for index in range(p.g.names):
        if p.structures[index].state == RNVM_FREE:
            break
    else:
        return 0
    root = blocks_allocate(p, entry.root_blocks, RNVM_USED | index + 1)
    if root == RNVM_NO_BLOCK:
        return 0
    zero_blocks(p, root, entry.root_blocks)
    at = rnvm_name_at(&p.g, index)
    incarnation = incarnation_at(p, at)
    memset(nothing, 0, sizeof(nothing))
    dual_copy_format(p.m, p.g.seed, at + RNVM_PROGRESS, nothing)
    dual_copy_format(p.m, p.g.seed, at + RNVM_LOCK, nothing)
    entry.root = rnvm_address(p.g.backend, rnvm_block_at(&p.g, root))
    entry.crc = catalog_entry_crc(p.g.seed, at, entry)
    medium_write(p.m, at + sizeof(uint64_t), &entry.crc, RNVM_NAME_LIVE - sizeof(uint64_t))
    rfp_store64(p.m.base + at + RNVM_NAME_LIVE, 0)
    rfp_store64(p.m.base + at + RNVM_NAME_LIVE + 8, 0)
    # All parts first; then the one word that makes the entry live.
    if medium_drain(p.m):
        return 0
    medium_write64(p.m, at, catalog_entry_state(p.g.seed, at, RNVM_LIVE, incarnation))
    if medium_drain(p.m):
        return 0
    made = &p.structures[index]
    memset(made, 0, sizeof(structure))
    made.id = rnvm_structure(index, incarnation)
    made.state = RNVM_LIVE
    catalog_publish(p, index)
    return made.id


cdef int catalog_drop(pool *p, uint32_t index) noexcept nogil:
    cdef uint64_t at = rnvm_name_at(&p.g, index)
    cdef uint32_t incarnation = incarnation_at(p, at)
    # From here on its log records do not matter, and after a crash the drop continues.
    p.structures[index].id = 0
    p.structures[index].state = RNVM_DROPPING
    # Readers check this last: if they still find the structure here, they have read nothing of its
    # successor.
    catalog_publish(p, index)
    rfp_fence_full()
    medium_write64(p.m, at, catalog_entry_state(p.g.seed, at, RNVM_DROPPING, incarnation))
    if medium_drain(p.m):
        return -1
    blocks_free_all(p, RNVM_USED | index + 1)
    if medium_drain(p.m):
        return -1
    medium_write64(p.m, at, catalog_entry_state(p.g.seed, at, RNVM_FREE, incarnation + 1 & 0xffff))
    if medium_drain(p.m):
        return -1
    p.structures[index].state = RNVM_FREE
    return 0

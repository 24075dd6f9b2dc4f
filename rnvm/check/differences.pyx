# cython: nonecheck=True
"""Compare the blocks of two copies of a pool, which this process has open."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from rnvm.format.layout cimport (
    RNVM_NOBODY, RNVM_OWNER_INDEX, RNVM_OWNER_KIND, RNVM_USED, rnvm_block_at, rnvm_geometry,
)
from rnvm.pool.blocks cimport block_owner
from rnvm.pool.pool cimport Pool
from rnvm.pool.replay cimport pool_pending
from rnvm.pool.state cimport pool

from rfp.errors import InvalidArgument

cdef struct counts:            # of a structure's blocks, and of all others at the end
    uint64_t owners            # that another one owns in the other copy
    uint64_t contents          # that have other bytes
    uint64_t first             # offset of the first of them


cdef uint32_t index_of(const rnvm_geometry *g, uint32_t owner) noexcept nogil:
    """Return the index of the structure that owns a block, or the number of names."""
    cdef uint32_t which = owner & RNVM_OWNER_INDEX
    return which - 1 if owner & RNVM_OWNER_KIND == RNVM_USED and 0 < which <= g.names else g.names


cdef uint64_t compare_blocks(pool *a, pool *b, counts *found) noexcept nogil:
    """Compare owners, and the bytes of used blocks; return the bytes compared."""
    cdef uint64_t block, at, compared = 0
    cdef uint32_t first, second
    cdef counts *each
    for block in range(a.g.blocks):
        first, second = block_owner(a, block), block_owner(b, block)
        at = rnvm_block_at(&a.g, block)
        each = &found[index_of(&a.g, first)]
        if first != second:
            if each.owners == 0 and each.contents == 0:
                each.first = at
            each.owners += 1
        elif first != RNVM_NOBODY:
            # A free block may contain anything.
            compared += a.g.block
            if memcmp(a.m.base + at, b.m.base + at, a.g.block):
                if each.owners == 0 and each.contents == 0:
                    each.first = at
                each.contents += 1
    return compared


def blocks(Pool one not None, Pool other not None):
    """Compare the blocks of two copies; return what differs, and the bytes compared.

    What differs is a list of (index of a structure, or None; blocks with another owner; blocks with
    other bytes; offset of the first).

    Raises:
        InvalidArgument: Their parts are at different places.
    """
    cdef rnvm_geometry *g = &one.c.g
    cdef counts *found
    cdef uint64_t compared
    cdef uint32_t i
    if (g.size, g.block, g.groups_at, g.names) != (other.c.g.size, other.c.g.block,
                                                   other.c.g.groups_at, other.c.g.names):
        raise InvalidArgument("the pools have different sizes")
    found = <counts *> calloc(g.names + 1, sizeof(counts))
    if found == NULL:
        raise MemoryError()
    try:
        with nogil:
            compared = compare_blocks(&one.c, &other.c, found)
        return ([(i if i < g.names else None, found[i].owners, found[i].contents, found[i].first)
                 for i in range(g.names + 1) if found[i].owners or found[i].contents], compared)
    finally:
        free(found)


def structure(Pool on not None, bytes name not None):
    """Return a structure's ID in logs, its last transaction, and its covered operations."""
    cdef uint32_t index = <uint32_t> on.names[name]
    return (on.c.structures[index].id, on.c.structures[index].number,
            on.c.structures[index].covers)


cdef bint found_pending(void *context, uint32_t session, uint64_t lsn, uint32_t of, uint32_t code,
                        uint64_t number, const char *body, uint32_t length) noexcept nogil:
    with gil:
        (<dict> context)[of, number] = (code, body[:length])
    return True


def pending(Pool on not None):
    """Return the operations that no transaction covers: (ID, number) -> (code, bytes)."""
    cdef uint32_t i
    result = {}
    for i in range(on.c.g.sessions):
        pool_pending(&on.c, i, found_pending, <void *> result)
    return result

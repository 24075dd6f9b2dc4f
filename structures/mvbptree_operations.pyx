"""Clear and collect a multi-version B+tree; everything else is as in a B+tree."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, node_free, record_room, visitor
from structures.bptree_operations cimport (
    SPLIT, tree_pop, tree_put, tree_split, tree_take,
)
from structures.bptree_pages cimport (
    LEVELS_MAX, child_of, page_change, page_read, top_read, top_write, tree_top,
)
from structures.bptree_walk cimport subtree_walk, tree_walk
from structures.layout cimport RETIRED_SIZE, RETIRED_SUBTREE, TYPE_PAGE, VALUE_OF
from structures.mapping_operations cimport pair_header
from structures.multi_version cimport (
    COLLECT, retired_add, retired_collect, retired_collect_all, retired_free, retired_walk,
    subtree_retire,
)
from structures.ordered_operations cimport ordered_apply
from structures.page cimport (
    PAGE_BYTES, PAGE_FIRST, PAGE_INLINE, page, page_entry, page_entry_at, page_remove,
)
from structures.values cimport value_free

cdef enum:
    MVBPTREE_EXPAND_BYTES = 12288  # that one call of expand() changes at most
    VALUES_FREED_MAX = 6       # by one call


cdef int expand(instance *s, uint64_t address, uint64_t what) noexcept nogil:
    """Free the last leaf of a retired tree, or some of its values; list the rest again.

    No reader uses the tree, so its pages may change.  To list the children of the top instead would
    make the list grow, for which a full pool has no room.
    """
    cdef uint64_t[LEVELS_MAX] pages
    cdef uint32_t height = RETIRED_SIZE(what), at
    cdef const page *p
    cdef page_entry e
    cdef bint left = False
    if not 1 <= height <= LEVELS_MAX:
        return fault(s, address, b"a retired tree has no levels, or too many")
    pages[0] = address
    for at in range(height - 1):
        p = page_read(s, pages[at], height - 1 - at)
        if p == NULL:
            return s.error
        if not page_entry_at(p, p.count - 1, &e):
            return fault(s, pages[at], b"an entry extends beyond its page")
        pages[at + 1] = child_of(&e)
    if values_free(s, pages[height - 1], &left) != OK:
        return s.error
    at = height
    while at and not left:
        at -= 1
        p = page_read(s, pages[at], height - 1 - at)
        if p == NULL:
            return s.error
        left = at + 1 < height and p.count > 1
        if left and last_remove(s, pages[at], p.count) != OK:
            return s.error
        if not left and node_free(s, pages[at], PAGE_BYTES) != OK:
            return s.error
    return retired_add(s, address | RETIRED_SUBTREE, what) if left else OK


cdef int last_remove(instance *s, uint64_t address, uint32_t count) noexcept nogil:
    """Remove the last entry of a page."""
    cdef page *changed = page_change(s, address, RNVM_NODE, PAGE_FIRST - RNVM_NODE + 2 * count)
    if changed == NULL:
        return s.error
    if not page_remove(changed, count - 1):
        return fault(s, address, b"an entry extends beyond its page")
    return OK


cdef int values_free(instance *s, uint64_t address, bint *left) noexcept nogil:
    """Free the last values of a leaf that have nodes of their own, with their entries.

    left: there are more of them.
    """
    cdef const page *p = page_read(s, address, 0)
    cdef page_entry e
    cdef uint32_t freed = 0, count, i
    left[0] = False
    if p == NULL:
        return s.error
    count = i = p.count
    while i:
        if not page_entry_at(p, i - 1, &e):
            return fault(s, address, b"an entry extends beyond its page")
        if VALUE_OF(e.sizes) > PAGE_INLINE:
            if freed == VALUES_FREED_MAX:
                left[0] = True
                break
            if value_free(s, child_of(&e), VALUE_OF(e.sizes)) != OK:
                return s.error
            freed += 1
        i -= 1
    while left[0] and count > i:
        if last_remove(s, address, count) != OK:
            return s.error
        count -= 1
    return OK


cdef int clear(instance *s) noexcept nogil:
    """Retire the whole tree as one entry."""
    cdef tree_top root
    cdef int outcome = top_read(s, &root)
    if outcome != OK or not root.levels:
        return outcome
    outcome = subtree_retire(s, root.top, root.levels)
    root = tree_top(0, 0, 0)
    return top_write(s, &root) if outcome == OK else outcome


cdef int versions_apply(instance *s, uint32_t code, const char *bytes,
                        uint32_t length) noexcept nogil:
    # Not beside a long value, which may need all the room in the log.
    cdef int outcome = OK
    if length < record_room(s) // 4:
        outcome = retired_free(s, expand, MVBPTREE_EXPAND_BYTES)
    if outcome != OK:
        return outcome
    if code == COLLECT and not length:
        return retired_collect_all(s, expand, MVBPTREE_EXPAND_BYTES)
    if code == SPLIT and length > sizeof(pair_header):
        return tree_split(s, bytes, length)
    return ordered_apply(s, code, bytes, length, tree_put, tree_take, tree_pop, clear)


cdef int versions_collect(instance *s) noexcept nogil:
    return retired_collect(s, expand, MVBPTREE_EXPAND_BYTES)


cdef int versions_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef int outcome = tree_walk(s, visit, context)
    return retired_walk(s, visit, context, TYPE_PAGE, subtree_walk) if outcome == OK else outcome

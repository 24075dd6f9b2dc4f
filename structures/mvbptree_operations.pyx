"""Clear and collect a multi-version B+tree; everything else is as in a B+tree."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, node_free, record_room, visitor
from structures.bptree_operations cimport (
    SPLIT, tree_pop_first, tree_put, tree_split, tree_take,
)
from structures.bptree_pages cimport child_of, page_read, top_read, top_write, tree_top
from structures.bptree_walk cimport subtree_walk, tree_walk
from structures.layout cimport (
    RETIRED, RETIRED_SIZE, RETIRED_SUBTREE, RETIRED_VALUE, RETIRED_VERSION, TYPE_PAGE, UP8,
    VALUE_NODE, VALUE_OF,
)
from structures.mapping_operations cimport pair_header
from structures.multi_version cimport (
    COLLECT, retired_add, retired_collect, retired_collect_all, retired_free, retired_walk,
    subtree_retire,
)
from structures.ordered_operations cimport ordered_apply
from structures.page cimport PAGE_BYTES, PAGE_INLINE, page, page_entry, page_entry_at

cdef enum:
    MVBPTREE_EXPAND_BYTES = 12288  # that freeing the top of a subtree changes at most


cdef int expand(instance *s, uint64_t address, uint64_t what) noexcept nogil:
    """Free a page of a retired tree; list its children, or the values in nodes of their own."""
    cdef uint32_t height = RETIRED_SIZE(what), i, count
    cdef const page *p
    cdef page_entry e
    cdef int outcome = OK
    if not height:
        return fault(s, address, b"a retired tree has no levels")
    p = page_read(s, address, height - 1)
    if p == NULL:
        return s.error
    count = p.count
    for i in range(count):
        if not page_entry_at(p, i, &e):
            return fault(s, address, b"an entry extends beyond its page")
        if height > 1:
            outcome = retired_add(s, child_of(&e) | RETIRED_SUBTREE,
                                  RETIRED(RETIRED_VERSION(what), height - 1))
        elif VALUE_OF(e.sizes) > PAGE_INLINE:
            outcome = retired_add(s, child_of(&e) | RETIRED_VALUE,
                                  RETIRED(RETIRED_VERSION(what),
                                          UP8(VALUE_NODE(VALUE_OF(e.sizes))) >> 3))
        if outcome != OK:
            return outcome
    return node_free(s, address, PAGE_BYTES)


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
    return ordered_apply(s, code, bytes, length, tree_put, tree_take, tree_pop_first, clear)


cdef int versions_collect(instance *s) noexcept nogil:
    return retired_collect(s, expand, MVBPTREE_EXPAND_BYTES)


cdef int versions_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef int outcome = tree_walk(s, visit, context)
    return retired_walk(s, visit, context, TYPE_PAGE, subtree_walk) if outcome == OK else outcome

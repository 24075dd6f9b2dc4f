# The entries of leaves: find one, read its value, answer with it.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault
from structures.bptree_pages cimport (
    LEVELS_MAX, child_of, page_read, path, top_read, tree_descend, tree_top,
)
from structures.layout cimport VALUE_OF
from structures.mapping_operations cimport MISSING, answer_stored
from structures.page cimport PAGE_INLINE, page, page_entry, page_entry_at
from structures.values cimport stored_answer, stored_value


cdef inline int leaf_of(instance *s, const path *p, const page **leaf) noexcept nogil:
    leaf[0] = page_read(s, p.pages[p.levels - 1], 0)
    return s.error if leaf[0] == NULL else OK


cdef inline int entry_in(instance *s, const path *p, page_entry *e) noexcept nogil:
    """Read the entry that a path leads to."""
    cdef const page *leaf
    if leaf_of(s, p, &leaf) != OK:
        return s.error
    if p.indexes[p.levels - 1] >= leaf.count or not page_entry_at(leaf, p.indexes[p.levels - 1], e):
        return fault(s, leaf.node.address, b"an entry goes beyond its page")
    return OK


cdef inline int tree_find(instance *s, const char *key, uint32_t length, path *p,
                          page_entry *e) noexcept nogil:
    """Find the entry of a key; MISSING: there is none.  e: NULL if only that is asked."""
    cdef tree_top root
    cdef int outcome = top_read(s, &root)
    if outcome == OK:
        outcome = tree_descend(s, &root, key, length, p)
    if outcome != OK:
        return outcome
    if not p.found:
        return MISSING
    return OK if e == NULL else entry_in(s, p, e)


cdef inline int tree_first(instance *s, path *p, page_entry *e) noexcept nogil:
    """Find the entry of the lowest key; MISSING: the tree is empty."""
    cdef tree_top root
    cdef int outcome = top_read(s, &root)
    if outcome != OK:
        return outcome
    if not root.levels:
        return MISSING
    outcome = tree_descend(s, &root, b"", 0, p)
    return entry_in(s, p, e) if outcome == OK else outcome


cdef inline int tree_last(instance *s, path *p, page_entry *e) noexcept nogil:
    """Find the entry of the highest key; MISSING: the tree is empty."""
    cdef tree_top root
    cdef const page *node
    cdef uint64_t address
    cdef uint32_t at
    if top_read(s, &root) != OK:
        return s.error
    if not root.levels:
        return MISSING
    if root.levels > LEVELS_MAX:
        return fault(s, s.root, b"the tree is too high")
    p.levels = root.levels
    p.found = True
    address = root.top
    for at in range(root.levels):
        node = page_read(s, address, root.levels - 1 - at)
        if node == NULL:
            return s.error
        p.pages[at] = address
        p.indexes[at] = node.count - 1
        if not node.count or not page_entry_at(node, node.count - 1, e):
            return fault(s, address, b"an entry extends beyond its page")
        if at + 1 < root.levels:
            address = child_of(e)
    return OK


cdef inline int entry_value(instance *s, const page_entry *e, const char **bytes) noexcept nogil:
    """Point `bytes` to the value, in the page or in its node."""
    return stored_value(s, e.payload, VALUE_OF(e.sizes), PAGE_INLINE, bytes)


cdef inline int answer_value(instance *s, const page_entry *e) noexcept nogil:
    return stored_answer(s, e.payload, VALUE_OF(e.sizes), PAGE_INLINE)


cdef inline int answer_item(instance *s, const page_entry *e, bint value,
                            bint outside) noexcept nogil:
    """Answer with an item.  value: with its value; outside: even if it has a node of its own."""
    return answer_stored(s, e.sizes, e.key, e.payload, PAGE_INLINE, value, outside)

"""Walk a B+tree depth first; check each page against the keys of its parent."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.bptree_pages cimport LEVELS_MAX, child_of, page_read, top_read, tree_top
from structures.key_partition cimport key_is_misplaced
from structures.layout cimport KEY_MAX, VALUE_NODE, VALUE_OF
from structures.ordered_operations cimport bound
from structures.page cimport (
    PAGE_BYTES, PAGE_INLINE, keys_compare, page, page_entry, page_entry_at, page_entry_size,
)
from structures.values cimport value_bytes


cdef struct survey:
    visitor visit
    void *context
    uint64_t count

cdef int check_page(instance *s, const page *p, bound low, bound high) noexcept nogil:
    """Check that the entries are in order, and that they and the dead bytes fill the heap."""
    cdef page_entry e, before
    cdef uint32_t i, total = p.dead, first = 1 if p.level else 0
    before.key = NULL
    for i in range(p.count):
        if not page_entry_at(p, i, &e):
            return fault(s, p.node.address, b"an entry extends beyond its page")
        total += page_entry_size(e.sizes)
        if p.level and e.payload_length != 8:
            return fault(s, p.node.address, b"an entry of an inner page has no child")
        if i < first:
            continue
        if not p.level and not e.key_length:
            return fault(s, p.node.address, b"an empty key")
        if (before.key != NULL
                and keys_compare(before.key, before.key_length, e.key, e.key_length) >= 0):
            return fault(s, p.node.address, b"the keys of a page are not in order")
        if low.key != NULL and keys_compare(e.key, e.key_length, low.key, low.length) < 0:
            return fault(s, p.node.address, b"a key is below the range of its page")
        if high.key != NULL and keys_compare(e.key, e.key_length, high.key, high.length) >= 0:
            return fault(s, p.node.address, b"a key is above the range of its page")
        if not p.level and key_is_misplaced(s, e.key, e.key_length):
            return fault(s, p.node.address, b"a key is in the wrong partition")
        before = e
    if total != PAGE_BYTES - p.heap:
        return fault(s, p.node.address, b"a page's free space does not match its header")
    return OK


cdef void copy_key(bound *to, char *room, const page_entry *e) noexcept nogil:
    memcpy(room, e.key, min(e.key_length, KEY_MAX))
    to.key = room
    to.length = min(e.key_length, KEY_MAX)


cdef int walk_page(instance *s, uint64_t address, uint32_t level, bound low, bound high,
                   survey *w) noexcept nogil:
    # copies, because pages are released while their children are checked
    cdef char[KEY_MAX] low_room, high_room
    cdef bound child_low, child_high
    cdef const page *p = page_read(s, address, level)
    cdef page_entry e
    cdef uint64_t child
    cdef uint32_t i, length, count
    cdef int outcome
    if p == NULL:
        return s.error
    outcome = check_page(s, p, low, high)
    if outcome == OK:
        outcome = w.visit(w.context, address, PAGE_BYTES)
    count = p.count
    if not level:
        w.count += count
    for i in range(count):
        if outcome != OK:
            return outcome
        p = page_read(s, address, level)
        if p == NULL:
            return s.error
        if i >= p.count or not page_entry_at(p, i, &e):
            return fault(s, address, b"an entry extends beyond its page")
        child = child_of(&e)
        if level:
            child_low = low
            child_high = high
            if i:
                copy_key(&child_low, low_room, &e)
            if i + 1 < count:
                if not page_entry_at(p, i + 1, &e):
                    return fault(s, address, b"an entry extends beyond its page")
                copy_key(&child_high, high_room, &e)
            nodes_release(s)
            outcome = walk_page(s, child, level - 1, child_low, child_high, w)
        elif VALUE_OF(e.sizes) > PAGE_INLINE:
            length = VALUE_OF(e.sizes)
            if value_bytes(s, child, length) == NULL:
                return s.error
            outcome = w.visit(w.context, child, VALUE_NODE(length))
            nodes_release(s)
    return outcome


cdef int tree_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef tree_top root
    cdef survey w
    cdef bound none
    cdef int outcome
    if top_read(s, &root) != OK:
        return s.error
    if (root.levels == 0) != (root.top == 0) or root.levels > LEVELS_MAX:
        return fault(s, s.root, b"the tree has levels without pages, or too many")
    w.visit = visit
    w.context = context
    w.count = 0
    none.key = NULL
    none.length = 0
    if root.levels:
        outcome = walk_page(s, root.top, root.levels - 1, none, none, &w)
        if outcome != OK:
            return outcome
    nodes_release(s)
    if root.count != w.count:
        return fault(s, s.root, b"the tree's key count does not match the keys found")
    return OK


cdef int subtree_walk(instance *s, uint64_t address, uint32_t height, visitor visit,
                      void *context) noexcept nogil:
    cdef survey w
    cdef bound none
    if not height or height > LEVELS_MAX:
        return fault(s, address, b"a retired tree has no levels, or too many")
    w.visit = visit
    w.context = context
    w.count = 0
    none.key = NULL
    none.length = 0
    return walk_page(s, address, height - 1, none, none, &w)

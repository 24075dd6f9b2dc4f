"""Step from leaf to leaf, and answer the items of a range."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, fault
from structures.bptree_leaf cimport answer_item, leaf_of
from structures.bptree_pages cimport (
    LEVELS_MAX, child_of, page_read, path, top_read, tree_descend, tree_top,
)
from structures.mapping_operations cimport MISSING, MORE
from structures.ordered_operations cimport at_high, below_low, bound, stretch, tally
from structures.page cimport keys_compare, page, page_entry, page_entry_at, page_search

cdef enum:
    LEAVES_MAX = 64            # that one query counts


cdef int to_next_leaf(instance *s, const tree_top *root, path *p) noexcept nogil:
    """Move a path to its next leaf on the right; MISSING: there is none."""
    cdef uint32_t at = p.levels - 1
    cdef const page *inner
    cdef page_entry e
    while at:
        at -= 1
        inner = page_read(s, p.pages[at], p.levels - 1 - at)
        if inner == NULL:
            return s.error
        if p.indexes[at] + 1 < inner.count:
            if not page_entry_at(inner, p.indexes[at] + 1, &e):
                return fault(s, inner.node.address, b"an entry extends beyond its page")
            return tree_descend(s, root, e.key, e.key_length, p)
    return MISSING


cdef int to_last_leaf(instance *s, uint64_t address, uint32_t level,
                      const page **leaf) noexcept nogil:
    """Find the last leaf under a page."""
    cdef const page *node
    cdef page_entry e
    while True:
        node = page_read(s, address, level)
        if node == NULL:
            return s.error
        if not level:
            leaf[0] = node
            return OK
        if not page_entry_at(node, node.count - 1, &e):
            return fault(s, address, b"an entry extends beyond its page")
        address = child_of(&e)
        level -= 1


cdef int to_previous_leaf(instance *s, const path *p, const page **leaf) noexcept nogil:
    """Find the leaf on the left of a path; MISSING: there is none."""
    cdef uint32_t at = p.levels - 1
    cdef const page *inner
    cdef page_entry e
    while at:
        at -= 1
        if p.indexes[at]:
            inner = page_read(s, p.pages[at], p.levels - 1 - at)
            if inner == NULL:
                return s.error
            if p.indexes[at] > inner.count or not page_entry_at(inner, p.indexes[at] - 1, &e):
                return fault(s, inner.node.address, b"an entry extends beyond its page")
            return to_last_leaf(s, child_of(&e), p.levels - 2 - at, leaf)
    return MISSING


cdef int answer_leaf(instance *s, const stretch *c, const page *leaf, int first) noexcept nogil:
    """Answer with the items of a leaf, from this one on."""
    cdef page_entry e
    # each key must be beyond the previous one, or an iteration might never end
    cdef bound last = c.high if c.reverse else c.low
    cdef uint32_t answered = 0
    cdef int step = -1 if c.reverse else 1, order
    cdef bint same = not c.reverse and not c.after     # the range includes the bound itself
    while 0 <= first < leaf.count and answered < c.most:
        if not page_entry_at(leaf, <uint32_t> first, &e):
            return fault(s, leaf.node.address, b"an entry extends beyond its page")
        if c.reverse and below_low(&c.low, False, e.key, e.key_length):
            break
        if not c.reverse and at_high(&c.high, e.key, e.key_length):
            break
        if last.key != NULL:
            order = step * keys_compare(e.key, e.key_length, last.key, last.length)
            if order < 0 or (order == 0 and not same):
                return fault(s, leaf.node.address, b"the keys of a page are not in order")
        last.key = e.key
        last.length = e.key_length
        same = False
        if answer_item(s, &e, c.values, False) != OK:
            return s.error
        answered += 1
        first += step
    return OK if answered else MISSING


cdef int read_leaf(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef tree_top root
    cdef const page *leaf = NULL
    cdef path p
    cdef int outcome, index
    if top_read(s, &root) != OK:
        return s.error
    if not root.levels:
        return MISSING
    if root.levels > LEVELS_MAX:
        return fault(s, s.root, b"the tree is too high")
    if c.reverse and c.high.key == NULL:
        outcome = to_last_leaf(s, root.top, root.levels - 1, &leaf)
        return answer_leaf(s, c, leaf, leaf.count - 1) if outcome == OK else outcome
    if c.reverse:
        outcome = tree_descend(s, &root, c.high.key, c.high.length, &p)
    elif c.low.key == NULL:
        outcome = tree_descend(s, &root, b"", 0, &p)
    else:
        outcome = tree_descend(s, &root, c.low.key, c.low.length, &p)
    if outcome == OK:
        outcome = leaf_of(s, &p, &leaf)
    if outcome != OK:
        return outcome
    index = p.indexes[p.levels - 1]
    if c.reverse:
        index -= 1
        if index < 0:
            outcome = to_previous_leaf(s, &p, &leaf)
            if outcome != OK:
                return outcome
            index = leaf.count - 1
        return answer_leaf(s, c, leaf, index)
    index += p.found and c.after
    if index >= leaf.count:
        outcome = to_next_leaf(s, &root, &p)
        if outcome == OK:
            outcome = leaf_of(s, &p, &leaf)
        if outcome != OK:
            return outcome
        index = p.indexes[p.levels - 1]
    return answer_leaf(s, c, leaf, index)


cdef int read_next_bound(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef tree_top root
    cdef const page *inner
    cdef page_entry e, next
    cdef uint64_t address
    cdef uint32_t level
    cdef int index
    cdef bint found = False
    cdef const char *low = c.low.key
    if top_read(s, &root) != OK:
        return s.error
    if not root.levels or root.levels > LEVELS_MAX:
        return MISSING
    if low == NULL:
        low = b""
    next.key = NULL
    next.key_length = 0
    address = root.top
    level = root.levels - 1
    while level:
        inner = page_read(s, address, level)
        if inner == NULL:
            break
        index = page_search(inner, low, c.low.length, &found)
        if index < 0:
            break
        if not found:
            index -= 1
        if <uint32_t> index + 1 < inner.count and page_entry_at(inner, <uint32_t> index + 1, &e):
            next = e
        if not page_entry_at(inner, <uint32_t> index, &e):
            break
        address = child_of(&e)
        level -= 1
    return MISSING if next.key == NULL else answer_put(s, next.key, next.key_length)


cdef int leaf_end(instance *s, const tally *c, const page *leaf, uint32_t *end) noexcept nogil:
    """Find the index behind the last entry of a leaf that is in the range."""
    cdef page_entry e
    cdef bint found = False
    cdef int index
    end[0] = leaf.count
    if c.high.key == NULL:
        return OK
    if not page_entry_at(leaf, leaf.count - 1, &e):
        return fault(s, leaf.node.address, b"an entry extends beyond its page")
    if not at_high(&c.high, e.key, e.key_length):
        return OK
    index = page_search(leaf, c.high.key, c.high.length, &found)
    if index < 0:
        return fault(s, leaf.node.address, b"an entry extends beyond its page")
    end[0] = <uint32_t> index
    return OK


cdef int count_leaves(instance *s, void *context) noexcept nogil:
    cdef tally *c = <tally *> context
    cdef tree_top root
    cdef const page *leaf = NULL
    cdef const char *low = c.low.key if c.low.key != NULL else <const char *> b""
    cdef page_entry e
    cdef path p
    cdef uint32_t first, end, leaves = 0
    cdef int outcome
    c.count = 0
    if top_read(s, &root) != OK:
        return s.error
    if not root.levels:
        return OK
    outcome = tree_descend(s, &root, low, c.low.length, &p)
    while outcome == OK:
        outcome = leaf_of(s, &p, &leaf)
        if outcome == OK:
            outcome = leaf_end(s, c, leaf, &end)
        if outcome != OK:
            return outcome
        first = p.indexes[p.levels - 1] + (p.found and c.after and not leaves)
        c.count += end - min(first, end)
        if end < leaf.count:
            return OK
        leaves += 1
        if leaves == LEAVES_MAX:
            if not page_entry_at(leaf, end - 1, &e):
                return fault(s, leaf.node.address, b"an entry extends beyond its page")
            if below_low(&c.low, True, e.key, e.key_length):
                return fault(s, leaf.node.address, b"the keys of the tree are not in order")
            outcome = answer_put(s, e.key, e.key_length)
            return MORE if outcome == OK else outcome
        outcome = to_next_leaf(s, &root, &p)
    return OK if outcome == MISSING else outcome

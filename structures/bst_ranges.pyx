"""Step from node to node, answer the items of a range, and count its keys."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, fault
from structures.bst_nodes cimport (
    HEIGHT_MAX, HIGHER, LOWER, bst_read, bst_seek, bst_step, bst_top, bst_way, entry,
    entry_of, inline_max, top_read,
)
from structures.layout cimport KEY_OF, VALUE_OF, bst_node
from structures.mapping_operations cimport MISSING, MORE, answer_entry
from structures.ordered_operations cimport at_high, below_low, bound, stretch, tally
from structures.page cimport keys_compare

cdef enum:
    STRETCH_NODES = 64         # of one query: each may be a READ, and a writer restarts them all
    COUNTED_MAX = 512          # nodes of a step of a count


cdef int read_nodes(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef int direction = LOWER if c.reverse else HIGHER, step = -1 if c.reverse else 1, outcome
    cdef uint32_t answered = 0, most = min(c.most, <uint32_t> STRETCH_NODES)
    cdef const bound *start = &c.high if c.reverse else &c.low
    cdef const bst_node *node
    cdef const char *before = NULL
    cdef uint32_t before_length = 0, most_inside = inline_max(s)
    cdef entry e
    cdef bst_way way
    outcome = bst_seek(s, start.key, start.length, c.after, direction, &way)
    while outcome == OK:
        node = bst_read(s, way.links[way.depth - 1])
        if node == NULL:
            outcome = s.error
            break
        entry_of(node, &e)
        if c.reverse:
            if below_low(&c.low, False, e.key, e.key_length):
                break
        elif at_high(&c.high, e.key, e.key_length):
            break
        # Each key must be beyond the one before, or an iteration might never end.
        if before != NULL and step * keys_compare(e.key, e.key_length, before, before_length) <= 0:
            return fault(s, node.node.address, b"the keys of the tree are not in order")
        if answer_entry(s, e.sizes, e.key,
                        e.payload if c.values and VALUE_OF(e.sizes) <= most_inside else NULL) != OK:
            return s.error
        answered += 1
        if answered == most:
            return OK
        before = e.key
        before_length = e.key_length
        outcome = bst_step(s, direction, &way)
    if answered:
        return OK                          # a damage is met again, without items before it
    return MISSING if outcome == OK else outcome


cdef int count_nodes(instance *s, void *context) noexcept nogil:
    cdef tally *c = <tally *> context
    cdef const bst_node *node
    cdef const char *before = NULL
    cdef uint32_t before_length = 0, length
    cdef bst_way way
    cdef int outcome = bst_seek(s, c.low.key, c.low.length, c.after, HIGHER, &way)
    c.count = 0
    while outcome == OK:
        node = bst_read(s, way.links[way.depth - 1])
        if node == NULL:
            return s.error
        length = KEY_OF(node.sizes)
        if at_high(&c.high, node.key, length):
            return OK
        if before != NULL and keys_compare(before, before_length, node.key, length) >= 0:
            return fault(s, node.node.address, b"the keys of the tree are not in order")
        before = node.key
        before_length = length
        c.count += 1
        if c.count == COUNTED_MAX:
            return MORE if answer_put(s, before, before_length) == OK else s.error
        outcome = bst_step(s, HIGHER, &way)
    return OK if outcome == MISSING else outcome


cdef int read_next_bound(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef const bst_node *node
    cdef const char *next = NULL
    cdef uint32_t next_length = 0, depth
    cdef uint64_t link
    cdef bst_top root
    cdef int side
    if top_read(s, &root) != OK:
        return s.error
    link = root.top
    for depth in range(HEIGHT_MAX):
        node = bst_read(s, link) if link else NULL
        if node == NULL:
            break
        side = HIGHER
        if not below_low(&c.low, True, node.key, KEY_OF(node.sizes)):
            side = LOWER
            if next == NULL or keys_compare(node.key, KEY_OF(node.sizes), next, next_length) < 0:
                next = node.key
                next_length = KEY_OF(node.sizes)
        link = node.links[side]
    return MISSING if next == NULL else answer_put(s, next, next_length)

"""Walk a binary search tree in the order of its keys; check order, balance and count."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.bst_nodes cimport (
    HEIGHT_MAX, HIGHER, LOWER, bst_read, bst_top, entry, entry_of, is_inside, top_read,
    value_address,
)
from structures.key_partition cimport key_is_misplaced
from structures.layout cimport (
    KEY_MAX, KEY_OF, LINK_DEEP, VALUE_NODE, VALUE_OF, bst_address, bst_length, bst_node,
)
from structures.page cimport keys_compare
from structures.values cimport value_bytes

cdef struct survey:
    visitor visit
    void *context
    uint64_t count
    bint balanced              # the balance is checked
    uint32_t last_length       # of the key that was visited last; 0: none yet
    char[KEY_MAX] last


cdef int check_order(instance *s, const bst_node *node, survey *w) noexcept nogil:
    cdef uint32_t length = KEY_OF(node.sizes)
    if w.last_length and keys_compare(w.last, w.last_length, node.key, length) >= 0:
        return fault(s, node.node.address, b"the keys of the tree are not in order")
    if key_is_misplaced(s, node.key, length):
        return fault(s, node.node.address, b"a key is in the wrong partition")
    memcpy(w.last, node.key, length)
    w.last_length = length
    return OK


cdef int visit_node(instance *s, uint64_t link, survey *w) noexcept nogil:
    """Visit a node and its value."""
    cdef const bst_node *node = bst_read(s, link)
    cdef entry e
    cdef int outcome
    if node == NULL or check_order(s, node, w) != OK:
        return s.error
    entry_of(node, &e)
    w.count += 1
    outcome = w.visit(w.context, bst_address(link, s.root), bst_length(link))
    if outcome != OK or is_inside(s, e.sizes):
        return outcome
    if value_bytes(s, value_address(&e), VALUE_OF(e.sizes)) == NULL:
        return s.error
    return w.visit(w.context, value_address(&e), VALUE_NODE(VALUE_OF(e.sizes)))


cdef int walk_below(instance *s, uint64_t link, uint32_t room, survey *w,
                    uint32_t *height) noexcept nogil:
    """Walk a subtree of at most `room` levels."""
    cdef const bst_node *node
    cdef uint64_t left, right
    cdef uint32_t low = 0, high = 0
    cdef int outcome
    height[0] = 0
    if not link:
        return OK
    if not room:
        return fault(s, bst_address(link, s.root), b"the tree is too high")
    node = bst_read(s, link)
    if node == NULL:
        return s.error
    left = node.links[LOWER]
    right = node.links[HIGHER]
    nodes_release(s)
    outcome = walk_below(s, left, room - 1, w, &low)
    if outcome == OK:
        outcome = visit_node(s, link, w)
    if outcome != OK:
        return outcome
    nodes_release(s)
    outcome = walk_below(s, right, room - 1, w, &high)
    if outcome != OK:
        return outcome
    height[0] = max(low, high) + 1
    if not w.balanced:
        return OK
    if ((left & LINK_DEEP != 0) != (low == high + 1)
            or (right & LINK_DEEP != 0) != (high == low + 1)):
        return fault(s, bst_address(link, s.root), b"the links of a node do not show its balance")
    if low > high + 1 or high > low + 1:
        return fault(s, bst_address(link, s.root), b"a node is out of balance")
    return OK


cdef int subtree_walk(instance *s, uint64_t link, bint balanced, visitor visit, void *context,
                      uint64_t *count) noexcept nogil:
    cdef survey w
    cdef uint32_t height = 0
    cdef int outcome
    w.visit = visit
    w.context = context
    w.balanced = balanced
    w.count = w.last_length = 0
    outcome = walk_below(s, link, HEIGHT_MAX, &w, &height)
    count[0] = w.count
    return outcome


cdef int bst_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef bst_top root
    cdef uint64_t count = 0
    cdef int outcome
    if top_read(s, &root) != OK:
        return s.error
    if root.top & LINK_DEEP:
        return fault(s, s.root, b"the top of the tree has no other side")
    outcome = subtree_walk(s, root.top, True, visit, context, &count)
    if outcome == OK and count != root.count:
        return fault(s, s.root, b"the tree's key count does not match the keys found")
    return outcome

"""Clear and collect a multi-version binary search tree; everything else is as in a BST."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, nodes_release, record_room, visitor,
)
from structures.bst_nodes cimport (
    HEIGHT_MAX, HIGHER, LOWER, bst_read, bst_top, entry, entry_of, is_inside, top_read, top_write,
    value_address,
)
from structures.bst_operations cimport bst_pop, bst_put, bst_take
from structures.bst_walk cimport bst_walk, subtree_walk
from structures.layout cimport (
    LINK_DEEP, RETIRED, RETIRED_SIZE, RETIRED_SUBTREE, RETIRED_VERSION, TYPE_BST, VALUE_OF,
    bst_address, bst_length, bst_link, bst_node,
)
from structures.multi_version cimport (
    COLLECT, retired_add, retired_collect, retired_collect_all, retired_free, retired_walk,
    subtree_retire,
)
from structures.ordered_operations cimport ordered_apply
from structures.values cimport value_free

# A retired tree has the length of its top node / 8 in the place of its height.

cdef enum:
    MVBST_EXPAND_BYTES = 3072  # that freeing a node of a retired tree changes at most


cdef int expand(instance *s, uint64_t address, uint64_t what) noexcept nogil:
    """Free the lowest node of a retired tree, and its value; list the rest again.

    No reader uses the tree, so its links may change.  To list both children of the top instead
    would make the list grow, for which a full pool has no room.
    """
    cdef uint64_t top = bst_link(address, RETIRED_SIZE(what) << 3), link = top, above = 0, rest
    cdef const bst_node *node = NULL
    cdef bst_node *parent
    cdef entry e
    cdef uint32_t depth
    for depth in range(HEIGHT_MAX):
        node = bst_read(s, link)
        if node == NULL:
            return s.error
        if not node.links[LOWER]:
            break
        above = link
        link = node.links[LOWER]
    if node.links[LOWER]:
        return fault(s, address, b"a retired tree is too high")
    rest = node.links[HIGHER] & ~LINK_DEEP
    entry_of(node, &e)
    if not is_inside(s, e.sizes):
        if value_free(s, value_address(&e), VALUE_OF(e.sizes)) != OK:
            return s.error
    if node_free(s, bst_address(link, s.root), bst_length(link)) != OK:
        return s.error
    if above:
        parent = <bst_node *> node_change(
            s, bst_address(above, s.root), bst_length(above), TYPE_BST, RNVM_NODE, 8)
        if parent == NULL:
            return s.error
        parent.links[LOWER] = rest
    else:
        top = rest
    if not top:
        return OK
    return retired_add(s, bst_address(top, s.root) | RETIRED_SUBTREE,
                       RETIRED(RETIRED_VERSION(what), bst_length(top) >> 3))


cdef int clear(instance *s) noexcept nogil:
    """Retire the whole tree as one entry."""
    cdef bst_top root
    cdef uint64_t top
    if top_read(s, &root) != OK:
        return s.error
    top = root.top
    if not top:
        return OK
    root = bst_top(0, 0)
    if top_write(s, &root) != OK:
        return s.error
    return subtree_retire(s, bst_address(top, s.root), bst_length(top) >> 3)


cdef int mvbst_apply(instance *s, uint32_t code, const char *bytes,
                     uint32_t length) noexcept nogil:
    # An operation with a long value keeps the log's record for itself.
    if length < record_room(s) // 4 and retired_free(s, expand, MVBST_EXPAND_BYTES) != OK:
        return s.error
    if code == COLLECT and not length:
        return retired_collect_all(s, expand, MVBST_EXPAND_BYTES)
    return ordered_apply(s, code, bytes, length, bst_put, bst_take, bst_pop, clear)


cdef int mvbst_collect(instance *s) noexcept nogil:
    return retired_collect(s, expand, MVBST_EXPAND_BYTES)


cdef int walk_retired(instance *s, uint64_t address, uint32_t size, visitor visit,
                      void *context) noexcept nogil:
    cdef uint64_t count = 0
    return subtree_walk(s, bst_link(address, size << 3), False, visit, context, &count)


cdef int mvbst_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef int outcome = bst_walk(s, visit, context)
    nodes_release(s)
    return retired_walk(s, visit, context, TYPE_BST, walk_retired) if outcome == OK else outcome

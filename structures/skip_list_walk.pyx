"""Walk a skip list along its lowest level; check each node on all of its levels."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.key_partition cimport key_is_misplaced
from structures.layout cimport (
    KEY_MAX, KEY_OF, SKIP_INLINE, SKIP_LEVELS, VALUE_MAX, VALUE_NODE, VALUE_OF, skip_link,
    skip_root, skip_tower,
)
from structures.page cimport keys_compare
from structures.skip_list_nodes cimport (
    common_bytes, levels_of, root_of, two_bytes, tower_key, tower_read, value_node_of,
)
from structures.values cimport value_bytes


cdef struct survey:
    uint64_t count
    uint64_t seed
    skip_link[SKIP_LEVELS] next    # that the nodes so far lead to, on each level
    # bytes that all keys since the last node of a level have in common with it
    uint32_t[SKIP_LEVELS] common
    skip_link last                 # the node before
    char[KEY_MAX] key              # of that node
    uint32_t length


cdef inline bint same(const skip_link *a, const skip_link *b) noexcept nogil:
    return a.address == b.address and a.length == b.length


cdef int check_tower(instance *s, const skip_tower *node, const skip_link *at,
                     survey *w) noexcept nogil:
    """Check a node against the ones before it."""
    cdef uint32_t level, length = KEY_OF(node.sizes), common
    if VALUE_OF(node.sizes) > VALUE_MAX:
        return fault(s, at.address, b"a value exceeds the longest value")
    if w.count and keys_compare(w.key, w.length, tower_key(node), length) >= 0:
        return fault(s, at.address, b"the keys of the skip list are not in order")
    if key_is_misplaced(s, tower_key(node), length):
        return fault(s, at.address, b"a key is in the wrong partition")
    if node.levels != levels_of(w.seed, tower_key(node), length):
        return fault(s, at.address, b"the levels of a node do not match its key")
    if not same(&node.back, &w.last):
        return fault(s, at.address, b"a node of the skip list does not lead back")
    common = common_bytes(tower_key(node), length, w.key, w.length)
    for level in range(SKIP_LEVELS):
        w.common[level] = min(w.common[level], common)
    for level in range(node.levels):
        if (w.next[level].common != w.common[level]
                or w.next[level].ahead != two_bytes(tower_key(node), length, w.common[level])):
            return fault(s, at.address, b"a link of the skip list does not describe its node")
        w.common[level] = KEY_MAX
        if not same(&w.next[level], at):
            return fault(s, at.address, b"a node of the skip list is not on all its levels")
        w.next[level] = node.next[level]
    memcpy(w.key, tower_key(node), length)
    w.length = length
    w.last = at[0]
    w.count += 1
    return OK


cdef int skip_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *node
    cdef skip_link at
    cdef survey w
    cdef uint64_t value
    cdef uint32_t length, level
    cdef int outcome
    if root == NULL:
        return s.error
    w.count = w.length = 0
    w.seed = root.seed
    memset(&w.last, 0, sizeof(w.last))
    for level in range(SKIP_LEVELS):
        w.next[level] = root.next[level]
        w.common[level] = 0
    while w.next[0].address:
        at = w.next[0]
        node = tower_read(s, &at, 0)
        if node == NULL:
            return s.error
        outcome = check_tower(s, node, &at, &w)
        if outcome == OK:
            outcome = visit(context, at.address, at.length)
        if outcome != OK:
            return outcome
        value = value_node_of(node)
        length = VALUE_OF(node.sizes)
        if value or length > SKIP_INLINE:
            if value_bytes(s, value, length) == NULL:
                return s.error
            outcome = visit(context, value, VALUE_NODE(length))
            if outcome != OK:
                return outcome
        nodes_release(s)
    root = root_of(s)
    if root == NULL:
        return s.error
    for level in range(SKIP_LEVELS):
        if w.next[level].address:
            return fault(s, w.next[level].address,
                         b"a level of the skip list has a node that is not on the level below")
    if not same(&root.last, &w.last):
        return fault(s, s.root, b"the last node of the skip list does not match its root")
    if root.count != w.count:
        return fault(s, s.root, b"the skip list's key count does not match the keys found")
    return OK

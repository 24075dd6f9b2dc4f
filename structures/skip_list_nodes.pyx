"""Search the nodes of a skip list, link and unlink them.

Each step to another node verifies that the keys ascend, so a search of damaged or mixed nodes ends.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rfp.core.core cimport rfp_hash
from rfp.core.system cimport __builtin_ctzll
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, node_new, node_read, root_change,
)
from structures.layout cimport (
    KEY_MAX, KEY_OF, SKIP_LEVELS, TYPE_TOWER, skip_key_at, skip_length, skip_link, skip_payload,
    skip_root, skip_tower,
)
from structures.mapping_operations cimport MISSING
from structures.page cimport keys_compare


cdef uint32_t levels_of(uint64_t seed, const char *key, uint32_t length) noexcept nogil:
    cdef uint64_t hash = rfp_hash(key, length, seed)
    return 1 + __builtin_ctzll(hash | <uint64_t> 1 << 2 * (SKIP_LEVELS - 1)) // 2


# Reading


cdef const skip_tower *tower_read(instance *s, const skip_link *link,
                                  uint32_t level) noexcept nogil:
    cdef const skip_tower *node
    if link.length < sizeof(skip_tower):
        s.error = fault(s, link.address, b"a link of the skip list has no length")
        return NULL
    node = <const skip_tower *> node_read(s, link.address, link.length, TYPE_TOWER)
    if node == NULL:
        return NULL
    if (not level < node.levels <= SKIP_LEVELS or not 1 <= KEY_OF(node.sizes) <= KEY_MAX
            or skip_length(node.sizes, node.levels) != link.length):
        s.error = fault(s, link.address, b"a node of the skip list is inconsistent")
        return NULL
    return node


cdef inline skip_link link_after(const skip_root *root, const skip_tower *node,
                                 uint32_t level) noexcept nogil:
    return root.next[level] if node == NULL else node.next[level]


cdef inline int compare(const skip_tower *node, const char *key, uint32_t length) noexcept nogil:
    return keys_compare(tower_key(node), KEY_OF(node.sizes), key, length)


cdef int search(instance *s, const skip_root *root, const char *key, uint32_t length, trail *t,
                bint around, bint early) noexcept nogil:
    """Search a key.  around: unreadable nodes; early: end at the first level that has the key."""
    cdef const skip_tower *node = NULL             # the last one below the key; NULL: the root
    cdef const skip_tower *next
    cdef skip_link at, link
    cdef uint32_t level = SKIP_LEVELS
    cdef bint found = False
    cdef int order
    memset(&at, 0, sizeof(at))
    memset(&t.at, 0, sizeof(t.at))
    t.node = NULL
    while level:
        level -= 1
        while True:
            link = link_after(root, node, level)
            # At the end of the level, or at the node at which the level above ended.
            if link.address == t.at.address:
                break
            if not link.address:
                return fault(s, at.address, b"a level of the skip list has a node that is not "
                                            b"on the level below")
            next = tower_read(s, &link, level)
            if next == NULL:
                if around and level:
                    s.error = OK
                    break
                return s.error
            if node != NULL and compare(next, tower_key(node), KEY_OF(node.sizes)) <= 0:
                return fault(s, link.address, b"the keys of the skip list are not in order")
            order = compare(next, key, length)
            if order >= 0:
                t.at = link
                t.node = next
                found = order == 0
                if early and found:
                    return OK
                break
            node = next
            at = link
        t.before[level] = at
    return OK if found else MISSING


cdef int towers_search(instance *s, const skip_root *root, const char *key, uint32_t length,
                       trail *t) noexcept nogil:
    return search(s, root, key, length, t, False, False)


cdef int towers_find(instance *s, const skip_root *root, const char *key, uint32_t length,
                     const skip_tower **node) noexcept nogil:
    cdef trail t
    cdef int outcome = search(s, root, key, length, &t, False, True)
    node[0] = t.node if outcome == OK else NULL
    return outcome


cdef int towers_search_around(instance *s, const skip_root *root, const char *key,
                              uint32_t length, trail *t) noexcept nogil:
    return search(s, root, key, length, t, True, False)


# Changing


cdef skip_tower *tower_change(instance *s, const skip_link *link, uint32_t offset,
                              uint32_t n) noexcept nogil:
    return <skip_tower *> node_change(s, link.address, link.length, TYPE_TOWER, offset, n)


cdef int link_forward(instance *s, const skip_link *before, uint32_t level,
                      const skip_link *to) noexcept nogil:
    cdef skip_tower *node
    cdef skip_root *root
    if before.address:
        node = tower_change(s, before, skip_key_at(level), sizeof(skip_link))
        if node == NULL:
            return s.error
        node.next[level] = to[0]
        return OK
    root = <skip_root *> root_change(s, RNVM_NODE + 32 + level * sizeof(skip_link),
                                     sizeof(skip_link))
    if root == NULL:
        return s.error
    root.next[level] = to[0]
    return OK


cdef int link_back(instance *s, const skip_link *after, const skip_link *to) noexcept nogil:
    cdef skip_tower *node
    cdef skip_root *root
    if after.address:
        if tower_read(s, after, 0) == NULL:
            return s.error
        node = tower_change(s, after, RNVM_NODE, sizeof(skip_link))
        if node == NULL:
            return s.error
        node.back = to[0]
        return OK
    root = <skip_root *> root_change(s, RNVM_NODE + 16, sizeof(skip_link))
    if root == NULL:
        return s.error
    root.last = to[0]
    return OK


cdef int tower_link(instance *s, const trail *t, const skip_link *old, uint32_t levels,
                    uint32_t sizes, const char *key, const char *payload) noexcept nogil:
    """Make a node and link it: before the one that the trail found, or in place of `old`, that."""
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *before
    cdef const skip_tower *replaced = t.node
    cdef skip_tower *node
    cdef skip_link link
    cdef uint32_t level
    if root == NULL:
        return s.error
    memset(&link, 0, sizeof(link))
    link.length = skip_length(sizes, levels)
    node = <skip_tower *> node_new(s, link.length, TYPE_TOWER, &link.address)
    if node == NULL:
        return s.error
    node.sizes = sizes
    node.levels = levels
    memcpy(<char *> node + skip_key_at(levels), key, KEY_OF(sizes))
    memcpy(<char *> node + skip_key_at(levels) + KEY_OF(sizes), payload, skip_payload(sizes))
    node.back = t.before[0]
    for level in range(levels):
        before = NULL
        if t.before[level].address:
            before = tower_read(s, &t.before[level], level)
            if before == NULL:
                return s.error
        node.next[level] = link_after(root, before, level)
        if old != NULL:
            if node.next[level].address != old.address:
                return fault(s, old.address, b"a node of the skip list is not on all its levels")
            node.next[level] = replaced.next[level]
        if link_forward(s, &t.before[level], level, &link) != OK:
            return s.error
    return link_back(s, &node.next[0], &link)


cdef int tower_add(instance *s, const trail *t, uint32_t levels, uint32_t sizes, const char *key,
                   const char *payload) noexcept nogil:
    return tower_link(s, t, NULL, levels, sizes, key, payload)


cdef int tower_replace(instance *s, const trail *t, uint32_t sizes,
                       const char *payload) noexcept nogil:
    cdef int outcome = tower_link(s, t, &t.at, t.node.levels, sizes, tower_key(t.node), payload)
    return node_free(s, t.at.address, t.at.length) if outcome == OK else outcome


cdef int tower_remove(instance *s, const trail *t) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *before
    cdef uint32_t level
    if root == NULL:
        return s.error
    for level in range(t.node.levels):
        before = NULL
        if t.before[level].address:
            before = tower_read(s, &t.before[level], level)
            if before == NULL:
                return s.error
        if link_after(root, before, level).address != t.at.address:
            return fault(s, t.at.address, b"a node of the skip list is not on all its levels")
        if link_forward(s, &t.before[level], level, &t.node.next[level]) != OK:
            return s.error
    if link_back(s, &t.node.next[0], &t.before[0]) != OK:
        return s.error
    return node_free(s, t.at.address, t.at.length)

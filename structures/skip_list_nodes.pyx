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
    return 1 + <uint32_t> __builtin_ctzll(hash | <uint64_t> 1 << (SKIP_LEVELS - 1))


# Hints


cdef uint32_t common_bytes(const char *a, uint32_t a_length, const char *b,
                           uint32_t b_length) noexcept nogil:
    cdef uint32_t n = 0, least = min(a_length, b_length)
    cdef uint64_t one, other
    while n + 8 <= least:
        memcpy(&one, a + n, 8)
        memcpy(&other, b + n, 8)
        if one != other:
            return n + <uint32_t> __builtin_ctzll(one ^ other) // 8
        n += 8
    while n < least and a[n] == b[n]:
        n += 1
    return n


cdef uint32_t two_bytes(const char *key, uint32_t length, uint32_t at) noexcept nogil:
    cdef uint32_t first = <unsigned char> key[at] if at < length else 0
    cdef uint32_t second = <unsigned char> key[at + 1] if at + 1 < length else 0
    return first << 8 | second


cdef void link_describe(skip_link *link, const char *key, uint32_t length, const char *before,
                        uint32_t before_length) noexcept nogil:
    link.common = common_bytes(key, length, before, before_length)
    link.ahead = two_bytes(key, length, link.common)


cdef void link_over(skip_link *link, const skip_link *first) noexcept nogil:
    """Turn the hint of a link from a node into that of a link from the node before it.

    first: the link from that one to the node.  The keys ascend, so the first and the last have in
    common what each has with the middle one.
    """
    cdef uint32_t second
    if link.common <= first.common:
        return
    second = first.ahead & 0xff
    if first.common + 1 == link.common:
        second = link.ahead >> 8           # there the last key differs from the middle one
    link.common = first.common
    link.ahead = (first.ahead & 0xff00) | second


cdef inline bint leads_beyond(const skip_link *link, const char *key, uint32_t length,
                              uint32_t common) noexcept nogil:
    """Return whether the hint of a link shows that its node is beyond the key.

    common: bytes that the key has in common with the node that has the link.
    """
    if common != link.common:
        return common > link.common
    return two_bytes(key, length, common) < link.ahead


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
    cdef uint32_t level = SKIP_LEVELS, common = 0
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
            if leads_beyond(&link, key, length, common):
                t.at = link
                t.node = NULL
                found = False
                break
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
            if link.common <= common:
                common = common_bytes(key, length, tower_key(next), KEY_OF(next.sizes))
            node = next
            at = link
        t.before[level] = at
        t.nodes[level] = node
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


cdef int root_link(instance *s, uint32_t level, const skip_link *to) noexcept nogil:
    cdef const skip_tower *next
    cdef skip_link link = to[0], none
    memset(&none, 0, sizeof(none))
    if link.address:
        next = tower_read(s, &link, level)
        if next == NULL:
            return s.error
        link_describe(&link, tower_key(next), KEY_OF(next.sizes), NULL, 0)
    return link_forward(s, &none, level, &link)


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


cdef skip_tower *tower_make(instance *s, skip_link *link, uint32_t levels, uint32_t sizes,
                            const char *key, const char *payload) noexcept nogil:
    cdef skip_tower *node
    memset(link, 0, sizeof(link[0]))
    link.length = skip_length(sizes, levels)
    node = <skip_tower *> node_new(s, link.length, TYPE_TOWER, &link.address)
    if node == NULL:
        return NULL
    node.sizes = sizes
    node.levels = levels
    memcpy(<char *> node + skip_key_at(levels), key, KEY_OF(sizes))
    memcpy(<char *> node + skip_key_at(levels) + KEY_OF(sizes), payload, skip_payload(sizes))
    return node


cdef int next_describe(instance *s, skip_link *link, uint32_t level, const char *key,
                       uint32_t length, uint32_t common) noexcept nogil:
    """Turn the hint of a link, from the node before a new key, into that of a link from the key.

    common: bytes that the key has in common with the node before.
    """
    cdef const skip_tower *next
    # The key differs from the next one where the node before does: the hint stays.  On the lowest
    # level the next node is read anyway, since it links back.
    if level and leads_beyond(link, key, length, common):
        if common > link.common or two_bytes(key, length, common) >> 8 != link.ahead >> 8:
            return OK
    next = tower_read(s, link, level)
    if next == NULL:
        return s.error
    # A wrong hint must not lead to keys out of order.
    if compare(next, key, length) <= 0:
        return fault(s, link.address, b"the keys of the skip list are not in order")
    link_describe(link, tower_key(next), KEY_OF(next.sizes), key, length)
    return OK


cdef int tower_add(instance *s, const trail *t, uint32_t levels, uint32_t sizes, const char *key,
                   const char *payload) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *before = NULL
    cdef skip_tower *node
    cdef skip_link link, back
    cdef uint32_t level, length = KEY_OF(sizes)
    if root == NULL:
        return s.error
    node = tower_make(s, &link, levels, sizes, key, payload)
    if node == NULL:
        return s.error
    for level in range(levels):
        before = t.nodes[level]
        node.next[level] = link_after(root, before, level)
        link_describe(&link, key, length, NULL if before == NULL else tower_key(before),
                      0 if before == NULL else KEY_OF(before.sizes))
        if (node.next[level].address
                and next_describe(s, &node.next[level], level, key, length, link.common) != OK):
            return s.error
        if link_forward(s, &t.before[level], level, &link) != OK:
            return s.error
    back = t.before[0]
    back.common = back.ahead = 0
    node.back = back
    link.common = link.ahead = 0
    return link_back(s, &node.next[0], &link)


cdef int tower_replace(instance *s, const trail *t, uint32_t sizes,
                       const char *payload) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *before = NULL
    cdef skip_tower *node
    cdef skip_link link, hinted
    cdef uint32_t level
    if root == NULL:
        return s.error
    node = tower_make(s, &link, t.node.levels, sizes, tower_key(t.node), payload)
    if node == NULL:
        return s.error
    node.back = t.node.back
    for level in range(t.node.levels):
        before = t.nodes[level]
        hinted = link_after(root, before, level)
        if hinted.address != t.at.address:
            return fault(s, t.at.address, b"a node of the skip list is not on all its levels")
        hinted.address = link.address
        hinted.length = link.length
        node.next[level] = t.node.next[level]
        if link_forward(s, &t.before[level], level, &hinted) != OK:
            return s.error
    if link_back(s, &node.next[0], &link) != OK:
        return s.error
    return node_free(s, t.at.address, t.at.length)


cdef int tower_remove(instance *s, const trail *t) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *before = NULL
    cdef skip_link back, first, link
    cdef uint32_t level
    if root == NULL:
        return s.error
    for level in range(t.node.levels):
        before = t.nodes[level]
        first = link_after(root, before, level)
        if first.address != t.at.address:
            return fault(s, t.at.address, b"a node of the skip list is not on all its levels")
        link = t.node.next[level]
        if link.address:
            link_over(&link, &first)
        if link_forward(s, &t.before[level], level, &link) != OK:
            return s.error
    back = t.before[0]
    back.common = back.ahead = 0
    if link_back(s, &t.node.next[0], &back) != OK:
        return s.error
    return node_free(s, t.at.address, t.at.length)

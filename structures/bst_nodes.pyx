"""Descend in a binary search tree, step along it, insert and remove nodes."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, node_new, node_read, root_change, root_read,
    version_read, version_write,
)
from structures.layout cimport (
    BST_INLINE, BST_KEY, KEY_MAX, KEY_OF, LINK_DEEP, MVBST_INLINE, SIZES, TYPE_BST, UP8, VALUE_MAX,
    VALUE_OF, bst_address, bst_length, bst_link, bst_node, bst_root,
)
from structures.mapping_operations cimport MISSING, pair
from structures.multi_version cimport multi_version, node_add, node_make, node_retire, unseen
from structures.page cimport keys_compare

cdef enum:
    LINKS = 16                 # bytes of the links of a node


cdef uint32_t inline_max(const instance *s) noexcept nogil:
    return MVBST_INLINE if multi_version(s) else BST_INLINE


cdef bint is_inside(const instance *s, uint32_t sizes) noexcept nogil:
    return VALUE_OF(sizes) <= inline_max(s)


cdef uint32_t node_length(const instance *s, uint32_t sizes) noexcept nogil:
    return UP8(BST_KEY + KEY_OF(sizes) + (VALUE_OF(sizes) if is_inside(s, sizes) else 8))


cdef const bst_node *bst_read(instance *s, uint64_t link) noexcept nogil:
    cdef uint64_t address = bst_address(link, s.root)
    cdef const bst_node *node
    cdef uint32_t length = bst_length(link)
    if length <= BST_KEY:
        fault(s, address, b"a link has no node")
        return NULL
    node = <const bst_node *> node_read(s, address, length, TYPE_BST)
    if node == NULL:
        return NULL
    if (not 1 <= KEY_OF(node.sizes) <= KEY_MAX or VALUE_OF(node.sizes) > VALUE_MAX
            or node_length(s, node.sizes) != length):
        fault(s, address, b"a node of the tree does not have the size of its item")
        return NULL
    return node


cdef void entry_of(const bst_node *node, entry *e) noexcept nogil:
    e.sizes = node.sizes
    e.key_length = KEY_OF(node.sizes)
    e.key = node.key
    e.payload = e.key + e.key_length


cdef uint64_t value_address(const entry *e) noexcept nogil:
    cdef uint64_t address
    memcpy(&address, e.payload, 8)
    return address


# The root


cdef int top_read(instance *s, bst_top *root) noexcept nogil:
    cdef const bst_root *found
    cdef rnvm_version version
    if multi_version(s):
        if version_read(s, &version) != OK:
            return s.error
        root[0] = bst_top(version.count, version.top)
        return OK
    found = <const bst_root *> root_read(s)
    if found == NULL:
        return s.error
    root[0] = bst_top(found.count, found.top)
    return OK


cdef int top_write(instance *s, const bst_top *root) noexcept nogil:
    cdef bst_root *changed
    cdef rnvm_version version
    if multi_version(s):
        version.count = root.count
        version.top = root.top
        version.height = 0
        return version_write(s, &version)
    changed = <bst_root *> root_change(s, RNVM_NODE, sizeof(bst_root) - RNVM_NODE)
    if changed == NULL:
        return s.error
    changed.count = root.count
    changed.top = root.top
    return OK


cdef int add_count(instance *s, int n) noexcept nogil:
    cdef bst_top root
    if top_read(s, &root) != OK:
        return s.error
    root.count += n
    return top_write(s, &root)


# Ways


cdef inline int push(instance *s, bst_way *way, const bst_node *node, uint64_t link,
                     int side) noexcept nogil:
    if way.depth == HEIGHT_MAX:
        return fault(s, bst_address(link, s.root), b"the tree is too high")
    way.links[way.depth] = link
    way.sides[way.depth] = side
    way.depth += 1
    way.seen += multi_version(s) and not unseen(s, node)
    return OK


cdef int bst_descend(instance *s, const char *key, uint32_t length, bst_way *way) noexcept nogil:
    cdef const bst_node *node
    cdef bst_top root
    cdef uint64_t link
    cdef int order, side
    way.depth = way.changed = way.seen = 0
    way.found = False
    if top_read(s, &root) != OK:
        return s.error
    link = root.top
    while link:
        node = bst_read(s, link)
        if node == NULL:
            return s.error
        order = keys_compare(key, length, node.key, KEY_OF(node.sizes))
        side = HIGHER if order > 0 else LOWER
        if push(s, way, node, link, side) != OK:
            return s.error
        if not order:
            way.found = True
            return OK
        link = node.links[side]
    return OK


cdef int bst_seek(instance *s, const char *key, uint32_t length, bint after, int direction,
                  bst_way *way) noexcept nogil:
    cdef const bst_node *node
    cdef bst_top root
    cdef uint64_t link
    cdef uint32_t best = 0
    cdef int order
    cdef bint within, exact
    way.depth = way.changed = way.seen = 0
    way.found = False
    if top_read(s, &root) != OK:
        return s.error
    link = root.top
    while link:
        node = bst_read(s, link)
        if node == NULL:
            return s.error
        order = 1 if direction == HIGHER else -1
        if key != NULL:
            order = keys_compare(node.key, KEY_OF(node.sizes), key, length)
        exact = order == 0 and direction == HIGHER and not after
        within = exact or (order > 0 if direction == HIGHER else order < 0)
        if push(s, way, node, link, 1 - direction if within else direction) != OK:
            return s.error
        if within:
            best = way.depth
        if exact:
            break
        link = node.links[way.sides[way.depth - 1]]
    way.depth = best
    return OK if best else MISSING


cdef int to_end(instance *s, uint64_t link, int side, bst_way *way) noexcept nogil:
    """Go to the last node on a side of a subtree."""
    cdef const bst_node *node
    while link:
        node = bst_read(s, link)
        if node == NULL or push(s, way, node, link, side) != OK:
            return s.error
        link = node.links[side]
    return OK


cdef int bst_step(instance *s, int direction, bst_way *way) noexcept nogil:
    cdef const bst_node *node = bst_read(s, way.links[way.depth - 1])
    if node == NULL:
        return s.error
    way.sides[way.depth - 1] = direction
    if node.links[direction]:
        return to_end(s, node.links[direction], 1 - direction, way)
    while way.depth:
        way.depth -= 1
        if way.depth and way.sides[way.depth - 1] != direction:
            return OK
    return MISSING


# Changes


cdef bst_node *edit(instance *s, uint64_t link) noexcept nogil:
    """Return a node whose links are being changed."""
    return <bst_node *> node_change(s, bst_address(link, s.root), bst_length(link), TYPE_BST,
                                    RNVM_NODE, LINKS)


cdef inline int drop(instance *s, uint64_t link) noexcept nogil:
    """Free a node that is not in the tree any more."""
    cdef const bst_node *node
    if not multi_version(s):
        return node_free(s, bst_address(link, s.root), bst_length(link))
    node = bst_read(s, link)
    return s.error if node == NULL else node_retire(s, node)


cdef int own(instance *s, uint64_t *link) noexcept nogil:
    """Make a node the operation's own; *link: of its copy.  Its parent is not changed."""
    cdef const bst_node *old = bst_read(s, link[0])
    cdef bst_node *copy
    cdef uint64_t address = 0
    if old == NULL:
        return s.error
    if not multi_version(s) or unseen(s, old):
        return OK
    copy = <bst_node *> node_make(s, bst_length(link[0]), TYPE_BST, &address)
    if copy == NULL:
        return s.error
    memcpy(<char *> copy + RNVM_NODE, <const char *> old + RNVM_NODE,
           bst_length(link[0]) - RNVM_NODE)
    link[0] = bst_link(address, bst_length(link[0]))
    return node_retire(s, old)


cdef int own_way(instance *s, bst_way *way, uint32_t depth) noexcept nogil:
    """Make the first nodes of a way the operation's own."""
    cdef uint32_t level
    cdef uint64_t link
    if not way.seen:
        return OK
    for level in range(depth):
        link = way.links[level]
        if own(s, &link) != OK:
            return s.error
        if link != way.links[level]:
            way.links[level] = link
            if relink(s, way, level, link) != OK:
                return s.error
    return OK


cdef uint64_t own_child(instance *s, bst_node *parent, int side) noexcept nogil:
    """Make a child the operation's own, and return its link without DEEP, or 0: s.error."""
    cdef uint64_t link = parent.links[side] & ~LINK_DEEP
    if own(s, &link) != OK:
        return 0
    parent.links[side] = link | (parent.links[side] & LINK_DEEP)
    return link


cdef uint64_t bst_new(instance *s, const pair *p, uint64_t value) noexcept nogil:
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length)
    cdef uint64_t address = 0
    cdef uint32_t length = node_length(s, sizes)
    cdef bst_node *node
    if multi_version(s):
        node = <bst_node *> node_add(s, length, TYPE_BST, &address)
    else:
        node = <bst_node *> node_new(s, length, TYPE_BST, &address)
    if node == NULL:
        return 0
    node.sizes = sizes
    memcpy(<char *> node.key, p.key, p.key_length)
    if value:
        memcpy(<char *> node.key + p.key_length, &value, 8)
    else:
        memcpy(<char *> node.key + p.key_length, p.value, p.value_length)
    return bst_link(address, length)


cdef int relink(instance *s, bst_way *way, uint32_t level, uint64_t link) noexcept nogil:
    """Put another node into the place of one of the way."""
    cdef bst_top root
    cdef bst_node *parent
    way.changed += 1
    link &= ~LINK_DEEP
    if not level:
        if top_read(s, &root) != OK:
            return s.error
        root.top = link
        return top_write(s, &root)
    parent = edit(s, way.links[level - 1])
    if parent == NULL:
        return s.error
    parent.links[way.sides[level - 1]] = \
        link | (parent.links[way.sides[level - 1]] & LINK_DEEP)
    return OK


cdef int rotate(instance *s, bst_way *way, uint64_t link, int side, uint64_t *top,
                bint *lower) noexcept nogil:
    """Rotate a node away from a side that is two levels deeper than the other.

            p              c                   p                g
           / \\            / \\                 / \\             /   \\
          c   .    ->    x   p               c   .    ->     c     p
         / \\                / \\             / \\             / \\   / \\
        x   y              y   .           x   g           x   a b   .
                                              / \\
                                             a   b

    *top: the new top of these nodes; *lower: whether it has one level less than p had.
    """
    cdef int other = 1 - side
    cdef uint64_t c_link, g_link
    cdef bst_node *p = edit(s, link)
    cdef bst_node *c
    cdef bst_node *g
    if p == NULL:
        return s.error
    c_link = own_child(s, p, side)
    if not c_link:
        return s.error
    c = edit(s, c_link)
    if c == NULL:
        return s.error
    way.changed += 2
    if not c.links[other] & LINK_DEEP:
        lower[0] = (c.links[side] & LINK_DEEP) != 0
        p.links[side] = c.links[other] & ~LINK_DEEP
        c.links[other] = link & ~LINK_DEEP
        if not lower[0]:                   # c was balanced: y is as deep as x
            p.links[side] |= LINK_DEEP
            c.links[other] |= LINK_DEEP
        c.links[side] &= ~LINK_DEEP
        top[0] = c_link
        return OK
    g_link = own_child(s, c, other)
    if not g_link:
        return s.error
    g = edit(s, g_link)
    if g == NULL:
        return s.error
    way.changed += 1
    c.links[other] = g.links[side] & ~LINK_DEEP
    p.links[side] = g.links[other] & ~LINK_DEEP
    if g.links[other] & LINK_DEEP:
        c.links[side] |= LINK_DEEP
    if g.links[side] & LINK_DEEP:
        p.links[other] |= LINK_DEEP
    g.links[side] = c_link
    g.links[other] = link & ~LINK_DEEP
    lower[0] = True
    top[0] = g_link
    return OK


cdef int bst_insert(instance *s, bst_way *way, uint64_t link) noexcept nogil:
    cdef uint32_t level = way.depth
    cdef uint64_t top = 0
    cdef bst_node *p
    cdef bint lower = False
    cdef int side
    if own_way(s, way, level) != OK or relink(s, way, level, link) != OK:
        return s.error
    while level:                           # that side of the node has become one level deeper
        level -= 1
        side = way.sides[level]
        p = edit(s, way.links[level])
        if p == NULL:
            return s.error
        way.changed += 1
        if p.links[1 - side] & LINK_DEEP:
            p.links[1 - side] &= ~LINK_DEEP
            return OK
        if p.links[side] & LINK_DEEP:
            if rotate(s, way, way.links[level], side, &top, &lower) != OK:
                return s.error
            return relink(s, way, level, top)
        p.links[side] |= LINK_DEEP
    return OK


cdef int unlink(instance *s, bst_way *way, uint64_t *gone) noexcept nogil:
    """Take the last node out.  The way then leads to the place that has become lower."""
    cdef uint32_t at = way.depth - 1, last
    cdef const bst_node *node = bst_read(s, way.links[at])
    cdef const bst_node *next
    cdef bst_node *parent
    cdef bst_node *heir
    if node == NULL:
        return s.error
    gone[0] = way.links[at]
    if not node.links[LOWER] or not node.links[HIGHER]:
        if own_way(s, way, at) != OK:
            return s.error
        way.depth = at
        return relink(s, way, at, node.links[LOWER] | node.links[HIGHER])
    # The next higher key takes the place, with the balance of the node.
    way.sides[at] = HIGHER
    if to_end(s, node.links[HIGHER], LOWER, way) != OK or own_way(s, way, way.depth) != OK:
        return s.error
    gone[0] = way.links[at]
    last = way.depth - 1
    next = bst_read(s, way.links[last])
    if next == NULL:
        return s.error
    way.changed += 2
    if last - 1 > at:
        parent = edit(s, way.links[last - 1])
        if parent == NULL:
            return s.error
        parent.links[LOWER] = \
            (next.links[HIGHER] & ~LINK_DEEP) | (parent.links[LOWER] & LINK_DEEP)
    heir = edit(s, way.links[last])
    node = bst_read(s, way.links[at])
    if heir == NULL or node == NULL:
        return s.error
    if last - 1 > at:
        heir.links[HIGHER] = node.links[HIGHER]
    else:
        heir.links[HIGHER] = (heir.links[HIGHER] & ~LINK_DEEP) | (node.links[HIGHER] & LINK_DEEP)
    heir.links[LOWER] = node.links[LOWER]
    way.links[at] = way.links[last]
    way.depth = last
    return relink(s, way, at, way.links[at])


cdef int bst_remove(instance *s, bst_way *way) noexcept nogil:
    cdef uint64_t gone = 0, top = 0
    cdef uint32_t level
    cdef bst_node *p
    cdef bint lower = False
    cdef int side
    if unlink(s, way, &gone) != OK or drop(s, gone) != OK:
        return s.error
    level = way.depth
    while level:                           # that side of the node has become one level lower
        level -= 1
        side = way.sides[level]
        p = edit(s, way.links[level])
        if p == NULL:
            return s.error
        way.changed += 1
        if p.links[side] & LINK_DEEP:
            p.links[side] &= ~LINK_DEEP
            continue
        if not p.links[1 - side] & LINK_DEEP:
            p.links[1 - side] |= LINK_DEEP
            return OK
        if rotate(s, way, way.links[level], 1 - side, &top, &lower) != OK:
            return s.error
        if relink(s, way, level, top) != OK:
            return s.error
        if not lower:
            return OK
    return OK


cdef int bst_replace(instance *s, bst_way *way, uint64_t link) noexcept nogil:
    cdef uint64_t gone = way.links[way.depth - 1]
    cdef const bst_node *old = bst_read(s, gone)
    cdef bst_node *node
    if old == NULL or own_way(s, way, way.depth - 1) != OK:
        return s.error
    node = edit(s, link)
    if node == NULL:
        return s.error
    node.links[LOWER] = old.links[LOWER]
    node.links[HIGHER] = old.links[HIGHER]
    if relink(s, way, way.depth - 1, link) != OK:
        return s.error
    return drop(s, gone)

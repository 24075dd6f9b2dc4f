"""Descend in a B+tree, split and join its pages.

Pages are not linked to their neighbours: an iteration continues by key, and a split changes only
its parent.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_cost, node_free, node_new, node_read, room_for, root_change, root_read,
    version_read, version_write,
)
from structures.layout cimport KEY_MAX, SIZES, TYPE_PAGE, tree_root
from structures.multi_version cimport multi_version, node_add, node_make, node_retire, unseen
from structures.page cimport (
    PAGE_BYTES, PAGE_FIRST, PAGE_ROOM, page, page_append, page_clear, page_entry, page_entry_at,
    page_entry_size, page_gap, page_put, page_remove, page_search, page_sound, page_take, page_used,
    separator_length,
)

cdef enum:
    # a page with less content is joined with its neighbour
    PAGE_SPARSE_BYTES = PAGE_ROOM // 3
    JOINED_BYTES_MAX = PAGE_ROOM // 4 * 3  # if both together have at most this
    JOIN_BYTES = 6600                      # that a join changes at most, less the freed page
    SEPARATOR_BYTES_MAX = 4 + KEY_MAX + 8 + 2  # room for any entry of an inner page


cdef const page *page_read(instance *s, uint64_t address, uint32_t level) noexcept nogil:
    cdef const page *p = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    if p == NULL:
        return NULL
    if not page_sound(p) or p.level != level or not p.count:
        s.error = fault(s, address, b"a page of the tree is inconsistent")
        return NULL
    return p


# Both kinds of tree


cdef int top_read(instance *s, tree_top *root) noexcept nogil:
    cdef const tree_root *found
    cdef rnvm_version version
    if multi_version(s):
        if version_read(s, &version) != OK:
            return s.error
        root[0] = tree_top(version.count, version.top, version.height)
        return OK
    found = <const tree_root *> root_read(s)
    if found == NULL:
        return s.error
    root[0] = tree_top(found.count, found.top, found.levels)
    return OK


cdef int top_write(instance *s, const tree_top *root) noexcept nogil:
    cdef tree_root *changed
    cdef rnvm_version version
    if multi_version(s):
        version.count = root.count
        version.top = root.top
        version.height = root.levels
        return version_write(s, &version)
    changed = <tree_root *> root_change(s, RNVM_NODE, sizeof(tree_root) - RNVM_NODE)
    if changed == NULL:
        return s.error
    changed.count = root.count
    changed.top = root.top
    changed.levels = root.levels
    return OK


cdef int count_change(instance *s, int64_t added) noexcept nogil:
    cdef tree_root *changed
    cdef tree_top root
    if multi_version(s):
        if top_read(s, &root) != OK:
            return s.error
        root.count += <uint64_t> added
        return top_write(s, &root)
    changed = <tree_root *> root_change(s, RNVM_NODE, 8)
    if changed == NULL:
        return s.error
    changed.count += <uint64_t> added
    return OK


cdef inline page *page_new(instance *s, uint64_t *address) noexcept nogil:
    if multi_version(s):
        return <page *> node_add(s, PAGE_BYTES, TYPE_PAGE, address)
    return <page *> node_new(s, PAGE_BYTES, TYPE_PAGE, address)


cdef int page_free(instance *s, const page *p) noexcept nogil:
    return node_retire(s, p) if multi_version(s) else node_free(s, p.node.address, PAGE_BYTES)


cdef int point_to(instance *s, uint64_t parent, uint32_t index, uint64_t child) noexcept nogil:
    """Make an entry of an inner page point to another child."""
    cdef const page *p = <const page *> node_read(s, parent, PAGE_BYTES, TYPE_PAGE)
    cdef char *changed
    cdef page_entry e
    cdef uint32_t at
    if p == NULL:
        return s.error
    if index >= p.count or not page_entry_at(p, index, &e) or e.payload_length != 8:
        return fault(s, parent, b"an entry of an inner page has no child")
    at = <uint32_t> (e.payload - <const char *> p)
    changed = <char *> page_change(s, parent, at, 8)
    if changed == NULL:
        return s.error
    memcpy(changed + at, &child, 8)
    return OK


cdef int child_own(instance *s, uint64_t parent, uint32_t index, uint64_t *address) noexcept nogil:
    """Make a page the operation's own.  parent: its parent, which is own already; 0: it is the top.
    """
    cdef const page *old = <const page *> node_read(s, address[0], PAGE_BYTES, TYPE_PAGE)
    cdef page *copy
    cdef tree_top root
    cdef uint64_t made = 0
    if old == NULL:
        return s.error
    if not multi_version(s) or unseen(s, old):
        return OK
    copy = <page *> node_make(s, PAGE_BYTES, TYPE_PAGE, &made)
    if copy == NULL:
        return s.error
    memcpy(<char *> copy + RNVM_NODE, <const char *> old + RNVM_NODE, PAGE_BYTES - RNVM_NODE)
    address[0] = made
    if node_retire(s, old) != OK:
        return s.error
    if parent:
        return point_to(s, parent, index, made)
    if top_read(s, &root) != OK:
        return s.error
    root.top = made
    return top_write(s, &root)


cdef int path_own(instance *s, path *p) noexcept nogil:
    cdef uint32_t at
    if not multi_version(s):
        return OK
    for at in range(p.levels):
        if child_own(s, p.pages[at - 1] if at else 0, p.indexes[at - 1] if at else 0,
                     &p.pages[at]) != OK:
            return s.error
    return OK


# Descending


cdef inline page *page_draft(char *memory, uint32_t level) noexcept nogil:
    """Return a page without entries in private memory, to be filled and stored."""
    cdef page *draft = <page *> memory
    page_clear(draft, level)
    return draft


cdef int page_store(instance *s, uint64_t address, const page *draft) noexcept nogil:
    """Give a page the content of a draft.  Its gap keeps old bytes, which no log record needs."""
    cdef uint32_t slots = PAGE_FIRST - RNVM_NODE + 2 * draft.count
    cdef char *changed = <char *> page_change(s, address, RNVM_NODE, slots)
    if changed == NULL or page_change(s, address, draft.heap, PAGE_BYTES - draft.heap) == NULL:
        return s.error
    memcpy(changed + RNVM_NODE, <const char *> draft + RNVM_NODE, slots)
    memcpy(changed + draft.heap, <const char *> draft + draft.heap, PAGE_BYTES - draft.heap)
    return OK


cdef uint64_t child_of(const page_entry *e) noexcept nogil:
    cdef uint64_t address = 0
    if e.payload_length == 8:
        memcpy(&address, e.payload, 8)
    return address


cdef int tree_descend(instance *s, const tree_top *root, const char *key, uint32_t length,
                      path *p) noexcept nogil:
    cdef uint32_t level = root.levels, at = 0
    cdef uint64_t address = root.top
    cdef const page *node
    cdef page_entry e
    cdef int index
    p.levels = level
    p.found = False
    if level > LEVELS_MAX:
        return fault(s, s.root, b"the tree is too high")
    while level:
        level -= 1
        node = page_read(s, address, level)
        if node == NULL:
            return s.error
        index = page_search(node, key, length, &p.found)
        if index >= 0 and level:
            if not p.found:
                index -= 1
            if not page_entry_at(node, <uint32_t> index, &e):
                index = -1
        if index < 0:
            return fault(s, address, b"an entry extends beyond its page")
        p.pages[at] = address
        p.indexes[at] = <uint32_t> index
        at += 1
        if level:
            address = child_of(&e)
    return OK


cdef int new_top(instance *s, uint64_t address, uint32_t level) noexcept nogil:
    cdef tree_top root
    if top_read(s, &root) != OK:
        return s.error
    root.top = address
    root.levels = level + 1
    return top_write(s, &root)


cdef inline int entry_add(instance *s, const page *seen, uint64_t address, uint32_t index,
                          uint32_t sizes, const char *key, const char *payload) noexcept nogil:
    """Add an entry to a page that has room for it in its gap."""
    cdef page *changed
    cdef uint32_t size = page_entry_size(sizes)
    changed = page_change(s, address, RNVM_NODE, PAGE_FIRST - RNVM_NODE + 2 * (seen.count + 1))
    if changed == NULL or page_change(s, address, changed.heap - size, size) == NULL:
        return s.error
    if not page_put(changed, index, sizes, key, payload):
        return fault(s, address, b"a page has less free space than its header says")
    return OK


cdef int compact_with(instance *s, uint64_t address, uint32_t index, uint32_t sizes,
                      const char *key, const char *payload) noexcept nogil:
    """Rewrite a page without its dead bytes, and with a new entry."""
    cdef char[PAGE_BYTES] memory
    cdef const page *old = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef page *p
    if old == NULL:
        return s.error
    p = page_draft(memory, old.level)
    if (not page_take(p, old, 0, index) or not page_put(p, index, sizes, key, payload)
            or not page_take(p, old, index, old.count)):
        return fault(s, address, b"an entry extends beyond its page")
    return page_store(s, address, p)


cdef int cut(instance *s, const page *p, uint32_t index, uint32_t size) noexcept nogil:
    """Return where to split a page that gets an entry of this size.

    That is how many entries stay on the left, the new one included.
    """
    cdef uint32_t total = page_used(p) + size + 2, left = 0, i, mine
    cdef page_entry e
    if index == p.count:                   # keys that arrive in order fill their pages
        return index
    for i in range(p.count + 1):
        if i == index:
            mine = size + 2
        elif not page_entry_at(p, i - (1 if i > index else 0), &e):
            return fault(s, p.node.address, b"an entry extends beyond its page")
        else:
            mine = page_entry_size(e.sizes) + 2
        if i and (left + mine > PAGE_ROOM or left >= total // 2):
            return i
        left += mine
    return p.count


cdef int split_with(instance *s, uint64_t address, uint32_t index, uint32_t sizes, const char *key,
                    const char *payload, uint64_t *right_address, char *separator,
                    uint32_t *separator_size) noexcept nogil:
    """Split a page in two, with a new entry in one of them."""
    cdef char[PAGE_BYTES] memory
    cdef page *left
    cdef page *right
    cdef page_entry a, b
    cdef const page *p = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef int stay
    cdef bint whole
    if p == NULL:
        return s.error
    stay = cut(s, p, index, page_entry_size(sizes))
    if stay < 0:
        return stay
    right = page_new(s, right_address)
    if right == NULL:
        return s.error
    page_clear(right, p.level)
    if index == p.count and <uint32_t> stay == index:        # the left page stays as it is
        left = <page *> p
        whole = page_put(right, 0, sizes, key, payload)
    else:
        left = page_draft(memory, p.level)
        if index < <uint32_t> stay:
            whole = (page_take(left, p, 0, index)
                     and page_put(left, index, sizes, key, payload)
                     and page_take(left, p, index, stay - 1)
                     and page_take(right, p, stay - 1, p.count))
        else:
            whole = (page_take(left, p, 0, stay) and page_take(right, p, stay, index)
                     and page_put(right, index - stay, sizes, key, payload)
                     and page_take(right, p, index, p.count))
        if whole and page_store(s, address, left) != OK:
            return s.error
    if (not whole or not page_entry_at(left, left.count - 1, &a) or not page_entry_at(right, 0, &b)
            or b.key_length > KEY_MAX):
        return fault(s, address, b"an entry extends beyond its page")
    separator_size[0] = b.key_length
    if not right.level:
        separator_size[0] = separator_length(a.key, a.key_length, b.key, b.key_length)
    memcpy(separator, b.key, separator_size[0])
    return OK


cdef int tree_insert(instance *s, path *p, uint32_t sizes, const char *key,
                     const char *payload) noexcept nogil:
    cdef uint32_t at = p.levels, index, size, length = 0
    cdef uint64_t address = 0, left
    cdef const page *seen
    cdef page *changed
    cdef char[2][KEY_MAX] separators           # of this level, and of the one below
    cdef int outcome
    if not at:
        changed = page_new(s, &address)
        if changed == NULL:
            return s.error
        page_clear(changed, 0)
        page_put(changed, 0, sizes, key, payload)
        return new_top(s, address, 0)
    while at:
        at -= 1
        index = p.indexes[at]
        if at < p.levels - 1:
            index += 1                     # right of the child that was split
        size = page_entry_size(sizes)
        seen = <const page *> node_read(s, p.pages[at], PAGE_BYTES, TYPE_PAGE)
        if seen == NULL:
            return s.error
        if page_gap(seen) >= size + 2:
            return entry_add(s, seen, p.pages[at], index, sizes, key, payload)
        if page_gap(seen) + seen.dead >= size + 2:
            return compact_with(s, p.pages[at], index, sizes, key, payload)
        outcome = split_with(s, p.pages[at], index, sizes, key, payload, &address,
                             separators[at & 1], &length)
        if outcome != OK:
            return outcome
        sizes = SIZES(length, 8)
        key = separators[at & 1]
        payload = <const char *> &address
        if at:                             # the next split writes address before it reads payload
            left = address
            payload = <const char *> &left
    # The top was split: add a new top; its first key represents everything below the second.
    if p.levels == LEVELS_MAX:
        return fault(s, s.root, b"the tree is too high")
    left = p.pages[0]
    size = p.levels
    changed = page_new(s, &p.pages[1])
    if changed == NULL:
        return s.error
    page_clear(changed, size)
    page_put(changed, 0, SIZES(0, 8), b"", <const char *> &left)
    page_put(changed, 1, SIZES(length, 8), key, <const char *> &address)
    return new_top(s, p.pages[1], size)


cdef int join(instance *s, const page *parent, uint32_t index, uint64_t *gone) noexcept nogil:
    """Move the content of the child behind this one into it, if there is room; return OK.

    `*gone`: the freed page, or 0.
    """
    cdef char[PAGE_BYTES] memory
    cdef page_entry left, right, first
    cdef const page *a
    cdef const page *b
    cdef page *into
    cdef uint64_t address
    gone[0] = 0
    if not page_entry_at(parent, index, &left) or not page_entry_at(parent, index + 1, &right):
        return fault(s, parent.node.address, b"an entry extends beyond its page")
    a = page_read(s, child_of(&left), parent.level - 1)
    if a == NULL:
        return s.error
    b = page_read(s, child_of(&right), parent.level - 1)
    if b == NULL:
        return s.error
    if page_used(a) + page_used(b) + right.key_length > JOINED_BYTES_MAX:
        return OK
    into = page_draft(memory, a.level)
    if not page_take(into, a, 0, a.count) or not page_entry_at(b, 0, &first):
        return fault(s, child_of(&left), b"an entry extends beyond its page")
    if b.level:  # its first key represented everything from the parent's key on
        first.sizes = SIZES(right.key_length, 8)
        first.key = right.key
    if not page_append(into, &first) or not page_take(into, b, 1, b.count):
        return fault(s, child_of(&right), b"an entry extends beyond its page")
    address = child_of(&left)
    gone[0] = child_of(&right)
    if child_own(s, parent.node.address, index, &address) != OK:
        return s.error
    if page_store(s, address, into) != OK:
        return s.error
    return page_free(s, b)


cdef int tree_remove(instance *s, path *p, uint64_t beside) noexcept nogil:
    cdef uint32_t at = p.levels, index
    cdef uint64_t gone
    cdef const page *parent
    cdef const page *rest
    cdef page *changed
    cdef page_entry e
    cdef tree_top root
    cdef int outcome
    while at:
        at -= 1
        index = p.indexes[at]
        changed = <page *> node_read(s, p.pages[at], PAGE_BYTES, TYPE_PAGE)
        if changed == NULL:
            return s.error
        changed = page_change(s, p.pages[at], RNVM_NODE, PAGE_FIRST - RNVM_NODE + 2 * changed.count)
        if changed == NULL:
            return s.error
        if not page_remove(changed, index):
            return fault(s, p.pages[at], b"an entry extends beyond its page")
        if not at:
            break
        if not changed.count:  # an empty page is freed, and then its entry in the parent
            if page_free(s, changed) != OK:
                return s.error
            continue
        beside += JOIN_BYTES + node_cost(s, PAGE_BYTES)
        if multi_version(s):
            beside += PAGE_BYTES           # the neighbour is copied
        if page_used(changed) >= PAGE_SPARSE_BYTES or not room_for(s, beside):
            return OK
        parent = <const page *> node_read(s, p.pages[at - 1], PAGE_BYTES, TYPE_PAGE)
        if parent == NULL:
            return s.error
        index = p.indexes[at - 1]
        gone = 0
        if index + 1 < parent.count:
            outcome = join(s, parent, index, &gone)
            if outcome != OK:
                return outcome
            index += 1
        if not gone and p.indexes[at - 1]:
            index = p.indexes[at - 1]
            outcome = join(s, parent, index - 1, &gone)
            if outcome != OK:
                return outcome
        if not gone:
            return OK
        p.indexes[at - 1] = index          # its entry is removed, too
    # The top has changed: while it has only one child, that child becomes the top.
    if top_read(s, &root) != OK:
        return s.error
    rest = <const page *> node_read(s, root.top, PAGE_BYTES, TYPE_PAGE)
    while rest != NULL and (rest.count == 0 or (rest.level and rest.count == 1)):
        beside += node_cost(s, PAGE_BYTES)
        if rest.count and not room_for(s, beside):
            return OK                      # a top with one child is harmless
        if rest.count == 0:
            root.top = root.levels = 0
        elif page_entry_at(rest, 0, &e):
            root.top = child_of(&e)
            root.levels -= 1
        else:
            return fault(s, root.top, b"an entry extends beyond its page")
        if top_write(s, &root) != OK or page_free(s, rest) != OK:
            return s.error
        if not root.levels:
            return OK
        rest = <const page *> node_read(s, root.top, PAGE_BYTES, TYPE_PAGE)
    return OK if rest != NULL else s.error


# Room, step by step


cdef int one_level_more(instance *s, const tree_top *root) noexcept nogil:
    """Add a new top over the old one, which can then be split like every other page."""
    cdef uint64_t address = 0, old = root.top
    cdef uint32_t level = root.levels
    cdef page *top
    if level == LEVELS_MAX:
        return fault(s, s.root, b"the tree is too high")
    top = page_new(s, &address)
    if top == NULL:
        return s.error
    page_clear(top, level)
    page_put(top, 0, SIZES(0, 8), b"", <const char *> &old)
    return new_top(s, address, level)


cdef int compact(instance *s, uint64_t address) noexcept nogil:
    """Rewrite a page without its dead bytes."""
    cdef char[PAGE_BYTES] memory
    cdef const page *old = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef page *p
    if old == NULL:
        return s.error
    p = page_draft(memory, old.level)
    if not page_take(p, old, 0, old.count):
        return fault(s, address, b"an entry extends beyond its page")
    return page_store(s, address, p)


cdef int split(instance *s, uint64_t parent, uint32_t index, uint64_t address) noexcept nogil:
    """Move the upper half of a page into a new one.  The parent has room for any separator."""
    cdef const page *p = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef const page *seen
    cdef page *left
    cdef page *right
    cdef page_entry a, b
    cdef uint64_t right_address = 0
    cdef uint32_t total, half = 0, stay = 0, gone = 0, i, length, size
    cdef int outcome
    if p == NULL:
        return s.error
    total = page_used(p)
    while stay < p.count - 1 and (not stay or half < total // 2):
        if not page_entry_at(p, stay, &a):
            return fault(s, address, b"an entry extends beyond its page")
        half += page_entry_size(a.sizes) + 2
        stay += 1
    for i in range(stay, p.count):
        if not page_entry_at(p, i, &b):
            return fault(s, address, b"an entry extends beyond its page")
        gone += page_entry_size(b.sizes)
    if (not stay or not page_entry_at(p, stay - 1, &a) or not page_entry_at(p, stay, &b)
            or b.key_length > KEY_MAX):
        return fault(s, address, b"an entry extends beyond its page")
    right = page_new(s, &right_address)
    if right == NULL:
        return s.error
    page_clear(right, p.level)
    if not page_take(right, p, stay, p.count):
        return fault(s, address, b"an entry extends beyond its page")
    length = b.key_length if p.level else separator_length(a.key, a.key_length, b.key, b.key_length)
    # The left page only lowers its counts: its log entry stays short.
    left = page_change(s, address, RNVM_NODE, PAGE_FIRST - RNVM_NODE)
    if left == NULL:
        return s.error
    left.count = <uint16_t> stay
    left.dead = <uint16_t> (left.dead + gone)
    seen = <const page *> node_read(s, parent, PAGE_BYTES, TYPE_PAGE)
    size = page_entry_size(SIZES(length, 8))
    if seen == NULL:
        return s.error
    if page_gap(seen) < size + 2:
        return fault(s, parent, b"a page has less free space than its header says")
    outcome = entry_add(s, seen, parent, index + 1, SIZES(length, 8), b.key,
                        <const char *> &right_address)
    return MADE if outcome == OK else outcome


cdef int tree_make_room(instance *s, const char *key, uint32_t length,
                        uint32_t size) noexcept nogil:
    cdef const page *p
    cdef tree_top root
    cdef path way
    cdef uint32_t at, needed
    cdef int outcome = top_read(s, &root)
    if outcome != OK or not root.levels:
        return outcome
    outcome = tree_descend(s, &root, key, length, &way)
    if outcome != OK:
        return outcome
    for at in range(way.levels):
        p = <const page *> node_read(s, way.pages[at], PAGE_BYTES, TYPE_PAGE)
        if p == NULL:
            return s.error
        needed = SEPARATOR_BYTES_MAX if p.level else size + 2
        if page_gap(p) >= needed:
            continue
        if at or page_gap(p) + p.dead >= needed:
            outcome = path_own(s, &way)
            if outcome != OK:
                return outcome
        if page_gap(p) + p.dead >= needed:
            outcome = compact(s, way.pages[at])
        elif at:
            return split(s, way.pages[at - 1], way.indexes[at - 1], way.pages[at])
        else:
            outcome = one_level_more(s, &root)
        return MADE if outcome == OK else outcome
    return OK

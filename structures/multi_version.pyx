"""The retire list of a multi-version structure."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from rnvm.format.node cimport RNVM_CLASSES, RNVM_NODE, rnvm_class_of, rnvm_node
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    AGAIN, DAMAGED, FULL, OK, fault, node_change, node_cost, node_free, node_glimpse, node_new,
    node_read, node_renew, nodes_release, oldest_retained, pool_bytes, record_room, room_for,
    root_change, root_read, version_frozen, version_made, visitor,
)
from structures.layout cimport (
    RETIRED, RETIRED_ADDRESS, RETIRED_ENTRIES, RETIRED_FIELDS, RETIRED_SIZE, RETIRED_SUBTREE,
    RETIRED_VALUE, RETIRED_VERSION, TYPE_RETIRED, TYPE_VALUE, UP8, VALUE_NODE, retired_chunk,
    retired_entry, versioned_root,
)
from structures.mapping_operations cimport MORE

cdef enum:
    KEPT_ENTRIES = 64          # listed nodes up to which only node_make() uses their memory
    RETIRED_RESERVE = 32       # of which this many are left for copies when blocks run short
    PASSED_MAX = 8             # listed nodes of other lengths that node_make() frees on its way
    FREED_MAX = 64             # that one operation frees, beside those whose memory it uses
    RESERVED_BYTES_MAX = 8192  # of a node in the reserve
    POP_BYTES = 240            # that taking an entry out of the list changes
    RETIRED_SHARE = 4          # part of the log's record that one operation uses to free nodes

cdef uint64_t RETAINED_NOW = ~<uint64_t> 0     # listed nodes: so many that the back-end is asked


cdef inline const versioned_root *root_of(instance *s) noexcept nogil:
    return <const versioned_root *> root_read(s)


cdef inline versioned_root *list_change(instance *s) noexcept nogil:
    """Return the root, whose list is being changed."""
    return <versioned_root *> root_change(
        s, RETIRED_FIELDS, 4 * sizeof(uint64_t))


cdef inline const retired_chunk *chunk_read(instance *s, uint64_t address) noexcept nogil:
    cdef const retired_chunk *c = <const retired_chunk *> node_read(
        s, address, sizeof(retired_chunk), TYPE_RETIRED)
    if c != NULL and (c.first > c.end or c.end > RETIRED_ENTRIES):
        s.error = fault(s, address, b"a chunk of the retire list is inconsistent")
        return NULL
    return c


cdef inline retired_chunk *chunk_change(instance *s, uint64_t address, uint32_t offset,
                                        uint32_t n) noexcept nogil:
    return <retired_chunk *> node_change(s, address, sizeof(retired_chunk), TYPE_RETIRED, offset, n)


# Listing


cdef int spare_make(instance *s, versioned_root *root) noexcept nogil:
    """Make the spare chunk, if there is none."""
    if root.spare:
        return OK
    return s.error if node_new(s, sizeof(retired_chunk), TYPE_RETIRED, &root.spare) == NULL else OK


cdef uint64_t chunk_take(instance *s, versioned_root *root) noexcept nogil:
    """Return an empty chunk, or 0: s.error.

    The first one is made together with a spare one, so that nodes can be listed in a full pool.
    """
    cdef uint64_t address = root.spare, made = 0
    cdef retired_chunk *chunk
    if not root.last and spare_make(s, root) != OK:
        return 0
    if not address or not root.last:
        if node_new(s, sizeof(retired_chunk), TYPE_RETIRED, &made) != NULL:
            return made
        if not address or s.error != FULL:
            return 0
        s.error = AGAIN
    if chunk_read(s, address) == NULL:
        return 0
    chunk = chunk_change(s, address, RNVM_NODE, 16)
    if chunk == NULL:
        return 0
    root.spare = 0
    chunk.next = 0
    chunk.first = chunk.end = 0
    return address


cdef int retired_add(instance *s, uint64_t node, uint64_t what) noexcept nogil:
    cdef versioned_root *root = list_change(s)
    cdef const retired_chunk *seen = NULL
    cdef retired_chunk *last
    cdef uint64_t address = 0
    cdef uint32_t at
    if root == NULL:
        return s.error
    if root.last:
        seen = chunk_read(s, root.last)
        if seen == NULL:
            return s.error
    if seen == NULL or seen.end == RETIRED_ENTRIES:
        address = chunk_take(s, root)
        if not address:
            return s.error
        if root.last:
            last = chunk_change(s, root.last, RNVM_NODE, sizeof(uint64_t))
            if last == NULL:
                return s.error
            last.next = address
        else:
            root.first = address
        root.last = address
        seen = chunk_read(s, address)
        if seen == NULL:
            return s.error
    at = seen.end
    last = chunk_change(s, root.last, RNVM_NODE + 8, 8)
    if last == NULL or chunk_change(s, root.last, RNVM_NODE + 16 + sizeof(retired_entry) * at,
                                    sizeof(retired_entry)) == NULL:
        return s.error
    last.entries[at] = retired_entry(node, what)
    last.end = at + 1
    root.listed += 1
    return OK


cdef int listed(instance *s, uint64_t node, uint32_t length) noexcept nogil:
    return retired_add(s, node, RETIRED(version_made(s), UP8(length) >> 3))


cdef bint value_unseen(instance *s, uint64_t address) noexcept nogil:
    """Return whether no reader can see a value, according to the header that is in the pool.

    Only if this session is alone: then what is not applied yet is of a later version as well.
    """
    cdef rnvm_node header
    return version_frozen(s) + 1 < version_made(s) \
        and node_glimpse(s, address, &header, sizeof(header)) == OK \
        and header.address == address and header.structure == s.id \
        and header.type == TYPE_VALUE and unseen(s, &header)


cdef int value_retire(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    if value_unseen(s, address):
        return node_free(s, address, VALUE_NODE(length))
    return listed(s, address | RETIRED_VALUE, VALUE_NODE(length))


cdef int node_retire(instance *s, const void *node) noexcept nogil:
    cdef const rnvm_node *header = <const rnvm_node *> node
    if unseen(s, node):
        return node_free(s, header.address, header.length)
    return listed(s, header.address, header.length)


cdef int subtree_retire(instance *s, uint64_t address, uint32_t height) noexcept nogil:
    return retired_add(s, address | RETIRED_SUBTREE, RETIRED(version_made(s), height))


# Freeing


cdef inline bint unreadable(const instance *s) noexcept nogil:
    """Return whether a node could not be read because it is damaged."""
    return s.error == AGAIN or s.error == DAMAGED


cdef int peek(instance *s, retired_entry *entry, uint64_t *listed) noexcept nogil:
    """Read the entry that is freed next; *listed: how many there are, 0 if no reader permits one.
    """
    cdef const versioned_root *root = root_of(s)
    cdef const retired_chunk *first
    cdef uint64_t count
    listed[0] = 0
    if root == NULL:
        return s.error
    if not root.listed or not root.first:
        return OK
    count = root.listed
    first = chunk_read(s, root.first)
    if first == NULL and unreadable(s):
        return OK                          # check() reports it; its nodes are not freed
    if first == NULL:
        return s.error
    if first.first == first.end:
        return fault(s, root.first, b"a chunk of the retire list is empty")
    entry[0] = first.entries[first.first]
    if RETIRED_VERSION(entry.what) <= oldest_retained(s, count):
        listed[0] = count
    return OK


cdef int pop(instance *s) noexcept nogil:
    """Take the entry that is freed next out of the list."""
    cdef versioned_root *root = list_change(s)
    cdef const retired_chunk *seen
    cdef retired_chunk *first
    cdef uint64_t address, next
    if root == NULL:
        return s.error
    address = root.first
    seen = chunk_read(s, address)
    if seen == NULL:
        return s.error
    root.listed -= 1
    if seen.first + 1 < seen.end:
        first = chunk_change(s, address, RNVM_NODE + 8, 8)
        if first == NULL:
            return s.error
        first.first += 1
        return OK
    next = seen.next
    root.first = next
    if not next:
        root.last = 0
    if not root.spare:
        root.spare = address
        return OK
    return node_free(s, address, sizeof(retired_chunk))


cdef inline bint is_subtree(const retired_entry *entry) noexcept nogil:
    return entry.node & RETIRED_SUBTREE != 0


cdef int free_entry(instance *s, const retired_entry *entry,
                    expand_function expand) noexcept nogil:
    cdef int outcome = pop(s)
    if outcome != OK:
        return outcome
    if is_subtree(entry):
        outcome = expand(s, RETIRED_ADDRESS(entry.node), entry.what)
        # What is below a damaged node cannot be freed; everything else must go on.
        return OK if outcome != OK and unreadable(s) else outcome
    return node_free(s, RETIRED_ADDRESS(entry.node), RETIRED_SIZE(entry.what) << 3)


cdef inline bint is_reserve(const retired_entry *entry) noexcept nogil:
    """Return whether a copy may need the memory: not that of a tree, or of a long value."""
    return not is_subtree(entry) and not (
        entry.node & RETIRED_VALUE and RETIRED_SIZE(entry.what) << 3 > RESERVED_BYTES_MAX)


cdef bint more_listed(instance *s) noexcept nogil:
    """Return whether the listed nodes contain one that no reader uses and that is no reserve.

    The listed nodes are few.
    """
    cdef const versioned_root *root = root_of(s)
    cdef uint64_t address = 0 if root == NULL else root.first
    cdef uint64_t retained = oldest_retained(s, 0)
    cdef const retired_chunk *c
    cdef uint32_t i, chunks = 0
    while address and chunks < RETIRED_RESERVE:
        c = chunk_read(s, address)
        if c == NULL:
            return False
        for i in range(c.first, c.end):
            if not is_reserve(&c.entries[i]) and RETIRED_VERSION(c.entries[i].what) <= retained:
                return True
        address = c.next
        chunks += 1
    return False


cdef int free_entries(instance *s, uint64_t most, uint64_t bytes, uint64_t keep,
                      expand_function expand, uint64_t expand_bytes) noexcept nogil:
    """Free at most so many entries, for so many bytes of the log; MORE: more are left."""
    cdef retired_entry entry
    cdef uint64_t listed = 0, spent = 0
    cdef int outcome
    while most:
        most -= 1
        outcome = peek(s, &entry, &listed)
        if outcome != OK:
            return outcome
        if not listed:
            return OK
        spent += POP_BYTES + node_cost(s, sizeof(retired_chunk))
        if listed <= keep and is_reserve(&entry):
            # The reserve; but a tree or a long value behind it is no part of it.
            if keep != RETIRED_RESERVE or spent > bytes or not more_listed(s):
                return OK
            if pop(s) != OK or retired_add(s, entry.node, entry.what) != OK:
                return s.error
            continue
        if is_subtree(&entry):
            spent += expand_bytes
        else:
            spent += node_cost(s, RETIRED_SIZE(entry.what) << 3)
        if spent > bytes:
            return MORE
        outcome = free_entry(s, &entry, expand)
        if outcome != OK:
            return outcome
    return MORE


cdef int retired_free(instance *s, expand_function expand, uint64_t expand_bytes) noexcept nogil:
    cdef uint64_t bytes = record_room(s) // RETIRED_SHARE
    cdef int outcome
    if not room_for(s, 2 * bytes):
        return OK                          # a long transaction keeps its room for itself
    outcome = free_entries(s, FREED_MAX, bytes, KEPT_ENTRIES, expand, expand_bytes)
    return outcome if outcome < 0 else OK


cdef int retired_collect(instance *s, expand_function expand,
                         uint64_t expand_bytes) noexcept nogil:
    return free_entries(s, ~<uint64_t> 0, record_room(s) // 2, RETIRED_RESERVE, expand,
                        expand_bytes)


cdef int retired_collect_all(instance *s, expand_function expand,
                             uint64_t expand_bytes) noexcept nogil:
    oldest_retained(s, RETAINED_NOW)
    return free_entries(s, ~<uint64_t> 0, record_room(s) // 2, 0, expand, expand_bytes)


cdef char *make(instance *s, uint32_t length, uint16_t type, uint64_t reserve,
                uint64_t *address) noexcept nogil:
    """Make a node, in the place of a listed one if more than the reserve are listed."""
    cdef retired_entry entry
    cdef uint64_t listed = 0
    cdef uint32_t passed
    for passed in range(PASSED_MAX):
        if peek(s, &entry, &listed) != OK:
            return NULL
        if listed <= reserve or is_subtree(&entry):
            break
        if pop(s) != OK:
            return NULL
        if RETIRED_SIZE(entry.what) == UP8(length) >> 3:
            address[0] = RETIRED_ADDRESS(entry.node)
            return node_renew(s, address[0], length, type)
        if node_free(s, RETIRED_ADDRESS(entry.node), RETIRED_SIZE(entry.what) << 3) != OK:
            return NULL
    return node_new(s, length, type, address)


cdef char *node_make(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil:
    return make(s, length, type, 0, address)


cdef char *node_add(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil:
    cdef const versioned_root *root = root_of(s)
    cdef versioned_root *changed
    if root == NULL:
        return NULL
    if not root.last and not root.spare:
        # A session that is alone may list nothing until the pool is full; clear() lists the tree.
        changed = list_change(s)
        if changed == NULL or spare_make(s, changed) != OK:
            return NULL
    return make(s, length, type, RETIRED_RESERVE, address)


# Rows of blocks


cdef struct extent:            # blocks of a listed node
    uint64_t address
    uint64_t count


cdef int by_address(const void *a, const void *b) noexcept nogil:
    cdef uint64_t first = (<const extent *> a).address, second = (<const extent *> b).address
    return <int> (first > second) - <int> (first < second)


cdef uint64_t longest_row(extent *found, uint64_t n, uint64_t block) noexcept nogil:
    cdef uint64_t i, row = 0, longest = 0
    qsort(found, n, sizeof(extent), by_address)
    for i in range(n):
        if i and found[i - 1].address + found[i - 1].count * block == found[i].address:
            row += found[i].count
        else:
            row = found[i].count
        longest = max(longest, row)
    return longest


cdef bint retired_row(instance *s, uint64_t count, uint64_t block) noexcept nogil:
    cdef const versioned_root *root = root_of(s)
    cdef uint64_t address, n = 0, seen = 0, most
    cdef const retired_chunk *c
    cdef extent *found
    cdef uint32_t i, length
    cdef bint enough = False
    if root == NULL or not root.listed:
        return False
    address, most = root.first, root.listed
    found = NULL
    if most <= pool_bytes(s) // sizeof(retired_entry):
        found = <extent *> malloc(most * sizeof(extent))
    while found != NULL and address and not enough and seen <= most:
        c = chunk_read(s, address)
        if c == NULL:
            break
        seen += c.end - c.first
        for i in range(c.first, c.end):
            length = RETIRED_SIZE(c.entries[i].what) << 3
            if is_subtree(&c.entries[i]):
                enough = True              # nobody knows where its nodes are
            elif n < most and rnvm_class_of(length, block) == RNVM_CLASSES:
                found[n] = extent(RETIRED_ADDRESS(c.entries[i].node),
                                  (length + block - 1) // block)
                n += 1
        address = c.next
        nodes_release(s)
    enough = enough or n and longest_row(found, n, block) >= count
    free(found)
    return enough


# The walk


cdef int retired_walk(instance *s, visitor visit, void *context, uint16_t type,
                      subtree_walk walk) noexcept nogil:
    cdef const versioned_root *root = root_of(s)
    cdef const retired_chunk *c
    cdef retired_entry entry
    cdef uint64_t address, next, last, left, spare
    cdef uint32_t i, end
    cdef int outcome = OK
    if root == NULL:
        return s.error
    address = root.first
    last = root.last
    left = root.listed
    spare = root.spare
    if spare:
        if chunk_read(s, spare) == NULL:
            return s.error
        outcome = visit(context, spare, sizeof(retired_chunk))
        if outcome != OK:
            return outcome
        nodes_release(s)
    while address:
        c = chunk_read(s, address)
        if c == NULL:
            return s.error
        i, end, next = c.first, c.end, c.next
        if i == end or end - i > left or (not next) != (address == last):
            return fault(s, address, b"the retire list does not match its root")
        left -= end - i
        outcome = visit(context, address, sizeof(retired_chunk))
        while i < end and outcome == OK:
            c = chunk_read(s, address)
            if c == NULL:
                return s.error
            entry = c.entries[i]
            i += 1
            if RETIRED_VERSION(entry.what) > version_made(s):
                return fault(s, address, b"a node was retired in a later transaction")
            nodes_release(s)
            if is_subtree(&entry):
                outcome = walk(s, RETIRED_ADDRESS(entry.node), RETIRED_SIZE(entry.what), visit,
                               context)
            else:
                if node_read(s, RETIRED_ADDRESS(entry.node), RETIRED_SIZE(entry.what) << 3,
                             TYPE_VALUE if entry.node & RETIRED_VALUE else type) == NULL:
                    return s.error
                outcome = visit(context, RETIRED_ADDRESS(entry.node),
                                RETIRED_SIZE(entry.what) << 3)
                nodes_release(s)
        if outcome != OK:
            return outcome
        address = next
    if left:
        return fault(s, s.root, b"the retire list does not match its root")
    return OK

"""Put, remove, pop and clear: the operations of a skip list; find and iterate: its queries."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, answer_put, fault, node_cost, node_free, record_room, root_change,
)
from structures.layout cimport (
    KEY_OF, SIZES, SKIP_INLINE, SKIP_LEVELS, VALUE_NODE, VALUE_OF, skip_key_at, skip_length,
    skip_link, skip_root, skip_tower,
)
from structures.mapping_operations cimport (
    ANOTHER, CLEARED_BYTES_MAX, DELETE, FOUND, MISSING, MORE, answer_removed, item_is, lookup, pair,
)
from structures.ordered_operations cimport at_high, below_low, bound, ordered_apply, stretch, tally
from structures.page cimport keys_compare
from structures.skip_list_nodes cimport (
    answer_item, answer_value, levels_of, link_back, root_link, root_of, tower_add,
    tower_change, tower_key, tower_payload, tower_read, tower_remove, tower_replace, tower_value,
    towers_find, towers_search, towers_search_around, trail, value_node_of,
)
from structures.values cimport stored_free, value_change, value_fits, value_new

cdef enum:
    # Maximum bytes that a clear() changes beside freed nodes: the root, and a link back.
    SKIP_STEP_BYTES = 2500
    SKIP_DROP_BYTES = 64       # a node that is freed, without its space

cdef enum:                     # a step of an iteration ends after
    ITEMS_PER_STEP = 64
    BYTES_PER_STEP = 8192
    COUNTED_PER_STEP = 512


# Operations


cdef inline int add_to_count(instance *s, int64_t n) noexcept nogil:
    cdef skip_root *root = <skip_root *> root_change(s, RNVM_NODE, 8)
    if root == NULL:
        return s.error
    root.count += n
    return OK


cdef inline int free_value(instance *s, const skip_tower *node) noexcept nogil:
    return stored_free(s, tower_payload(node), VALUE_OF(node.sizes), SKIP_INLINE)


cdef int replace(instance *s, const trail *t, const pair *p, uint32_t sizes) noexcept nogil:
    """Overwrite the value of a key if the new one takes the same room.

    Return OK; else MISSING, and nothing has changed.
    """
    cdef uint32_t old = t.node.sizes, at = skip_key_at(t.node.levels) + p.key_length
    cdef uint64_t value = value_node_of(t.node)
    cdef skip_tower *node
    if skip_length(sizes, t.node.levels) != t.at.length:
        return MISSING
    if value or p.value_length > SKIP_INLINE:
        if not value or p.value_length <= SKIP_INLINE:
            return MISSING
        if not value_fits(VALUE_OF(old), p.value_length):
            return MISSING
        if value_change(s, value, 0, p.value, p.value_length) != OK:
            return s.error
    elif p.value_length or VALUE_OF(old):
        node = tower_change(s, &t.at, at, t.at.length - at)
        if node == NULL:
            return s.error
        memset(<char *> node + at, 0, t.at.length - at)
        memcpy(<char *> node + at, p.value, p.value_length)
    if old == sizes:
        return OK
    node = tower_change(s, &t.at, RNVM_NODE + sizeof(skip_link), 4)
    if node == NULL:
        return s.error
    node.sizes = sizes
    return OK


cdef int seed_set(instance *s, uint32_t salt) noexcept nogil:
    """Set the seed of an empty list."""
    cdef skip_root *root = <skip_root *> root_change(s, RNVM_NODE + 8, 8)
    if root == NULL:
        return s.error
    root.seed = <uint64_t> 1 << 32 | salt
    return OK


cdef int put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length)
    cdef uint64_t value = 0
    cdef const char *payload = p.value
    cdef trail t
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.seed and seed_set(s, p.salt) != OK:
        return s.error
    outcome = towers_search(s, root, p.key, p.key_length, &t)
    if outcome == OK:
        if keep:
            outcome = answer_value(s, t.node)
            return FOUND if outcome == OK else outcome
        outcome = replace(s, &t, p, sizes)
        if outcome != MISSING:
            return outcome
        outcome = free_value(s, t.node)
    if outcome < OK:
        return outcome
    if p.value_length > SKIP_INLINE:
        value = value_new(s, p.value, p.value_length)
        if not value:
            return s.error
        payload = <const char *> &value
    if outcome == OK:
        return tower_replace(s, &t, sizes, payload)
    outcome = tower_add(s, &t, levels_of(root.seed, p.key, p.key_length), sizes, p.key, payload)
    return add_to_count(s, 1) if outcome == OK else outcome


cdef int remove_found(instance *s, const trail *t) noexcept nogil:
    cdef int outcome = free_value(s, t.node)
    if outcome == OK:
        outcome = tower_remove(s, t)
    return add_to_count(s, -1) if outcome == OK else outcome


cdef int remove(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef const skip_root *root = root_of(s)
    cdef const char *value = NULL
    cdef trail t
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = towers_search(s, root, p.key, p.key_length, &t)
    if outcome == OK and code != DELETE:
        outcome = tower_value(s, t.node, &value)
    if outcome == OK:
        outcome = answer_removed(s, p, code, value, VALUE_OF(t.node.sizes))
    return remove_found(s, &t) if outcome == OK else outcome


cdef int first_of(instance *s, trail *t) noexcept nogil:
    """Find the node of the lowest key; MISSING: the list is empty."""
    cdef const skip_root *root = root_of(s)
    memset(t, 0, sizeof(t[0]))
    if root == NULL:
        return s.error
    t.at = root.next[0]
    if not t.at.address:
        return MISSING
    t.node = tower_read(s, &t.at, 0)
    return s.error if t.node == NULL else OK


cdef int last_of(instance *s, trail *t) noexcept nogil:
    """Find the node of the highest key, and those before it."""
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *node
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.last.address:
        return MISSING
    node = tower_read(s, &root.last, 0)
    if node == NULL:
        return s.error
    outcome = towers_search(s, root, tower_key(node), KEY_OF(node.sizes), t)
    if outcome == MISSING:
        return fault(s, root.last.address, b"no link leads to the last node of the skip list")
    return outcome


cdef int pop(instance *s, bint last, const pair *same) noexcept nogil:
    cdef trail t
    cdef const char *value = NULL
    cdef int outcome = last_of(s, &t) if last else first_of(s, &t)
    if outcome == OK and same == NULL:
        outcome = answer_item(s, t.node, True, True)
    elif outcome == OK:
        outcome = tower_value(s, t.node, &value)
        if outcome == OK and not item_is(same, tower_key(t.node), KEY_OF(t.node.sizes), value,
                                         VALUE_OF(t.node.sizes)):
            outcome = ANOTHER
    return remove_found(s, &t) if outcome == OK else outcome


cdef int clear(instance *s) noexcept nogil:
    """Free the first nodes, with their values, while the log has room; return OK, or MORE."""
    cdef skip_link[SKIP_LEVELS] next               # after the freed nodes, on each level
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *node
    cdef skip_link at, none
    cdef uint64_t spent = SKIP_STEP_BYTES, cost
    cdef uint64_t most = min(record_room(s), <uint64_t> CLEARED_BYTES_MAX)
    cdef uint32_t level, top = 0
    cdef int64_t freed = 0
    if root == NULL:
        return s.error
    at = root.next[0]
    memset(&none, 0, sizeof(none))
    while at.address:
        node = tower_read(s, &at, 0)
        if node == NULL:
            return s.error
        cost = SKIP_DROP_BYTES + node_cost(s, at.length)
        if VALUE_OF(node.sizes) > SKIP_INLINE:
            cost += SKIP_DROP_BYTES + node_cost(s, VALUE_NODE(VALUE_OF(node.sizes)))
        if freed and spent + cost > most:
            break
        for level in range(node.levels):
            if (next[level] if level < top else root.next[level]).address != at.address:
                return fault(s, at.address, b"a node of the skip list is not on all its levels")
            next[level] = node.next[level]
        top = max(top, node.levels)
        if free_value(s, node) != OK:
            return s.error
        if node_free(s, at.address, at.length) != OK:
            return s.error
        spent += cost
        freed += 1
        at = next[0]
    if not freed:
        return OK
    for level in range(top):
        if root_link(s, level, &next[level]) != OK:
            return s.error
    if link_back(s, &next[0], &none) != OK or add_to_count(s, -freed) != OK:
        return s.error
    return MORE if at.address else OK


cdef int skip_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    return ordered_apply(s, code, bytes, length, put, remove, pop, clear)


# Queries


cdef int skip_find_key(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *node = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = towers_find(s, root, wanted.key, wanted.length, &node)
    return answer_value(s, node) if outcome == OK and wanted.answer else outcome


cdef int skip_find_first(instance *s, void *context) noexcept nogil:
    cdef trail t
    cdef int outcome = first_of(s, &t)
    return answer_item(s, t.node, True, True) if outcome == OK else outcome


cdef int range_begin(instance *s, const bound *edge, bint around, trail *t) noexcept nogil:
    """Find the place of a bound; a bound without a key is below all keys."""
    cdef const skip_root *root = root_of(s)
    cdef int outcome
    if root == NULL:
        return s.error
    if edge.key == NULL:
        memset(t, 0, sizeof(t[0]))
        t.at = root.next[0]
        return OK
    if around:
        outcome = towers_search_around(s, root, edge.key, edge.length, t)
    else:
        outcome = towers_search(s, root, edge.key, edge.length, t)
    return outcome if outcome < OK else OK


cdef inline bint in_order(const skip_tower *node, bint reverse,
                          const skip_tower *before) noexcept nogil:
    cdef int order
    if before == NULL:
        return True
    order = keys_compare(tower_key(node), KEY_OF(node.sizes), tower_key(before),
                         KEY_OF(before.sizes))
    return order < 0 if reverse else order > 0


cdef int read_towers(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef const skip_root *root
    cdef const skip_tower *node
    cdef const skip_tower *before = NULL
    cdef skip_link at
    cdef trail t
    cdef uint32_t answered = 0, bytes = 0, most = min(c.most, <uint32_t> ITEMS_PER_STEP)
    cdef int outcome = OK
    memset(&t, 0, sizeof(t))
    if not c.reverse or c.high.key != NULL:
        outcome = range_begin(s, &c.high if c.reverse else &c.low, c.salvaging, &t)
    root = root_of(s)
    if outcome != OK or root == NULL:
        return s.error
    if not c.reverse:
        at = t.at
    else:
        at = root.last if c.high.key == NULL else t.before[0]
    while at.address and answered < most and bytes < BYTES_PER_STEP:
        node = tower_read(s, &at, 0)
        if node == NULL:
            return s.error
        if not in_order(node, c.reverse, before):
            return fault(s, at.address, b"the keys of the skip list are not in order")
        before = node
        at = node.back if c.reverse else node.next[0]
        if below_low(&c.low, c.after and not c.reverse, tower_key(node), KEY_OF(node.sizes)):
            if c.reverse:
                break
            continue                       # low itself, where the iteration ended before
        if at_high(&c.high, tower_key(node), KEY_OF(node.sizes)):
            break
        if answer_item(s, node, c.values, False) != OK:
            return s.error
        bytes += skip_length(node.sizes, 0)
        answered += 1
    return OK if answered else MISSING


cdef int next_readable(instance *s, void *context) noexcept nogil:
    cdef const stretch *c = <const stretch *> context
    cdef const skip_root *root = root_of(s)
    cdef const skip_tower *node = NULL             # the last one that is not above low
    cdef const skip_tower *next
    cdef const skip_tower *best = NULL
    cdef skip_link link
    cdef uint32_t level = SKIP_LEVELS
    if root == NULL:
        return MISSING
    while level:
        level -= 1
        while True:
            link = root.next[level] if node == NULL else node.next[level]
            if not link.address:
                break
            next = tower_read(s, &link, level)
            if next == NULL or not in_order(next, False, node):
                break
            if c.low.key == NULL or not below_low(&c.low, True, tower_key(next),
                                                  KEY_OF(next.sizes)):
                if best == NULL or in_order(best, False, next):
                    best = next
                break
            node = next
    s.error = OK
    s.fault = NULL
    return MISSING if best == NULL else answer_put(s, tower_key(best), KEY_OF(best.sizes))


cdef int count_towers(instance *s, void *context) noexcept nogil:
    cdef tally *c = <tally *> context
    cdef const skip_tower *node
    cdef const skip_tower *before = NULL
    cdef skip_link at
    cdef trail t
    cdef int outcome = range_begin(s, &c.low, False, &t)
    c.count = 0
    at = t.at
    while outcome == OK and at.address:
        node = tower_read(s, &at, 0)
        if node == NULL:
            return s.error
        if not in_order(node, False, before):
            return fault(s, at.address, b"the keys of the skip list are not in order")
        if at_high(&c.high, tower_key(node), KEY_OF(node.sizes)):
            return OK
        if not below_low(&c.low, c.after, tower_key(node), KEY_OF(node.sizes)):
            c.count += 1
        if c.count == COUNTED_PER_STEP:
            outcome = answer_put(s, tower_key(node), KEY_OF(node.sizes))
            return MORE if outcome == OK else outcome
        before = node
        at = node.next[0]
    return outcome

"""Put, remove, pop and clear: the operations of a binary search tree; find: its queries."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, answer_put, node_change, node_cost, record_room,
)
from structures.bst_nodes cimport (
    HIGHER, LINKS_BYTES, LOWER, add_count, bst_descend, bst_insert, bst_new, bst_read, bst_remove,
    bst_replace, bst_seek, bst_way, entry, entry_of, is_inside, node_length, value_address,
)
from structures.layout cimport (
    BST_KEY, SIZES, TYPE_BST, VALUE_NODE, VALUE_OF, bst_address, bst_length, bst_node,
)
from structures.mapping_operations cimport (
    ANOTHER, CLEARED_BYTES_MAX, DELETE, FOUND, MISSING, MORE, answer_entry, answer_removed, item_is,
    lookup, pair,
)
from structures.multi_version cimport multi_version, value_retire
from structures.ordered_operations cimport ordered_apply
from structures.values cimport (
    value_bytes, value_change, value_fits, value_free, value_new,
)

# Maximum bytes that a step of clear() changes, without nodes freed: the root and its record.
cdef enum:
    BST_STEP_BYTES = 512
    CHANGES_PER_LEVEL = 4      # nodes that a removal changes: a rotation's, and their parent


cdef int last_entry(instance *s, const bst_way *way, entry *e) noexcept nogil:
    """Read the item of the node that a way leads to."""
    cdef const bst_node *node = bst_read(s, way.links[way.depth - 1])
    if node == NULL:
        return s.error
    entry_of(node, e)
    return OK


cdef int value_of(instance *s, const entry *e, const char **bytes) noexcept nogil:
    """Point `bytes` to the value, in the node or in its own."""
    bytes[0] = e.payload
    if not is_inside(s, e.sizes):
        bytes[0] = value_bytes(s, value_address(e), VALUE_OF(e.sizes))
    return s.error if bytes[0] == NULL else OK


cdef int answer_value(instance *s, const entry *e) noexcept nogil:
    cdef const char *bytes = NULL
    if value_of(s, e, &bytes) != OK:
        return s.error
    return answer_put(s, bytes, VALUE_OF(e.sizes))


cdef int free_value(instance *s, const entry *e) noexcept nogil:
    if is_inside(s, e.sizes):
        return OK
    if multi_version(s):
        return value_retire(s, value_address(e), VALUE_OF(e.sizes))
    return value_free(s, value_address(e), VALUE_OF(e.sizes))


cdef int find(instance *s, const char *key, uint32_t length, bst_way *way,
              entry *e) noexcept nogil:
    cdef int outcome = bst_descend(s, key, length, way)
    if outcome != OK:
        return outcome
    return last_entry(s, way, e) if way.found else MISSING


cdef int find_end(instance *s, bint last, bst_way *way, entry *e) noexcept nogil:
    cdef int outcome = bst_seek(s, NULL, 0, False, LOWER if last else HIGHER, way)
    return last_entry(s, way, e) if outcome == OK else outcome


# Operations


cdef int overwrite(instance *s, const bst_way *way, const entry *e, const pair *p,
                   uint32_t sizes) noexcept nogil:
    """Overwrite a value if the new one takes the same room; MISSING: nothing has changed."""
    cdef uint64_t link = way.links[way.depth - 1], address = bst_address(link, s.root)
    cdef uint32_t at = BST_KEY + e.key_length
    cdef char *changed
    if multi_version(s):
        return MISSING
    if is_inside(s, sizes) and is_inside(s, e.sizes) and node_length(s, sizes) == bst_length(link):
        if sizes == e.sizes and not p.value_length:
            return OK
        changed = <char *> node_change(s, address, bst_length(link), TYPE_BST, at, p.value_length)
        if changed == NULL:
            return s.error
        memcpy(changed + at, p.value, p.value_length)
    elif (is_inside(s, sizes) or is_inside(s, e.sizes)
          or not value_fits(VALUE_OF(e.sizes), p.value_length)):
        return MISSING
    elif value_change(s, value_address(e), 0, p.value, p.value_length) != OK:
        return s.error
    if sizes == e.sizes:
        return OK
    changed = <char *> node_change(s, address, bst_length(link), TYPE_BST, BST_KEY - 4, 4)
    if changed == NULL:
        return s.error
    (<bst_node *> changed).sizes = sizes
    return OK


cdef int bst_put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length)
    cdef uint64_t value = 0, link
    cdef entry e
    cdef bst_way way
    cdef int outcome = bst_descend(s, p.key, p.key_length, &way)
    if outcome != OK:
        return outcome
    if way.found:
        outcome = last_entry(s, &way, &e)
        if outcome == OK and keep:
            outcome = answer_value(s, &e)
            return FOUND if outcome == OK else outcome
        if outcome == OK:
            outcome = overwrite(s, &way, &e, p, sizes)
        if outcome != MISSING:
            return outcome
        if free_value(s, &e) != OK:
            return s.error
    if not is_inside(s, sizes):
        value = value_new(s, p.value, p.value_length)
        if not value:
            return s.error
    link = bst_new(s, p, value)
    if not link:
        return s.error
    if way.found:
        return bst_replace(s, &way, link)
    outcome = bst_insert(s, &way, link)
    return add_count(s, 1) if outcome == OK else outcome


cdef int remove_found(instance *s, bst_way *way, const entry *e) noexcept nogil:
    if free_value(s, e) != OK or bst_remove(s, way) != OK:
        return s.error
    return add_count(s, -1)


cdef int bst_take(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef entry e
    cdef bst_way way
    cdef const char *value = NULL
    cdef int outcome = find(s, p.key, p.key_length, &way, &e)
    if outcome == OK and code != DELETE:
        outcome = value_of(s, &e, &value)
    if outcome == OK:
        outcome = answer_removed(s, p, code, value, VALUE_OF(e.sizes))
    return remove_found(s, &way, &e) if outcome == OK else outcome


cdef int answer_whole(instance *s, const entry *e) noexcept nogil:
    cdef const char *bytes = NULL
    if value_of(s, e, &bytes) != OK:
        return s.error
    return answer_entry(s, e.sizes, e.key, bytes)


cdef int bst_pop(instance *s, bint last, const pair *same) noexcept nogil:
    cdef entry e
    cdef bst_way way
    cdef const char *value = NULL
    cdef int outcome = find_end(s, last, &way, &e)
    if outcome == OK and same == NULL:
        outcome = answer_whole(s, &e)
    elif outcome == OK:
        outcome = value_of(s, &e, &value)
        if outcome == OK and not item_is(same, e.key, e.key_length, value, VALUE_OF(e.sizes)):
            outcome = ANOTHER
    return remove_found(s, &way, &e) if outcome == OK else outcome


cdef int clear(instance *s) noexcept nogil:
    """Remove the lowest keys while the log has room; return OK, or MORE."""
    cdef uint64_t most = min(record_room(s), <uint64_t> CLEARED_BYTES_MAX)
    cdef uint64_t spent = BST_STEP_BYTES, freed, worst
    cdef entry e
    cdef bst_way way
    cdef int outcome
    while True:
        outcome = find_end(s, False, &way, &e)
        if outcome == MISSING:
            return OK
        if outcome != OK:
            return outcome
        freed = node_cost(s, node_length(s, e.sizes))
        if not is_inside(s, e.sizes):
            freed += node_cost(s, VALUE_NODE(VALUE_OF(e.sizes)))
        worst = freed + way.depth * CHANGES_PER_LEVEL * LINKS_BYTES
        if spent > BST_STEP_BYTES and spent + worst > most:
            return MORE
        if remove_found(s, &way, &e) != OK:
            return s.error
        spent += freed + way.changed * LINKS_BYTES


cdef int bst_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    return ordered_apply(s, code, bytes, length, bst_put, bst_take, bst_pop, clear)


# Queries


cdef int find_key(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef entry e
    cdef bst_way way
    cdef int outcome = find(s, wanted.key, wanted.length, &way, &e)
    return answer_value(s, &e) if outcome == OK and wanted.answer else outcome


cdef int find_first(instance *s, void *context) noexcept nogil:
    cdef entry e
    cdef bst_way way
    cdef int outcome = find_end(s, False, &way, &e)
    return answer_whole(s, &e) if outcome == OK else outcome

"""Put, remove, pop and clear: the operations of a B+tree; find: its queries."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_cost, node_read, record_room,
)
from structures.bptree_leaf cimport (
    answer_item, answer_value, entry_in, entry_value, leaf_of, tree_find, tree_first, tree_last,
)
from structures.bptree_pages cimport (
    child_of, count_change, page_change, page_free, page_read, path, path_own, top_read, top_write,
    tree_descend, tree_insert, tree_make_room, tree_remove, tree_top,
)
from structures.layout cimport (
    KEY_OF, SIZES, TYPE_PAGE, VALUE_MAX, VALUE_NODE, VALUE_OF,
)
from structures.mapping_operations cimport (
    ANOTHER, CLEARED_BYTES_MAX, DELETE, FOUND, MISSING, MORE, answer_removed, item_is, lookup, pair,
    pair_header,
)
from structures.multi_version cimport multi_version, value_retire
from structures.ordered_operations cimport ordered_apply
from structures.page cimport (
    PAGE_BYTES, PAGE_FIRST, PAGE_INLINE, page, page_entry, page_entry_at, page_entry_size,
    page_remove,
)
from structures.values cimport stored_free, value_change, value_fits, value_new

# Maximum bytes that operations change, without nodes allocated or freed; the other parts of the
# operation must fit beside them.
cdef enum:
    TREE_REMOVE_BYTES = 2300
    TREE_STEP_BYTES = 2500     # of a step of clear()
    TREE_DROP_BYTES = 64       # a value, without its node
    UNLINK_BYTES = 1700        # a leaf: its entry in the page above
    FREE_PAGE_BYTES = 100      # a page that is freed, without its node

cdef uint64_t TOO_MUCH = <uint64_t> 1 << 62            # bytes beside which nothing fits


cdef int free_value(instance *s, const page_entry *e) noexcept nogil:
    if VALUE_OF(e.sizes) > PAGE_INLINE and multi_version(s):
        return value_retire(s, child_of(e), VALUE_OF(e.sizes))
    return stored_free(s, e.payload, VALUE_OF(e.sizes), PAGE_INLINE)


# Operations


cdef int replace(instance *s, const path *where, const page_entry *e, const pair *p,
                 uint32_t sizes) noexcept nogil:
    """Overwrite the value of a key if the new one takes the same room.

    Return OK; else MISSING, and nothing has changed.
    """
    cdef uint64_t address = where.pages[where.levels - 1]
    cdef const page *leaf = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef uint32_t at, old = e.sizes
    cdef char *changed
    if leaf == NULL:
        return s.error
    at = leaf.slots[where.indexes[where.levels - 1]]
    if old == sizes and p.value_length <= PAGE_INLINE:
        if not p.value_length:
            return OK
        at += 4 + e.key_length
        changed = <char *> page_change(s, address, at, p.value_length)
        if changed == NULL:
            return s.error
        memcpy(changed + at, p.value, p.value_length)
        return OK
    if VALUE_OF(old) <= PAGE_INLINE or p.value_length <= PAGE_INLINE or multi_version(s):
        return MISSING
    if not value_fits(VALUE_OF(old), p.value_length):
        return MISSING
    if value_change(s, child_of(e), 0, p.value, p.value_length) != OK:
        return s.error
    if old == sizes:
        return OK
    changed = <char *> page_change(s, address, at, 4)
    if changed == NULL:
        return s.error
    memcpy(changed + at, &sizes, 4)
    return OK


cdef int tree_put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef tree_top root
    cdef page *leaf
    cdef const page *seen
    cdef page_entry e
    cdef path where
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length)
    cdef uint64_t value = 0
    cdef const char *payload = p.value
    cdef int outcome
    if top_read(s, &root) != OK:
        return s.error
    outcome = tree_descend(s, &root, p.key, p.key_length, &where)
    if outcome == OK and not (keep and where.found):
        outcome = path_own(s, &where)
    if outcome != OK:
        return outcome
    if where.found:
        outcome = entry_in(s, &where, &e)
        if outcome != OK:
            return outcome
        if keep:
            outcome = answer_value(s, &e)
            return FOUND if outcome == OK else outcome
        outcome = replace(s, &where, &e, p, sizes)
        if outcome != MISSING:
            return outcome
        if free_value(s, &e) != OK or leaf_of(s, &where, &seen) != OK:
            return s.error
        leaf = page_change(s, where.pages[where.levels - 1], RNVM_NODE,
                           PAGE_FIRST - RNVM_NODE + 2 * seen.count)
        if leaf == NULL:
            return s.error
        if not page_remove(leaf, where.indexes[where.levels - 1]):
            return fault(s, leaf.node.address, b"an entry extends beyond its page")
    if p.value_length > PAGE_INLINE:
        value = value_new(s, p.value, p.value_length)
        if not value:
            return s.error
        payload = <const char *> &value
    outcome = tree_insert(s, &where, sizes, p.key, payload)
    if outcome != OK or where.found:
        return outcome
    return count_change(s, 1)


cdef int remove_found(instance *s, path *where, const page_entry *e) noexcept nogil:
    # On each level a page may become empty and be freed.
    cdef uint64_t beside = (TREE_REMOVE_BYTES + node_cost(s, VALUE_NODE(VALUE_OF(e.sizes)))
                            + where.levels * (FREE_PAGE_BYTES + node_cost(s, PAGE_BYTES)))
    cdef int outcome
    if multi_version(s):
        beside += where.levels * (PAGE_BYTES + FREE_PAGE_BYTES)
    outcome = path_own(s, where)
    if outcome == OK:
        outcome = free_value(s, e)
    if outcome == OK:
        outcome = tree_remove(s, where, beside)
    if outcome != OK:
        return outcome
    return count_change(s, -1)


cdef int tree_take(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef page_entry e
    cdef path where
    cdef const char *value = NULL
    cdef int outcome = tree_find(s, p.key, p.key_length, &where, &e)
    if outcome == OK and code != DELETE:
        outcome = entry_value(s, &e, &value)
    if outcome == OK:
        outcome = answer_removed(s, p, code, value, VALUE_OF(e.sizes))
    return remove_found(s, &where, &e) if outcome == OK else outcome


cdef int tree_pop(instance *s, bint last, const pair *same) noexcept nogil:
    cdef page_entry e
    cdef path where
    cdef const char *value = NULL
    cdef int outcome = tree_last(s, &where, &e) if last else tree_first(s, &where, &e)
    if outcome == OK and same == NULL:
        outcome = answer_item(s, &e, True, True)
    elif outcome == OK:
        outcome = entry_value(s, &e, &value)
        if outcome == OK and not item_is(same, e.key, e.key_length, value, VALUE_OF(e.sizes)):
            outcome = ANOTHER
    return remove_found(s, &where, &e) if outcome == OK else outcome


cdef int clear_leaf(instance *s, const path *where, uint64_t *spent, uint64_t most,
                    bint any) noexcept nogil:
    """Free the values in nodes of their own of a leaf, from its end, and remove their entries.

    any: whether the operation has done anything.  Return OK, or MORE: the log has no room for the
    rest.
    """
    cdef uint64_t address = where.pages[where.levels - 1], cost
    cdef const page *leaf = page_read(s, address, 0)
    cdef page *changed = NULL
    cdef page_entry e
    cdef uint32_t i
    if leaf == NULL:
        return s.error
    i = leaf.count
    while i:
        i -= 1
        if not page_entry_at(leaf, i, &e):
            return fault(s, address, b"an entry extends beyond its page")
        if VALUE_OF(e.sizes) <= PAGE_INLINE:
            continue
        cost = TREE_DROP_BYTES + node_cost(s, VALUE_NODE(VALUE_OF(e.sizes)))
        if any and spent[0] + cost > most:
            return MORE
        any = True
        spent[0] += cost
        if free_value(s, &e) != OK:
            return s.error
        if leaf.count == 1:
            return OK                      # the leaf is freed as a whole: a leaf must not be empty
        if changed == NULL:
            changed = page_change(s, address, RNVM_NODE, PAGE_FIRST - RNVM_NODE + 2 * leaf.count)
            if changed == NULL:
                return s.error
            spent[0] += UNLINK_BYTES
        if not page_remove(changed, i):
            return fault(s, address, b"an entry extends beyond its page")
        if count_change(s, -1) != OK:
            return s.error
    return OK


cdef int clear(instance *s) noexcept nogil:
    """Remove the first leaves, with their content, while the log has room; return OK, or MORE."""
    cdef tree_top root
    cdef const page *leaf
    cdef path where
    cdef uint64_t spent = TREE_STEP_BYTES, cost
    cdef uint64_t most = min(record_room(s), <uint64_t> CLEARED_BYTES_MAX)
    cdef int outcome
    while True:
        if top_read(s, &root) != OK:
            return s.error
        if not root.levels:
            return OK
        cost = UNLINK_BYTES + root.levels * (FREE_PAGE_BYTES + node_cost(s, PAGE_BYTES))
        if spent > TREE_STEP_BYTES and spent + cost > most:
            return MORE
        outcome = tree_descend(s, &root, b"", 0, &where)
        if outcome == OK:
            # Reserve room for freeing the leaf itself: once its last value is freed, the leaf must
            # be freed too.
            outcome = clear_leaf(s, &where, &spent, most - min(most, cost), spent > TREE_STEP_BYTES)
            spent += cost
        if outcome == OK:
            outcome = leaf_of(s, &where, &leaf)
        if outcome != OK:
            return outcome
        if count_change(s, -<int64_t> leaf.count) != OK or page_free(s, leaf) != OK:
            return s.error
        where.levels -= 1
        if where.levels:
            outcome = tree_remove(s, &where, TOO_MUCH)
            if outcome != OK:
                return outcome
        else:
            root = tree_top(0, 0, 0)
            outcome = top_write(s, &root)
            if outcome != OK:
                return outcome


cdef int tree_split(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef pair_header header
    memcpy(&header, bytes, sizeof(header))
    if (length != sizeof(header) + KEY_OF(header.sizes) or not KEY_OF(header.sizes)
            or VALUE_OF(header.sizes) > VALUE_MAX):
        return fault(s, 0, b"unknown B+tree opcode")
    return tree_make_room(s, bytes + sizeof(header), KEY_OF(header.sizes),
                          page_entry_size(header.sizes))


cdef int tree_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    if code == SPLIT and length > sizeof(pair_header):
        return tree_split(s, bytes, length)
    return ordered_apply(s, code, bytes, length, tree_put, tree_take, tree_pop, clear)


# Queries


cdef int find_key(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef page_entry e
    cdef path where
    cdef int outcome = tree_find(s, wanted.key, wanted.length, &where,
                                 &e if wanted.answer else NULL)
    return answer_value(s, &e) if outcome == OK and wanted.answer else outcome


cdef int find_first(instance *s, void *context) noexcept nogil:
    cdef page_entry e
    cdef path where
    cdef int outcome = tree_first(s, &where, &e)
    return answer_item(s, &e, True, True) if outcome == OK else outcome

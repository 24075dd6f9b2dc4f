"""BPlusTree: a persistent mapping in the order of its keys."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance, kind
from rnvm.frontend.structure cimport (
    ALIEN, OK, fault, node_change, node_cost, node_free, node_read, record_room, register_kind, root_change)
from structures.bptree_leaf cimport answer_item, answer_value, entry_in, leaf_of, root_of
from structures.bptree_pages cimport (
    MADE, child_of, page_read, path, tree_descend, tree_insert, tree_make_room, tree_remove,
)
from structures.bptree_ranges cimport read_next_bound, read_stretch, stretch
from structures.bptree_walk cimport tree_walk
from structures.layout cimport (
    KEY_MAX, KEY_OF, SIZES, TYPE_PAGE, TYPE_VALUE, UP8, VALUE_MAX, VALUE_NODE, VALUE_OF, tree_root,
    value_node,
)
from structures.mapping cimport (
    ANOTHER, CLEAR, DELETE, FOUND, MISSING, MORE, POP, POP_ITEM, POP_SAME, SET, SET_DEFAULT,
    Mapping, digest_is, lookup, pair, pair_header, pair_of,
)
from structures.page cimport (
    PAGE_BYTES, PAGE_FIRST, PAGE_INLINE, page, page_entry, page_entry_at, page_entry_size,
    page_remove,
)
from structures.shared cimport value_bytes, value_free, value_new

from rfp.errors import StructureDamaged, TooLarge

cdef enum:
    LOAD = 16                  # any number of pairs
    SPLIT = 17                 # a pair without its value: the key and the sizes that need room

# maximum bytes that operations change, without nodes allocated or freed; the other parts of the
# operation must fit beside them
cdef enum:
    REMOVING = 2300
    ENDING = 2500              # of a step of clear()
    DROPPING = 64              # a value, without its node
    LEAVING = 1700             # a leaf: its entry in the page above
    EMPTIED = 100              # a page that is freed, without its node
    CLEARED_MAX = 65536        # bytes that one clear() changes, while other front-ends wait

cdef enum:
    LOAD_BYTES = 16384         # of pairs in one operation

cdef uint64_t TOO_MUCH = <uint64_t> 1 << 62            # bytes beside which nothing fits


cdef int free_value(instance *s, const page_entry *e) noexcept nogil:
    if VALUE_OF(e.sizes) <= PAGE_INLINE:
        return OK
    return value_free(s, child_of(e), VALUE_OF(e.sizes))


# Operations


cdef int replace(instance *s, const path *where, const page_entry *e, const pair *p, uint32_t sizes) noexcept nogil:
    """Overwrite the value of a key if the new one takes the same room.

    Return OK; else MISSING, and nothing has changed.
    """
    cdef uint64_t address = where.pages[where.levels - 1]
    cdef const page *leaf = <const page *> node_read(s, address, PAGE_BYTES, TYPE_PAGE)
    cdef uint32_t at, old = e.sizes
    cdef char *changed
    cdef value_node *own
    if leaf == NULL:
        return s.error
    at = leaf.slots[where.indexes[where.levels - 1]]
    if old == sizes and p.value_length <= PAGE_INLINE:
        if not p.value_length:
            return OK
        at += 4 + e.key_length
        changed = node_change(s, address, PAGE_BYTES, TYPE_PAGE, at, p.value_length)
        if changed == NULL:
            return s.error
        memcpy(changed + at, p.value, p.value_length)
        return OK
    if VALUE_OF(old) <= PAGE_INLINE or p.value_length <= PAGE_INLINE or UP8(VALUE_OF(old)) != UP8(p.value_length):
        return MISSING
    own = <value_node *> node_change(s, child_of(e), VALUE_NODE(p.value_length), TYPE_VALUE, RNVM_NODE, UP8(p.value_length))
    if own == NULL:
        return s.error
    memset(<char *> own.bytes + p.value_length, 0, UP8(p.value_length) - p.value_length)
    memcpy(<char *> own.bytes, p.value, p.value_length)
    if old == sizes:
        return OK
    changed = node_change(s, address, PAGE_BYTES, TYPE_PAGE, at, 4)
    if changed == NULL:
        return s.error
    memcpy(changed + at, &sizes, 4)
    return OK


cdef int put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef const tree_root *root = root_of(s)
    cdef tree_root *changed
    cdef page *leaf
    cdef const page *seen
    cdef page_entry e
    cdef path where
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length)
    cdef uint64_t value = 0
    cdef const char *payload = p.value
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = tree_descend(s, root, p.key, p.key_length, &where)
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
        leaf = <page *> node_change(s, where.pages[where.levels - 1], PAGE_BYTES, TYPE_PAGE, RNVM_NODE,
                                    PAGE_FIRST - RNVM_NODE + 2 * seen.count)
        if leaf == NULL:
            return s.error
        page_remove(leaf, where.indexes[where.levels - 1])
    if p.value_length > PAGE_INLINE:
        value = value_new(s, p.value, p.value_length)
        if not value:
            return s.error
        payload = <const char *> &value
    outcome = tree_insert(s, &where, sizes, p.key, payload)
    if outcome != OK or where.found:
        return outcome
    changed = <tree_root *> root_change(s, RNVM_NODE, 8)
    if changed == NULL:
        return s.error
    changed.count += 1
    return OK


cdef int remove_found(instance *s, path *where, const page_entry *e) noexcept nogil:
    cdef tree_root *changed
    # On each level a page may become empty and be freed.
    cdef uint64_t beside = (REMOVING + node_cost(s, VALUE_NODE(VALUE_OF(e.sizes)))
                            + where.levels * (EMPTIED + node_cost(s, PAGE_BYTES)))
    cdef int outcome = free_value(s, e)
    if outcome == OK:
        outcome = tree_remove(s, where, beside)
    if outcome != OK:
        return outcome
    changed = <tree_root *> root_change(s, RNVM_NODE, 8)
    if changed == NULL:
        return s.error
    changed.count -= 1
    return OK


cdef int remove(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef const tree_root *root = root_of(s)
    cdef page_entry e
    cdef path where
    cdef const char *value
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = tree_descend(s, root, p.key, p.key_length, &where)
    if outcome != OK:
        return outcome
    if not where.found:
        return MISSING
    outcome = entry_in(s, &where, &e)
    if outcome == OK and code == POP:
        outcome = answer_value(s, &e)
    if outcome == OK and code == POP_SAME:
        value = e.payload
        if VALUE_OF(e.sizes) > PAGE_INLINE:
            value = value_bytes(s, child_of(&e), VALUE_OF(e.sizes))
        if value == NULL:
            return s.error
        if not digest_is(p, value, VALUE_OF(e.sizes)):
            return ANOTHER
    return remove_found(s, &where, &e) if outcome == OK else outcome


cdef int pop_first(instance *s) noexcept nogil:
    cdef const tree_root *root = root_of(s)
    cdef page_entry e
    cdef path where
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.levels:
        return MISSING
    outcome = tree_descend(s, root, b"", 0, &where)
    if outcome == OK:
        outcome = entry_in(s, &where, &e)
    if outcome == OK:
        outcome = answer_item(s, &e, True, True)
    return remove_found(s, &where, &e) if outcome == OK else outcome


cdef int clear_leaf(instance *s, const path *where, uint64_t *spent, uint64_t most, bint any) noexcept nogil:
    """Free the values in nodes of their own of a leaf, from its end, and remove their entries.

    any: whether the operation has done anything.  Return OK, or MORE: the log has no room for the
    rest.
    """
    cdef uint64_t address = where.pages[where.levels - 1], cost
    cdef const page *leaf = page_read(s, address, 0)
    cdef page *changed = NULL
    cdef tree_root *root
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
        cost = DROPPING + node_cost(s, VALUE_NODE(VALUE_OF(e.sizes)))
        if any and spent[0] + cost > most:
            return MORE
        any = True
        spent[0] += cost
        if free_value(s, &e) != OK:
            return s.error
        if leaf.count == 1:
            return OK                      # the leaf is freed as a whole: a leaf must not be empty
        if changed == NULL:
            changed = <page *> node_change(s, address, PAGE_BYTES, TYPE_PAGE, RNVM_NODE, PAGE_FIRST - RNVM_NODE + 2 * leaf.count)
            root = <tree_root *> root_change(s, RNVM_NODE, sizeof(tree_root) - RNVM_NODE)
            if changed == NULL or root == NULL:
                return s.error
            spent[0] += LEAVING
        page_remove(changed, i)
        root.count -= 1
    return OK


cdef int clear(instance *s) noexcept nogil:
    """Remove the first leaves, with their content, while the log has room; return OK, or MORE."""
    cdef tree_root *root
    cdef const page *leaf
    cdef path where
    cdef uint64_t spent = ENDING, most = min(record_room(s), <uint64_t> CLEARED_MAX), cost
    cdef uint64_t address
    cdef int outcome
    while True:
        root = <tree_root *> root_of(s)
        if root == NULL:
            return s.error
        if not root.levels:
            return OK
        cost = LEAVING + root.levels * (EMPTIED + node_cost(s, PAGE_BYTES))
        if spent > ENDING and spent + cost > most:
            return MORE
        outcome = tree_descend(s, root, b"", 0, &where)
        if outcome == OK:
            # Reserve room for freeing the leaf itself: once its last value is freed, the leaf must
            # be freed too.
            outcome = clear_leaf(s, &where, &spent, most - min(most, cost), spent > ENDING)
            spent += cost
        if outcome == OK:
            outcome = leaf_of(s, &where, &leaf)
        if outcome != OK:
            return outcome
        root = <tree_root *> root_change(s, RNVM_NODE, sizeof(tree_root) - RNVM_NODE)
        if root == NULL:
            return s.error
        root.count -= leaf.count
        address = where.pages[where.levels - 1]
        if node_free(s, address, PAGE_BYTES) != OK:
            return s.error
        where.levels -= 1
        if where.levels:
            outcome = tree_remove(s, &where, TOO_MUCH)
            if outcome != OK:
                return outcome
        else:
            root.top = root.levels = 0


cdef int make_room(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef pair_header header
    memcpy(&header, bytes, sizeof(header))
    if length != sizeof(header) + KEY_OF(header.sizes) or not KEY_OF(header.sizes) or VALUE_OF(header.sizes) > VALUE_MAX:
        return fault(s, 0, b"unknown B+tree opcode")
    return tree_make_room(s, bytes + sizeof(header), KEY_OF(header.sizes), page_entry_size(header.sizes))


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef pair p
    cdef uint32_t taken, at = 0
    cdef int outcome
    memset(&p, 0, sizeof(p))
    if code == POP_ITEM and length == 0:
        return pop_first(s)
    if code == CLEAR and length == 0:
        return clear(s)
    if code == SPLIT and length > sizeof(pair_header):
        return make_room(s, bytes, length)
    while code == LOAD and at < length:
        taken = pair_of(bytes + at, length - at, &p)
        if not taken:
            break
        outcome = put(s, &p, False)
        if outcome != OK:
            return outcome
        at += taken
        if at == length:
            return OK
    if pair_of(bytes, length, &p) == length:
        if code == SET or code == SET_DEFAULT:
            return put(s, &p, code == SET_DEFAULT)
        if code == DELETE or code == POP or code == POP_SAME:
            return remove(s, &p, code)
    return ALIEN


# Queries


cdef int find(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef const tree_root *root = root_of(s)
    cdef page_entry e
    cdef path where
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = tree_descend(s, root, wanted.key, wanted.length, &where)
    if outcome != OK:
        return outcome
    if not where.found:
        return MISSING
    if not wanted.answer:
        return OK
    outcome = entry_in(s, &where, &e)
    return answer_value(s, &e) if outcome == OK else outcome


cdef int find_first(instance *s, void *context) noexcept nogil:
    """Answer with the item that pop_first() would remove."""
    cdef const tree_root *root = root_of(s)
    cdef page_entry e
    cdef path where
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.levels:
        return MISSING
    outcome = tree_descend(s, root, b"", 0, &where)
    if outcome == OK:
        outcome = entry_in(s, &where, &e)
    return answer_item(s, &e, True, True) if outcome == OK else outcome


cdef kind tree_kind
tree_kind.number, tree_kind.format, tree_kind.root = 3, 1, sizeof(tree_root)
tree_kind.apply, tree_kind.walk = apply, tree_walk


cdef class BPlusTree(Mapping):
    """A persistent B+tree: a MutableMapping in the order of its keys (as bytes).

    Any number of front-ends share it.  An iteration yields each key that is there from its
    beginning to its end exactly once, in order, and a key added or removed during the iteration at
    most once.  This is the B+tree of the paper (rNVM, section 5).

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or what the pool's
    logs take.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the tree in the pool; created if it does not exist.
        codec: How keys and values other than bytes are stored: "utf-8" (which keeps the order of
            strings), "json", "pickle", or an object with encode() and decode().

    Raises:
        WrongKind: The name belongs to another kind of structure.

    Cost:
        - `tree[key] = value`, `del`: 2 WRITEs (the operation, and its changes).
        - Lookup: no round trip while this front-end has the writer lock; else 1 READ.  1 READ more
          for each page on the way that is not in its cache.
        - len(): O(1).

    >>> index = structures.BPlusTree(fe, "index")
    >>> index.update({b"a": b"1", b"c": b"3", b"b": b"2"})
    >>> list(index), list(index.range(b"b", b"c"))
    ([b'a', b'b', b'c'], [(b'b', b'2')])
    """
    KIND = 3

    def __cinit__(self, *args, **options):
        self.find = find
        self.any_item = find_first

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        if code != SET and code != SET_DEFAULT:
            return Mapping.change(self, code, key, value, timeout)
        try:
            return Mapping.change(self, code, key, value, timeout)
        except TooLarge:
            # All the splits together are too much for the log.
            self.make_room(key, value, timeout)
        return Mapping.change(self, code, key, value, timeout)

    cdef int make_room(self, bytes key, bytes value, object timeout) except -1:
        cdef pair_header header
        cdef bytes operation
        header.sizes = SIZES(<uint32_t> len(key), <uint32_t> len(value))
        header.salt = 0
        operation = (<const char *> &header)[:sizeof(header)] + key
        while self.execute(SPLIT, operation, <uint32_t> len(operation), timeout) == MADE:
            pass
        return 0

    cdef bytes bound(self, object key):
        """Return a range's bound: any bytes.  Bytes beyond the longest key are cut off."""
        cdef bytes raw
        if key is None:
            return None
        raw = key if self.codec is None and type(key) is bytes else self.encode(key)
        return raw[:KEY_MAX + 1]

    def range(self, lo=None, hi=None, *, bint reverse=False):
        """Iterate over (key, value) with lo <= key < hi, in the order of the keys.

        Args:
            lo, hi: Keys, or bytes that would be a key but for their length; None: no bound.
            reverse: Iterate from the last to the first.

        Cost:
            1 READ for each leaf that is not in the cache.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        >>> list(index.range(b"b")), list(index.range(hi=b"c", reverse=True))
        ([(b'b', b'2'), (b'c', b'3')], [(b'b', b'2'), (b'a', b'1')])
        """
        return self._each(True, reverse=reverse, lo=self.bound(lo), hi=self.bound(hi))

    def _each(self, bint values, *, bint reverse=False, bytes lo=None, bytes hi=None, most=None):
        cdef stretch c
        cdef bytes last = None
        memset(&c, 0, sizeof(c))
        c.reverse = reverse
        c.values = values
        c.most = 0xffffffff if most is None else most
        while True:
            c.after = last is not None
            if reverse and last is not None:
                hi = last
            elif last is not None:
                lo = last
            c.low.key = NULL if lo is None else PyBytes_AS_STRING(lo)
            c.low.length = 0 if lo is None else <uint32_t> PyBytes_GET_SIZE(lo)
            c.high.key = NULL if hi is None else PyBytes_AS_STRING(hi)
            c.high.length = 0 if hi is None else <uint32_t> PyBytes_GET_SIZE(hi)
            if self.query(read_stretch, &c) == MISSING:
                return
            for last, value in self.items_told():
                if not values:
                    yield self.decode(last, last)
                    continue
                if value is None:
                    value = self.fetch(last, None)
                if value is not None:
                    yield self.decode(last, last), self.decode(value, last)

    def __reversed__(self):
        return self._each(False, reverse=True)

    def _salvage(self, list damages not None):
        cdef stretch c
        cdef bytes low = None
        cdef list told
        memset(&c, 0, sizeof(c))
        c.values = True
        c.most = 0xffffffff
        while True:
            c.low.key = NULL if low is None else PyBytes_AS_STRING(low)
            c.low.length = 0 if low is None else <uint32_t> PyBytes_GET_SIZE(low)
            try:
                if self.query(read_stretch, &c) == MISSING:
                    return
                told = self.items_told()
                low = told[len(told) - 1][0]
                c.after = True
            except StructureDamaged as error:
                # Continue with the page that comes next according to the pages above.
                if not damages or str(damages[len(damages) - 1]) != str(error):
                    damages.append(error)
                told = self.items_told()
                if self.query(read_next_bound, &c) == MISSING:
                    low = None
                else:
                    low = self.answer()
                c.after = False
            yield from self.salvaged(told, damages)
            if low is None:
                return

    def first(self):
        """Return (key, value) of the lowest key.

        Raises:
            KeyError: The tree is empty.

        Cost:
            No round trip while this front-end has the writer lock and the pages.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2"})
        >>> index.first(), index.last()
        ((b'a', b'1'), (b'b', b'2'))
        """
        for item in self._each(True, most=1):
            return item
        raise KeyError(f"{self.name!r} is empty")

    def last(self):
        """Return (key, value) of the highest key.

        Raises:
            KeyError: The tree is empty.

        Cost:
            As first().

        >>> index = structures.BPlusTree(fe, "index")
        >>> index[b"k"] = b"v"
        >>> index.last()
        (b'k', b'v')
        """
        for item in self._each(True, reverse=True, most=1):
            return item
        raise KeyError(f"{self.name!r} is empty")

    def bulk_load(self, items, *, timeout=None):
        """Set many items, some hundred in one operation; return how many.

        Each operation is atomic, all of them together only in a transaction.

        Args:
            items: A mapping, or an iterable of (key, value).  Fastest in the order of the keys,
                which also fills the pages completely.
            timeout: Seconds, of each operation.

        Cost:
            2 WRITEs for each 16 KiB, or for as much as the pool's logs take.

        >>> structures.BPlusTree(fe, "index").bulk_load((b"%03d" % i, b"") for i in range(1000))
        1000
        """
        cdef list pairs = []
        cdef bytes key, value
        cdef uint64_t n = 0, length = 0
        for k, v in (items.items() if hasattr(items, "items") else items):
            key = self.raw_key(k)
            value = self.raw_value(v)
            if pairs and length + len(key) + len(value) > LOAD_BYTES:
                self.load(pairs, timeout)
                pairs = []
                length = 0
            length += sizeof(pair_header) + len(key) + len(value)
            pairs.append((key, value))
            n += 1
        self.load(pairs, timeout)
        return n

    cdef int load(self, list pairs, object timeout) except -1:
        """Load the pairs in one operation if it fits into the log, else in two."""
        cdef bytearray operation = bytearray()
        cdef pair_header header
        cdef Py_ssize_t half = len(pairs) // 2
        header.salt = 0
        for key, value in pairs:
            header.sizes = SIZES(<uint32_t> len(key), <uint32_t> len(value))
            operation += (<const char *> &header)[:sizeof(header)]
            operation += key
            operation += value
        if not pairs:
            return 0
        if half:
            try:
                return self.execute(LOAD, operation, <uint32_t> len(operation), timeout)
            except TooLarge:
                self.load(pairs[:half], timeout)
                return self.load(pairs[half:], timeout)
        self.change(SET, pairs[0][0], pairs[0][1], timeout)
        return 0


register_kind(&tree_kind, BPlusTree)

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A persistent B+tree: a mapping in the order of its keys."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm._node cimport RNVM_NODE
from rnvm.frontend._front cimport instance, kind
from rnvm.frontend._structure cimport OK, fault, node_change, node_free, node_read, register_kind, root_change
from structures._layout cimport SIZES, TYPE_PAGE, TYPE_VALUE, UP8, VALUE_NODE, VALUE_OF, tree_root, value_node
from structures._leaf cimport answer_item, answer_value, entry_in, leaf_of, root_of
from structures._mapping cimport (
    CLEAR, DELETE, FOUND, MISSING, MORE, POP, POP_ITEM, SET, SET_DEFAULT, Mapping, lookup, pair, pair_header, pair_of)
from structures._page cimport PAGE_BYTES, PAGE_FIRST, PAGE_INLINE, page, page_entry, page_entry_at, page_remove
from structures._ranges cimport read_stretch, stretch
from structures._shared cimport value_free, value_new
from structures._tree cimport child_of, path, tree_descend, tree_insert, tree_remove
from structures._tree_walk cimport tree_walk

cdef enum:
    LOAD = 16                  # any number of pairs

cdef enum:
    ENOUGH = 64                # nodes that one clear() frees: a transaction has to fit into the log
    LOAD_BYTES = 16384         # of pairs in one operation


cdef int free_value(instance *s, const page_entry *e) noexcept nogil:
    if VALUE_OF(e.sizes) <= PAGE_INLINE:
        return OK
    return value_free(s, child_of(e), VALUE_OF(e.sizes))


# Operations


cdef int replace(instance *s, const path *where, const page_entry *e, const pair *p, uint32_t sizes) noexcept nogil:
    """Writes another value over that of a key, if it takes the same room: OK; else MISSING, and nothing has changed."""
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
    cdef int outcome = free_value(s, e)
    if outcome == OK:
        outcome = tree_remove(s, where)
    if outcome != OK:
        return outcome
    changed = <tree_root *> root_change(s, RNVM_NODE, 8)
    if changed == NULL:
        return s.error
    changed.count -= 1
    return OK


cdef int remove(instance *s, const pair *p, bint answer) noexcept nogil:
    cdef const tree_root *root = root_of(s)
    cdef page_entry e
    cdef path where
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = tree_descend(s, root, p.key, p.key_length, &where)
    if outcome != OK:
        return outcome
    if not where.found:
        return MISSING
    outcome = entry_in(s, &where, &e)
    if outcome == OK and answer:
        outcome = answer_value(s, &e)
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


cdef int clear(instance *s) noexcept nogil:
    """Takes the first leaves away, with all that is in them."""
    cdef tree_root *root
    cdef const page *leaf
    cdef page_entry e
    cdef path where
    cdef uint32_t i, freed = 0
    cdef uint64_t address
    cdef int outcome
    while freed < ENOUGH:
        root = <tree_root *> root_of(s)
        if root == NULL:
            return s.error
        if not root.levels:
            return OK
        outcome = tree_descend(s, root, b"", 0, &where)
        if outcome == OK:
            outcome = leaf_of(s, &where, &leaf)
        if outcome != OK:
            return outcome
        for i in range(leaf.count):
            if not page_entry_at(leaf, i, &e):
                return fault(s, leaf.node.address, b"an entry goes beyond its page")
            if free_value(s, &e) != OK:
                return s.error
            freed += VALUE_OF(e.sizes) > PAGE_INLINE
        root = <tree_root *> root_change(s, RNVM_NODE, sizeof(tree_root) - RNVM_NODE)
        if root == NULL:
            return s.error
        root.count -= leaf.count
        address = where.pages[where.levels - 1]
        if node_free(s, address, PAGE_BYTES) != OK:
            return s.error
        freed += 1
        where.levels -= 1
        if where.levels:
            outcome = tree_remove(s, &where)
            if outcome != OK:
                return outcome
        else:
            root.top = root.levels = 0
    return MORE


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef pair p
    cdef uint32_t taken, at = 0
    cdef int outcome
    memset(&p, 0, sizeof(p))
    if code == POP_ITEM and length == 0:
        return pop_first(s)
    if code == CLEAR and length == 0:
        return clear(s)
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
        if code == DELETE or code == POP:
            return remove(s, &p, code == POP)
    return fault(s, 0, b"an operation that no tree knows")


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


cdef kind tree_kind
tree_kind.number, tree_kind.format, tree_kind.root = 3, 1, sizeof(tree_root)
tree_kind.apply, tree_kind.walk = apply, tree_walk


cdef class BPlusTree(Mapping):
    """A persistent B+tree: a MutableMapping in the order of its keys (as bytes), which any number of front-ends share.

    fe: of rnvm.connect().  name: of the tree in the pool; it is created if there is none.  codec: how other keys and values
    than bytes are stored: "utf-8" (which keeps the order of strings), "json", "pickle", or an object with encode() and
    decode().  Keys have 1 to 1024 bytes, values 0 bytes to 1 MiB.

    Raises WrongKind for a name that is not a B+tree's.  `tree[key] = value` and `del` cost 2 WRITEs: the operation, and what
    it changes; a lookup costs no round trip where this front-end has the writer lock, else 1 READ, and 1 more for each page
    on its way that is not in its cache.  len() is O(1).  An iteration gives each key that is there from its beginning to its
    end exactly once, in order; one that comes or goes meanwhile at most once.  The B+tree of the paper (rNVM, section 5).

    >>> index = structures.BPlusTree(fe, "index")
    >>> index.update({b"a": b"1", b"c": b"3", b"b": b"2"})
    >>> list(index), list(index.range(b"b", b"c"))
    ([b'a', b'b', b'c'], [(b'b', b'2')])
    """
    KIND = 3

    def __cinit__(self, *args, **options):
        self.find = find

    def range(self, lo=None, hi=None, *, bint reverse=False):
        """Iterates over (key, value) with lo <= key < hi, in the order of the keys.

        lo, hi: keys; None: no bound.  reverse: from the last to the first.  1 READ for each leaf that is not in the cache.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        >>> list(index.range(b"b")), list(index.range(hi=b"c", reverse=True))
        ([(b'b', b'2'), (b'c', b'3')], [(b'b', b'2'), (b'a', b'1')])
        """
        lo = None if lo is None else self.raw_key(lo)
        hi = None if hi is None else self.raw_key(hi)
        return self._each(True, reverse=reverse, lo=lo, hi=hi)

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
                    yield self.decode(last)
                    continue
                if value is None:
                    value = self.fetch(last, None)
                if value is not None:
                    yield self.decode(last), self.decode(value)

    def __reversed__(self):
        return self._each(False, reverse=True)

    def first(self):
        """(key, value) of the lowest key; KeyError if there is none.  No round trip where this front-end has the writer lock
        and the pages.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2"})
        >>> index.first(), index.last()
        ((b'a', b'1'), (b'b', b'2'))
        """
        for item in self._each(True, most=1):
            return item
        raise KeyError(f"{self.name!r} is empty")

    def last(self):
        """(key, value) of the highest key; KeyError if there is none.  Costs as first().

        >>> index = structures.BPlusTree(fe, "index")
        >>> index[b"k"] = b"v"
        >>> index.last()
        (b'k', b'v')
        """
        for item in self._each(True, reverse=True, most=1):
            return item
        raise KeyError(f"{self.name!r} is empty")

    def bulk_load(self, items, *, timeout=None):
        """Sets many items, some hundred in one operation; returns how many.

        items: a mapping, or an iterable of (key, value); in the order of the keys it is fastest, and fills the pages
        completely.  Each operation is atomic, all of them together only in a transaction.  timeout: seconds, of each
        operation.  2 WRITEs for each 16 KiB.

        >>> structures.BPlusTree(fe, "index").bulk_load((b"%03d" % i, b"") for i in range(1000))
        1000
        """
        cdef bytearray pairs = bytearray()
        cdef pair_header header
        cdef bytes key, value
        cdef uint64_t n = 0
        header.salt = 0
        for k, v in (items.items() if hasattr(items, "items") else items):
            key = self.raw_key(k)
            value = self.raw_value(v)
            if pairs and len(pairs) + len(key) + len(value) > LOAD_BYTES:
                self.execute(LOAD, pairs, <uint32_t> len(pairs), timeout)
                pairs = bytearray()
            header.sizes = SIZES(<uint32_t> len(key), <uint32_t> len(value))
            pairs += (<const char *> &header)[:sizeof(header)]
            pairs += key
            pairs += value
            n += 1
        if pairs:
            self.execute(LOAD, pairs, <uint32_t> len(pairs), timeout)
        return n


register_kind(&tree_kind, BPlusTree)

"""BPlusTree: a persistent mapping in the order of its keys.

This file has the class.  bptree_operations has its operations, bptree_ranges the queries of
iterations, bptree_pages and bptree_leaf the nodes, bptree_walk the checks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.arguments cimport bytes_argument, key_argument, value_argument
from structures.bptree_operations cimport LOAD, SPLIT, find_first, find_key, tree_apply
from structures.bptree_pages cimport MADE
from structures.bptree_ranges cimport bound, read_next_bound, read_stretch, stretch
from structures.bptree_walk cimport tree_walk
from structures.layout cimport KEY_MAX, SIZES, tree_root
from structures.mapping cimport VANISHED, Mapping
from structures.mapping_operations cimport MISSING, SET, SET_DEFAULT, pair_header

from rfp.errors import StructureDamaged, TooLarge

cdef enum:
    LOAD_BYTES = 16384         # of pairs in one operation
    NO_LIMIT = 0xffffffff      # items of a stretch


cdef void set_bound(bound *b, bytes key) noexcept:
    """Set a bound to a key, which must live as long as the bound is used; None: no bound."""
    b.key = NULL if key is None else PyBytes_AS_STRING(key)
    b.length = 0 if key is None else <uint32_t> PyBytes_GET_SIZE(key)


cdef kind tree_kind
tree_kind.number, tree_kind.format, tree_kind.root = 3, 1, sizeof(tree_root)
tree_kind.apply, tree_kind.walk = tree_apply, tree_walk


cdef class BPlusTree(Mapping):
    """A persistent B+tree: a MutableMapping in the order of its keys (as bytes).

    Any number of front-ends share it.  An iteration yields each key that is there from its
    beginning to its end exactly once, in order, and a key added or removed during the iteration at
    most once.  This is the B+tree of the paper (rNVM, section 5).

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or less if
    the pool's logs take less.

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
        self.find = find_key
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

    cdef bytes bound_argument(self, object key):
        """Return a range's bound: any bytes.  Bytes beyond the longest key are cut off."""
        cdef bytes raw
        if key is None:
            return None
        raw = bytes_argument(self, key)
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
        return self._each(True, reverse=reverse, lo=self.bound_argument(lo),
                          hi=self.bound_argument(hi))

    def _each(self, bint values, *, bint reverse=False, bytes lo=None, bytes hi=None, most=None):
        cdef stretch c
        cdef bytes last = None
        memset(&c, 0, sizeof(c))
        c.reverse = reverse
        c.values = values
        c.most = NO_LIMIT if most is None else most
        while True:
            c.after = last is not None
            if reverse and last is not None:
                hi = last
            elif last is not None:
                lo = last
            set_bound(&c.low, lo)
            set_bound(&c.high, hi)
            if self.query(read_stretch, &c) == MISSING:
                return
            for last, value in self.answered_items():
                item = self.decoded(last, value, values)
                if item is not VANISHED:
                    yield item

    def __reversed__(self):
        return self._each(False, reverse=True)

    def _salvage(self, list damages not None):
        cdef stretch c
        cdef bytes low = None
        cdef list items
        memset(&c, 0, sizeof(c))
        c.values = True
        c.most = NO_LIMIT
        while True:
            set_bound(&c.low, low)
            try:
                if self.query(read_stretch, &c) == MISSING:
                    return
                items = self.answered_items()
                low = items[len(items) - 1][0]
                c.after = True
            except StructureDamaged as error:
                # Continue with the page that comes next according to the pages above.
                if not damages or str(damages[len(damages) - 1]) != str(error):
                    damages.append(error)
                items = self.answered_items()
                if self.query(read_next_bound, &c) == MISSING:
                    low = None
                else:
                    low = self.answer()
                c.after = False
            yield from self.salvaged(items, damages)
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
            key = key_argument(self, k)
            value = value_argument(self, v)
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

"""The Python interface of ordered mappings: ranges, neighbours, counts, bulk loads.

An iteration is a sequence of queries, each of which continues after the last key of the one before.
"""

from heapq import merge
from operator import itemgetter

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm.frontend.structure cimport OK, transaction_mark, transaction_undo
from structures.arguments cimport bytes_argument, key_argument, value_argument
from structures.layout cimport KEY_MAX, SIZES
from structures.mapping cimport VANISHED, Mapping
from structures.mapping_operations cimport (
    MISSING, MORE, POP_FIRST_SAME, POP_ITEM, POP_LAST, POP_LAST_SAME, SET, SET_DEFAULT, pair_header,
)
from structures.ordered_operations cimport LOAD, bound, stretch, tally

from rfp.errors import StructureDamaged, TooLarge

cdef enum:
    LOAD_BYTES = 16384         # of pairs in one operation
    NO_LIMIT = 0xffffffff      # items of a stretch


cdef object first_of = itemgetter(0)


cdef void set_bound(bound *b, bytes key) noexcept:
    """Set a bound to a key, which must live as long as the bound is used; None: no bound."""
    b.key = NULL if key is None else PyBytes_AS_STRING(key)
    b.length = 0 if key is None else <uint32_t> PyBytes_GET_SIZE(key)


cdef bytes prefix_end(bytes prefix):
    """Return the lowest bytes above all that begin with the prefix; None: there are none."""
    cdef bytes head = prefix.rstrip(b"\xff")
    cdef Py_ssize_t end = len(head) - 1
    return head[:end] + bytes([head[end] + 1]) if head else None


cdef class OrderedMapping(Mapping):
    """A persistent mapping in the order of its keys (as bytes): a complete MutableMapping."""

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        cdef Mapping part = self.partition_of(key)
        if part is not self:
            return part.change(code, key, value, timeout)
        if not self.split or code != SET and code != SET_DEFAULT:
            return Mapping.change(self, code, key, value, timeout)
        try:
            return Mapping.change(self, code, key, value, timeout)
        except TooLarge:
            # All the splits together are too much for the log.
            self.split_for(key, value, timeout)
        return Mapping.change(self, code, key, value, timeout)

    cdef int split_for(self, bytes key, bytes value, object timeout) except -1:
        cdef pair_header header
        cdef bytes operation
        header.sizes = SIZES(<uint32_t> len(key), <uint32_t> len(value))
        header.salt = 0
        operation = (<const char *> &header)[:sizeof(header)] + key
        while self.execute(self.split, operation, <uint32_t> len(operation), timeout) == MORE:
            pass
        return 0

    cdef bytes bound_argument(self, object key):
        if key is None:
            return None
        return bytes_argument(self, key)[:KEY_MAX + 1]

    def range(self, lo=None, hi=None, *, bint reverse=False):
        """Iterate over (key, value) with lo <= key < hi, in the order of the keys.

        Args:
            lo, hi: Keys, or bytes that would be a key but for their length; None: no bound.
            reverse: Iterate from the last to the first.

        Cost:
            1 READ for each node that is not in the cache.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        >>> list(index.range(b"b")), list(index.range(hi=b"c", reverse=True))
        ([(b'b', b'2'), (b'c', b'3')], [(b'b', b'2'), (b'a', b'1')])
        """
        return self._each(True, reverse=reverse, lo=self.bound_argument(lo),
                          hi=self.bound_argument(hi))

    def prefix(self, p, *, bint reverse=False):
        """Iterate over (key, value) of all keys that begin with a prefix, in their order.

        Args:
            p: Bytes, or a type of the codec; the prefix is that of the encoded keys, so the codec
                must encode a prefix to a prefix, as "utf-8" does.
            reverse: Iterate from the last to the first.

        Cost:
            As range().

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a/1": b"x", b"a/2": b"y", b"b/1": b"z"})
        >>> list(index.prefix(b"a/"))
        [(b'a/1', b'x'), (b'a/2', b'y')]
        """
        cdef bytes low = self.bound_argument(p)
        return self._each(True, reverse=reverse, lo=low,
                          hi=None if low is None else prefix_end(low))

    def _each(self, bint values, *, bint reverse=False, bytes lo=None, bytes hi=None, most=None):
        cdef object items, key, value
        if self.others is None:
            items = self._each_raw(values, reverse, lo, hi, most)
        else:
            items = merge(*[part._each_raw(values, reverse, lo, hi, most)
                            for part in self._parts()], key=first_of, reverse=reverse)
        for key, value in items:
            item = self.decoded(key, value, values)
            if item is not VANISHED:
                yield item

    def _each_raw(self, bint values, bint reverse, bytes lo, bytes hi, most):
        """Iterate over the items of this partition, as bytes; a long value may be None."""
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
            if self.query(self.read_items, &c) == MISSING:
                return
            for last, value in self.answered_items():
                yield last, value

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
                if self.query(self.read_items, &c) == MISSING:
                    return
                items = self.answered_items()
                low = items[len(items) - 1][0]
                c.after = True
            except StructureDamaged as error:
                # Continue after the damage, according to the nodes that can be read.
                if not damages or str(damages[len(damages) - 1]) != str(error):
                    damages.append(error)
                c.salvaging = True
                items = self.answered_items()
                if items:
                    low = items[len(items) - 1][0]
                    set_bound(&c.low, low)
                low = None if self.query(self.next_bound, &c) == MISSING else self.answer()
                c.after = False
            yield from self.salvaged(items, damages)
            if low is None:
                return

    cdef object neighbour(self, bint reverse, bytes lo, bytes hi):
        for item in self._each(True, reverse=reverse, lo=lo, hi=hi, most=1):
            return item
        return None

    def first(self):
        """Return (key, value) of the lowest key.

        Raises:
            KeyError: The mapping is empty.

        Cost:
            As a lookup.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2"})
        >>> index.first(), index.last()
        ((b'a', b'1'), (b'b', b'2'))
        """
        item = self.neighbour(False, None, None)
        if item is None:
            raise KeyError(f"{self.name!r} is empty")
        return item

    def last(self):
        """Return (key, value) of the highest key.

        Raises:
            KeyError: The mapping is empty.

        Cost:
            As a lookup.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index[b"k"] = b"v"
        >>> index.last()
        (b'k', b'v')
        """
        item = self.neighbour(True, None, None)
        if item is None:
            raise KeyError(f"{self.name!r} is empty")
        return item

    def floor(self, key):
        """Return (key, value) of the highest key that is not above this one.

        Args:
            key: Bytes of any length, or a type of the codec.

        Raises:
            KeyError: All keys are above it.

        Cost:
            As a lookup.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"b": b"1", b"d": b"2"})
        >>> index.floor(b"c"), index.floor(b"b"), index.lower(b"d")
        ((b'b', b'1'), (b'b', b'1'), (b'b', b'1'))
        """
        # key + b"\0" is the lowest above `key`.
        item = self.neighbour(True, None, bytes_argument(self, key)[:KEY_MAX + 1] + b"\0")
        if item is None:
            raise KeyError(key)
        return item

    def ceiling(self, key):
        """Return (key, value) of the lowest key that is not below this one.

        Args:
            key: Bytes of any length, or a type of the codec.

        Raises:
            KeyError: All keys are below it.

        Cost:
            As a lookup.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"b": b"1", b"d": b"2"})
        >>> index.ceiling(b"c"), index.ceiling(b"b"), index.higher(b"b")
        ((b'd', b'2'), (b'b', b'1'), (b'd', b'2'))
        """
        item = self.neighbour(False, bytes_argument(self, key)[:KEY_MAX + 1], None)
        if item is None:
            raise KeyError(key)
        return item

    def lower(self, key):
        """Return (key, value) of the highest key below this one; see floor().

        Raises:
            KeyError: No key is below it.
        """
        item = self.neighbour(True, None, bytes_argument(self, key)[:KEY_MAX + 1])
        if item is None:
            raise KeyError(key)
        return item

    def higher(self, key):
        """Return (key, value) of the lowest key above this one; see ceiling().

        Raises:
            KeyError: No key is above it.
        """
        item = self.neighbour(False, bytes_argument(self, key)[:KEY_MAX + 1] + b"\0", None)
        if item is None:
            raise KeyError(key)
        return item

    def popitem(self, *, bint last=False, timeout=None):
        """Remove the item with the lowest key and return it: (key, value).

        Args:
            last: Remove the item with the highest key instead.
            timeout: Seconds.

        With partitions it compares their ends, one after the other, and removes one of them: an
        item of another partition that is put meanwhile may be beyond it.

        Raises:
            KeyError: The mapping is empty.  With partitions: each of them was empty once.
            Undecodable: The codec cannot decode the item; nothing is removed.

        Cost:
            2 WRITEs; with a codec or partitions, also a lookup in each partition.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        >>> index.popitem(), index.popitem(last=True)
        ((b'a', b'1'), (b'c', b'3'))
        """
        cdef OrderedMapping part
        cdef bytes raw, value
        if self.codec is None and self.others is None:
            if self.execute(POP_LAST if last else POP_ITEM, b"", 0, timeout) == OK:
                return self.answered_items()[0]
            raise KeyError(f"{self.name!r} is empty")
        # Decode the item before it is removed: an undecodable one stays.
        while True:
            ends = []
            for part in self._parts():
                end = part.end_item(last, timeout)
                if end is not None:
                    ends.append(end)
            if not ends:
                raise KeyError(f"{self.name!r} is empty")
            raw, value = max(ends, key=first_of) if last else min(ends, key=first_of)
            if value is None:
                value = self.fetch(raw, timeout)
            if value is None:
                continue
            item = self.decode(raw, raw), self.decode(value, raw)
            # Another front-end may have changed the item meanwhile, or put one beyond it.
            if self.change_same(POP_LAST_SAME if last else POP_FIRST_SAME, raw, value,
                                timeout) == OK:
                return item

    cdef object end_item(self, bint last, object timeout):
        cdef stretch c
        memset(&c, 0, sizeof(c))
        c.reverse = last
        c.values = True
        c.most = 1
        return None if self.query(self.read_items, &c, timeout) == MISSING \
            else self.answered_items()[0]

    def count(self, lo=None, hi=None):
        """Return the number of keys with lo <= key < hi.

        A count of many keys takes several steps, between which other front-ends may write.
        `count(hi=key)` is the position of a key in the order, or the position that it would have.

        Args:
            lo, hi: As of range().

        Cost:
            1 READ for each node of the range that is not in the cache; all keys: O(1).

        >>> index = structures.BPlusTree(fe, "index")
        >>> index.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        >>> index.count(b"b"), index.count(b"a", b"c"), index.count()
        (2, 2, 3)
        """
        cdef bytes low = self.bound_argument(lo), high = self.bound_argument(hi)
        cdef OrderedMapping part
        cdef uint64_t total = 0
        if lo is None and hi is None:
            return len(self)
        for part in self._parts():
            total += part.count_range(low, high)
        return total

    cdef uint64_t count_range(self, bytes low, bytes high) except? 0xffffffffffffffff:
        """Returns the number of keys of this partition in a range."""
        cdef tally c
        cdef uint64_t total = 0
        cdef int outcome = MORE
        if self.count_keys == NULL:
            for _ in self._raw_keys(low, high):
                total += 1
            return total
        memset(&c, 0, sizeof(c))
        set_bound(&c.high, high)
        while outcome == MORE:
            set_bound(&c.low, low)
            outcome = self.query(self.count_keys, &c)
            total += c.count
            if outcome == MORE:
                low = self.answer()
                c.after = True
        return total

    def _raw_keys(self, bytes low, bytes high):
        cdef stretch c
        memset(&c, 0, sizeof(c))
        c.most = NO_LIMIT
        set_bound(&c.high, high)
        while True:
            set_bound(&c.low, low)
            if self.query(self.read_items, &c) == MISSING:
                return
            c.after = True
            for low, _ in self.answered_items():
                yield low

    def bulk_load(self, items, *, timeout=None):
        """Set many items, some hundred in one operation; return how many.

        Each operation is atomic, all of them together only in a transaction.

        Args:
            items: A mapping, or an iterable of (key, value).  Fastest in the order of the keys;
                a B+tree then also fills its pages completely.
            timeout: Seconds, of each operation.

        Cost:
            2 WRITEs for each 16 KiB, or for as much as the pool's logs take.

        >>> structures.BPlusTree(fe, "index").bulk_load((b"%03d" % i, b"") for i in range(1000))
        1000
        """
        cdef list pairs = []
        cdef bytes key, value
        cdef uint64_t n = 0, length = 0, mark = transaction_mark(self)
        try:
            for k, v in (items.items() if hasattr(items, "items") else items):
                key = key_argument(self, k)
                value = value_argument(self, v)
                if pairs and length + len(key) + len(value) > LOAD_BYTES:
                    self.load_all(pairs, timeout)
                    pairs = []
                    length = 0
                length += sizeof(pair_header) + len(key) + len(value)
                pairs.append((key, value))
                n += 1
            self.load_all(pairs, timeout)
        except BaseException:
            transaction_undo(self, mark)
            raise
        return n

    cdef int load(self, list pairs, object timeout) except -1:
        cdef bytearray operation = bytearray()
        cdef pair_header header
        cdef Py_ssize_t half = len(pairs) // 2
        header.salt = self.salt
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

    cdef int load_all(self, list pairs, object timeout) except -1:
        """Loads each pair into its partition."""
        cdef dict groups = {}
        cdef OrderedMapping part
        if self.others is None:
            return self.load(pairs, timeout)
        for pair in pairs:
            part = self.partition_of(pair[0])
            groups.setdefault(part.place, (part, []))[1].append(pair)
        for part, group in groups.values():
            part.load(group, timeout)
        return 0

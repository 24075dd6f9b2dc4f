"""The Python interface of persistent mappings: all of MutableMapping.

Each call is one operation or one query.  A kind of mapping adds only `find`, `any_item`, `_each`
and `_salvage`.

A mapping with partitions is several structures (rnvm/format/partitions.py), each with its own
writer lock and logs' numbers.  The object that users have is partition 0; it has the objects of the
others and passes the calls for their keys on.
"""

from collections.abc import MutableMapping
from itertools import chain

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from rnvm.format.layout cimport RNVM_NAME_MAX
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, Structure, fault, pool_bytes, root_read, transaction_mark, transaction_undo, version_read,
)
from structures.arguments cimport RAISE, key_argument, key_or_none, value_argument
from structures.key_partition cimport partition_of_key
from structures.layout cimport KEY_OF, SIZES, VALUE_MAX, VALUE_OF, mapping_root
from structures.mapping_operations cimport (
    CLEAR, DELETE, FOUND, MISSING, MORE, POP, POP_ITEM, POP_SAME, SET, SET_DEFAULT, digest,
    digest_of, item_header, lookup, pair_header,
)

from rfp.errors import InvalidArgument, StructureDamaged, TooLarge, Undecodable, WrongType
from rnvm.format.partitions import MAPPING_PARTS_MAX, SEPARATOR, entry_name, name_bytes
from structures.views import Items, Keys, Values

cdef enum:
    STACK_BYTES = 1024         # operations up to this size are built on the stack
    ENTRY_BYTES_MIN = 7        # of a key in a page, with its offset

VANISHED = object()


cdef int count(instance *s, void *context) noexcept nogil:
    cdef const mapping_root *root
    cdef rnvm_version version
    cdef uint64_t *found = <uint64_t *> context
    if s.kind.collect != NULL:             # a multi-version structure
        if version_read(s, &version) != OK:
            return s.error
        found[0] = version.count
    else:
        root = <const mapping_root *> root_read(s)
        if root == NULL:
            return s.error
        found[0] = root.count
    # list() allocates room for this many items before it has seen one.
    if found[0] > pool_bytes(s) // ENTRY_BYTES_MIN:
        return fault(s, s.root, b"the key count exceeds the pool's capacity")
    return OK


cdef inline lookup lookup_of(bytes key, bint answer) noexcept:
    return lookup(PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key), answer)


cdef object kind_class(Mapping mapping):
    cdef object cls = type(mapping)
    while getattr(cls.__base__, "KIND", 0):
        cls = cls.__base__
    return cls


class Partition:
    """One partition of a mapping, as a transaction names it."""

    def __init__(self, mapping, structure):
        self._partition_of, self.structure = mapping, structure
        self.name = mapping.name

    def _parts(self):
        return (self.structure,)

    def __repr__(self):
        return f"<partition of {self._partition_of!r}>"


cdef class Mapping(Structure):
    """A persistent mapping: a complete MutableMapping."""

    def __init__(self, fe, str name not None, *, partitions=None, **options):
        # An open mapping keeps its number: Structure.__init__ raises below.
        if not self.place and self.fe is None:
            self.partitions = 0
        if partitions is not None and self.fe is None:
            if not isinstance(partitions, int) or isinstance(partitions, bool):
                raise WrongType(f"partitions must be an int, got {type(partitions).__name__}")
            if not 1 <= partitions <= MAPPING_PARTS_MAX:
                raise InvalidArgument(f"partitions must be between 1 and {MAPPING_PARTS_MAX}, "
                                      f"got {partitions}")
            encoded = name_bytes(name)
            widest = len(entry_name(encoded, partitions - 1, partitions))
            if widest > RNVM_NAME_MAX:
                raise InvalidArgument(
                    f"the name of a mapping with {partitions} partitions must be between 1 and "
                    f"{RNVM_NAME_MAX - widest + len(encoded)} bytes of UTF-8, got "
                    f"{len(encoded)}")
            self.partitions = partitions
        Structure.__init__(self, fe, name, **options)
        if not self.partitions or self.place:
            return
        try:
            self.others = tuple([self.open_partition(number, options)
                                 for number in range(1, self.partitions)])
            # A drop removes partition 0 first: all that were opened belong to this one.
            self._confirm_opened(options.get("timeout"))
        except BaseException:
            # The object may live on, and partition 0 alone must not be used.
            self._give_up()
            raise

    cdef Mapping open_partition(self, uint32_t number, dict options):
        cdef object cls = kind_class(self)
        cdef Mapping part
        part = cls.__new__(cls)
        part.place, part.partitions = number, self.partitions
        cls.__init__(part, self.fe, f"{self.name}{SEPARATOR}{number}",
                     **{**options, "codec": self.codec})
        return part

    cdef Mapping partition_of(self, bytes key):
        cdef uint32_t number
        if self.others is None:
            return self
        number = partition_of_key(PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key),
                                  self.partitions)
        return <Mapping> self.others[number - 1] if number else self

    def _entry_name(self):
        if not self.partitions:
            return Structure._entry_name(self)
        name = self.name
        if self.place:
            name = name[:name.rindex(SEPARATOR)]
        if SEPARATOR in name:
            return Structure._entry_name(self)
        return entry_name(name_bytes(name), self.place, self.partitions)

    def _parts(self):
        return (self, *(self.others or ()))

    def partition(self, key):
        """Return the partition that a key belongs to, to name it alone in a transaction.

        A transaction over one partition of each mapping excludes only the writers of these.

        Args:
            key: 1 to 1024 bytes, or a type of the codec.

        >>> users = structures.HashTable(fe, "users", partitions=8)
        >>> with fe.transaction(users.partition(b"ada"), users.partition(b"bob")):
        ...     users[b"ada"] = users[b"bob"] = b"1"
        """
        return Partition(self, self.partition_of(key_argument(self, key)))

    def check(self, *, timeout=None):
        cdef dict options = {} if timeout is None else {"timeout": timeout}
        for part in self._parts():
            Structure.check(part, **options)

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        cdef char[STACK_BYTES] small
        cdef char *operation = small
        cdef uint32_t key_length = <uint32_t> PyBytes_GET_SIZE(key), value_length = 0, length
        cdef Mapping part
        if self.others is not None:
            part = self.partition_of(key)
            if part is not self:
                return part.change(code, key, value, timeout)
        if value is not None:
            value_length = <uint32_t> PyBytes_GET_SIZE(value)
        length = sizeof(pair_header) + key_length + value_length
        if length > STACK_BYTES:
            operation = <char *> malloc(length)
            if operation == NULL:
                raise MemoryError
        (<pair_header *> operation).sizes = SIZES(key_length, value_length)
        (<pair_header *> operation).salt = self.salt
        memcpy(operation + sizeof(pair_header), PyBytes_AS_STRING(key), key_length)
        if value_length:
            memcpy(operation + sizeof(pair_header) + key_length, PyBytes_AS_STRING(value),
                   value_length)
        if operation == small:
            return self.execute(code, operation, length, timeout)
        try:
            return self.execute(code, operation, length, timeout)
        finally:
            free(operation)

    @property
    def largest_value(self):
        """Return the bytes of the longest value that it accepts.

        The least of: half of the pool's memory log less 8 KiB, half of its operation log less 2
        KiB, and 1 MiB.
        """
        return self.longest(VALUE_MAX)

    cdef int change_same(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        cdef digest d
        digest_of(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &d)
        return self.change(code, key, (<const char *> &d)[:sizeof(d)], timeout)

    cdef bytes fetch(self, bytes key, object timeout):
        cdef lookup wanted
        if key is None:
            return None
        wanted = lookup_of(key, True)
        if self.others is not None:
            self = self.partition_of(key)
        return None if self.query(self.find, &wanted, timeout) == MISSING else self.answer()

    cdef list answered_items(self):
        # A copy: a garbage collection may call the front-end, which has room for one answer.
        cdef bytes copied = self.answer()
        cdef const char *answer = PyBytes_AS_STRING(copied)
        cdef uint64_t length = <uint64_t> PyBytes_GET_SIZE(copied), at = 0
        cdef item_header header
        cdef bytes raw
        cdef list items = []
        while at + sizeof(header) <= length:
            memcpy(&header, answer + at, sizeof(header))
            if length - at < sizeof(header) + KEY_OF(header.sizes) + header.bytes:
                break                      # of a step that found damage
            at += sizeof(header)
            raw = PyBytes_FromStringAndSize(answer + at, KEY_OF(header.sizes))
            at += KEY_OF(header.sizes)
            value = None
            if header.bytes == VALUE_OF(header.sizes):
                value = PyBytes_FromStringAndSize(answer + at, header.bytes)
            items.append((raw, value))
            at += header.bytes
        return items

    cdef object decoded(self, bytes key, bytes value, bint values):
        if not values:
            return self.decode(key, key)
        if value is None:
            value = self.fetch(key, None)
        return VANISHED if value is None else (self.decode(key, key), self.decode(value, key))

    cdef list salvaged(self, list items, list damages):
        cdef list read = []
        for key, value in items:
            try:
                item = self.decoded(key, value, True)
                if item is not VANISHED:
                    read.append(item)
            except (StructureDamaged, Undecodable) as error:
                damages.append(error)
        return read

    def salvage(self, list damages=None):
        """Iterate over all items that are still readable, if the structure is damaged.

        Yields (key, value).  To continue working, put these items into another structure, and drop
        this one.

        Args:
            damages: A list, to which StructureDamaged or Undecodable is appended for each place
                skipped.

        Cost:
            As an iteration.

        >>> index = structures.BPlusTree(fe, "index")
        >>> index[b"k"] = b"v"
        >>> damages = []
        >>> list(index.salvage(damages)), damages
        ([(b'k', b'v')], [])
        """
        damages = [] if damages is None else damages
        return chain.from_iterable(part._salvage(damages) for part in self._parts())

    def __getitem__(self, key):
        cdef bytes raw = key_or_none(self, key)
        value = self.fetch(raw, None)
        if value is None:
            raise KeyError(key)
        return value if self.codec is None else self.decode(value, raw)

    def __setitem__(self, key, value):
        self.change(SET, key_argument(self, key), value_argument(self, value), None)

    def __delitem__(self, key):
        cdef bytes raw = key_or_none(self, key)
        if raw is None or self.change(DELETE, raw, None, None) == MISSING:
            raise KeyError(key)

    def __contains__(self, key):
        cdef bytes raw = key_or_none(self, key)
        cdef lookup wanted
        if raw is None:
            return False
        wanted = lookup_of(raw, False)
        if self.others is not None:
            self = self.partition_of(raw)
        return self.query(self.find, &wanted) != MISSING

    def __len__(self):
        cdef uint64_t n = 0, total = 0
        cdef Mapping part
        if self.others is None:
            self.query(count, &n)
            return n
        for part in self._parts():
            part.query(count, &n)
            total += n
        return total

    def get(self, key, default=None, *, timeout=None):
        """Return the value of a key, or the default.

        Args:
            key: Bytes, or a type of the codec; an empty key or one over 1024 bytes has no value.
            default: Returned if the key has no value.
            timeout: Seconds.

        Raises:
            Undecodable: The codec cannot decode the value.

        Cost:
            As `mapping[key]`.
        """
        cdef bytes raw = key_or_none(self, key)
        value = self.fetch(raw, timeout)
        if value is None:
            return default
        return value if self.codec is None else self.decode(value, raw)

    def set(self, key, value, *, timeout=None):
        """Set `mapping[key] = value`, with a timeout in seconds."""
        self.change(SET, key_argument(self, key), value_argument(self, value), timeout)

    def setdefault(self, key, default=None, *, timeout=None):
        """Return the value of a key; if it has none, set it to the default, in the same operation.

        It returns the default itself if it has set it, and not what the codec makes of it.

        Args:
            key: 1 to 1024 bytes, or a type of the codec.
            default: 0 bytes to `largest_value`, or a type of the codec; anything if the key has a
                value.
            timeout: Seconds.

        Cost:
            2 WRITEs if it changes something.
        """
        cdef bytes raw = key_argument(self, key), value
        try:
            value = value_argument(self, default)
        except (TooLarge, WrongType):
            value = self.fetch(raw, timeout)
            if value is None:
                raise
            return self.decode(value, raw)
        if self.change(SET_DEFAULT, raw, value, timeout) == FOUND:
            return self.decode(self.answer(), raw)
        return default

    def pop(self, key, default=RAISE, *, timeout=None):
        """Remove a key and return its value.

        Args:
            default: Returned if there is no such key.
            timeout: Seconds.

        Raises:
            KeyError: There is no such key, and no default.
            Undecodable: The codec cannot decode the value; nothing is removed.

        Cost:
            2 WRITEs.
        """
        cdef bytes raw = key_or_none(self, key), value
        if raw is not None and self.codec is None:
            if self.change(POP, raw, None, timeout) != MISSING:
                return self.answer()
        elif raw is not None:
            # Decode the value before it is removed: an undecodable one stays.
            while (value := self.fetch(raw, timeout)) is not None:
                decoded = self.decode(value, raw)
                if self.change_same(POP_SAME, raw, value, timeout) == OK:
                    return decoded
        if default is RAISE:
            raise KeyError(key)
        return default

    def popitem(self, *, timeout=None):
        """Remove an item and return it: (key, value).

        Args:
            timeout: Seconds.

        Raises:
            KeyError: The mapping is empty.
            Undecodable: The codec cannot decode the item; nothing is removed.

        Cost:
            2 WRITEs.
        """
        cdef Mapping part
        for part in self._parts():
            item = part.pop_item(timeout)
            if item is not None:
                return item
        raise KeyError(f"{self.name!r} is empty")

    cdef object pop_item(self, object timeout):
        """Removes an item of this partition and returns it; None: there is none."""
        cdef int outcome = MORE
        if self.codec is None:
            while outcome == MORE:
                outcome = self.execute(POP_ITEM, b"", 0, timeout)
            return self.answered_items()[0] if outcome == OK else None
        while self.query(self.any_item, NULL, timeout) != MISSING:
            raw, value = self.answered_items()[0]
            item = self.decode(raw, raw), self.decode(value, raw)
            if self.change_same(POP_SAME, raw, value, timeout) == OK:
                return item
        return None

    def clear(self, *, timeout=None):
        """Remove all keys.

        Each operation removes as many as the pool's logs have room for: readers see them vanish.

        Args:
            timeout: Seconds, of each operation.
        """
        cdef uint64_t mark = transaction_mark(self)
        cdef Mapping part
        try:
            for part in self._parts():
                while part.execute(CLEAR, b"", 0, timeout) == MORE:
                    pass
        except BaseException:
            transaction_undo(self, mark)
            raise

    def __iter__(self):
        return self._each(False)

    def keys(self):
        """Return a set-like view of the keys."""
        return Keys(self)

    def values(self):
        """Return a view of the values."""
        return Values(self)

    def items(self):
        """Return a set-like view of the items: (key, value)."""
        return Items(self)

    def __eq__(self, other):
        return MutableMapping.__eq__(self, other)

    __reversed__ = None                    # a mapping without an order has no reverse

    def update(self, other=(), /, **items):
        """Set many items, one after the other, as `dict.update()`; in a transaction all or none."""
        cdef uint64_t mark = transaction_mark(self)
        try:
            MutableMapping.update(self, other, **items)
        except BaseException:
            transaction_undo(self, mark)
            raise


MutableMapping.register(Mapping)

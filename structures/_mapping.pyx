# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The Python face that persistent mappings share: all of MutableMapping, each call one operation or one query."""

from collections.abc import MutableMapping

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from rnvm.frontend._front cimport instance
from rnvm.frontend._structure cimport OK, Structure, fault, root_read
from structures._layout cimport KEY_OF, MOST_KEY, MOST_VALUE, SIZES, VALUE_OF, mapping_root

from rfp.errors import InvalidArgument, TooLarge
from structures.views import Items, Keys, Values

cdef enum:
    SMALL = 1024               # operations up to this size are put together on the stack

cdef object RAISE = object()


cdef int count(instance *s, void *context) noexcept nogil:
    cdef const mapping_root *root = <const mapping_root *> root_read(s)
    if root == NULL:
        return s.error
    (<uint64_t *> context)[0] = root.count
    return OK if root.count < <uint64_t> 1 << 62 else fault(s, s.root, b"more keys than there can be")


cdef class Mapping(Structure):
    """A persistent mapping: MutableMapping with all that it gives."""

    cdef bytes raw_key(self, object key):
        cdef bytes raw = key if self.codec is None and type(key) is bytes else self.encode(key)
        if not 1 <= PyBytes_GET_SIZE(raw) <= <Py_ssize_t> MOST_KEY:
            raise InvalidArgument(f"a key of {len(raw)} bytes", hint=f"1 to {MOST_KEY}")
        return raw

    cdef bytes raw_value(self, object value):
        cdef bytes raw = value if self.codec is None and type(value) is bytes else self.encode(value)
        if PyBytes_GET_SIZE(raw) > <Py_ssize_t> MOST_VALUE:
            raise TooLarge(f"a value of {len(raw)} bytes", hint=f"at most {MOST_VALUE}")
        return raw

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        """Executes an operation on a pair."""
        cdef char[SMALL] small
        cdef char *operation = small
        cdef uint32_t key_length = <uint32_t> PyBytes_GET_SIZE(key), value_length = 0, length
        if value is not None:
            value_length = <uint32_t> PyBytes_GET_SIZE(value)
        length = sizeof(pair_header) + key_length + value_length
        if length > SMALL:
            operation = <char *> malloc(length)
            if operation == NULL:
                raise MemoryError
        (<pair_header *> operation).sizes = SIZES(key_length, value_length)
        (<pair_header *> operation).salt = self.salt
        memcpy(operation + sizeof(pair_header), PyBytes_AS_STRING(key), key_length)
        if value_length:
            memcpy(operation + sizeof(pair_header) + key_length, PyBytes_AS_STRING(value), value_length)
        if operation == small:
            return self.execute(code, operation, length, timeout)
        try:
            return self.execute(code, operation, length, timeout)
        finally:
            free(operation)

    cdef bytes fetch(self, bytes key, object timeout):
        """The value of a key as bytes, or None."""
        cdef lookup wanted
        wanted.key = PyBytes_AS_STRING(key)
        wanted.length = <uint32_t> PyBytes_GET_SIZE(key)
        wanted.answer = True
        return None if self.query(self.find, &wanted, timeout) == MISSING else self.answer()

    cdef list items_told(self):
        """What a step of an iteration answered: key and value as bytes; None for a value that was left out."""
        cdef uint64_t length, at = 0
        cdef const char *answer = self.answer_bytes(&length)
        cdef told header
        cdef bytes raw
        cdef list items = []
        while at + sizeof(header) <= length:
            memcpy(&header, answer + at, sizeof(header))
            at += sizeof(header)
            raw = PyBytes_FromStringAndSize(answer + at, KEY_OF(header.sizes))
            at += KEY_OF(header.sizes)
            value = PyBytes_FromStringAndSize(answer + at, header.bytes) if header.bytes == VALUE_OF(header.sizes) else None
            items.append((raw, value))
            at += header.bytes
        return items

    def __getitem__(self, key):
        value = self.fetch(self.raw_key(key), None)
        if value is None:
            raise KeyError(key)
        return value if self.codec is None else self.decode(value)

    def __setitem__(self, key, value):
        self.change(SET, self.raw_key(key), self.raw_value(value), None)

    def __delitem__(self, key):
        if self.change(DELETE, self.raw_key(key), None, None) == MISSING:
            raise KeyError(key)

    def __contains__(self, key):
        cdef bytes raw = self.raw_key(key)
        cdef lookup wanted
        wanted.key = PyBytes_AS_STRING(raw)
        wanted.length = <uint32_t> PyBytes_GET_SIZE(raw)
        wanted.answer = False
        return self.query(self.find, &wanted) != MISSING

    def __len__(self):
        cdef uint64_t n
        self.query(count, &n)
        return n

    def get(self, key, default=None, *, timeout=None):
        """The value of a key, or the default.

        key: 1 to 1024 bytes, or what the codec takes.  timeout: seconds.  Costs as `mapping[key]`.
        """
        value = self.fetch(self.raw_key(key), timeout)
        if value is None:
            return default
        return value if self.codec is None else self.decode(value)

    def set(self, key, value, *, timeout=None):
        """`mapping[key] = value`, with a timeout in seconds."""
        self.change(SET, self.raw_key(key), self.raw_value(value), timeout)

    def setdefault(self, key, default=None, *, timeout=None):
        """The value of a key; if it has none, it gets the default, in the same operation.

        key: 1 to 1024 bytes, value: 0 bytes to 1 MiB, or what the codec takes.  timeout: seconds.  2 WRITEs where it changes
        something.
        """
        if self.change(SET_DEFAULT, self.raw_key(key), self.raw_value(default), timeout) == FOUND:
            return self.decode(self.answer())
        return default

    def pop(self, key, default=RAISE, *, timeout=None):
        """Removes a key, and returns the value that it had.

        default: returned if there is none; without it, KeyError is raised.  timeout: seconds.  2 WRITEs.
        """
        if self.change(POP, self.raw_key(key), None, timeout) != MISSING:
            return self.decode(self.answer())
        if default is RAISE:
            raise KeyError(key)
        return default

    def popitem(self, *, timeout=None):
        """Removes a key, and returns (key, value); KeyError if there is none.  timeout: seconds.  2 WRITEs."""
        if self.execute(POP_ITEM, b"", 0, timeout) == MISSING:
            raise KeyError(f"{self.name!r} is empty")
        key, value = self.items_told()[0]
        return self.decode(key), self.decode(value)

    def clear(self, *, timeout=None):
        """Removes all keys, a few hundred in each operation: readers see them vanish.  timeout: seconds, of each operation."""
        while self.execute(CLEAR, b"", 0, timeout) == MORE:
            pass

    def __iter__(self):
        return self._each(False)

    def keys(self):
        """A set-like view of the keys."""
        return Keys(self)

    def values(self):
        """A view of the values."""
        return Values(self)

    def items(self):
        """A set-like view of the items: (key, value)."""
        return Items(self)

    def __eq__(self, other):
        return MutableMapping.__eq__(self, other)

    __reversed__ = None                    # a mapping without an order has no reverse
    update = MutableMapping.update


MutableMapping.register(Mapping)

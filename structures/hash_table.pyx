"""HashTable: a persistent mapping that grows and shrinks by one bucket at a time.

This file has the class.  hash_operations has its operations and queries, hash_buckets the nodes,
hash_walk the checks.
"""

import contextlib
import os
from itertools import chain

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport OK, register_kind
from structures.hash_operations cimport (
    GROW, cursor, hash_apply, hash_find, hash_find_any, read_bucket,
)
from structures.hash_walk cimport hash_walk
from structures.layout cimport hash_root
from structures.mapping cimport VANISHED, Mapping
from structures.mapping_operations cimport MORE

from rfp.errors import OutOfMemory, StructureDamaged, TooLarge

cdef kind hash_kind
hash_kind.number, hash_kind.format, hash_kind.root = 2, 1, sizeof(hash_root)
hash_kind.apply, hash_kind.walk = hash_apply, hash_walk


cdef class HashTable(Mapping):
    """A persistent hash table: a MutableMapping that any number of front-ends share.

    An iteration yields each key that is there from its beginning to its end exactly once, in no
    order, and a key added or removed during the iteration at most once.  This is the hash table of
    the paper (rNVM, section 5), but it grows one bucket at a time.

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or less if
    the pool's logs take less.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the table in the pool; created if it does not exist.
        codec: How keys and values other than bytes are stored: "utf-8", "json", "pickle", or an
            object with encode() and decode().
        partitions: How many structures it consists of, 1 to 64: writers of different partitions do
            not wait for each other.  Stored with the name; the same for each opening.

    Raises:
        WrongKind: The name belongs to another kind of structure, or has another number of
            partitions.

    Cost:
        - `table[key] = value`, `del`: 2 WRITEs (the operation, and its changes).
        - Lookup: no round trip while this front-end has the writer lock; else 1 READ.  1 READ more
          for each node that is not in its cache: root, directory, bucket, and the value if it is
          long.
        - len(): O(1).

    >>> users = structures.HashTable(fe, "users")
    >>> users[b"ada"] = b"1815"
    >>> users[b"ada"], b"bob" in users, len(users)
    (b'1815', False, 1)
    """
    KIND = 2

    def __cinit__(self, *args, **options):
        self.find = hash_find
        self.any_item = hash_find_any
        self.salt = int.from_bytes(os.urandom(4), "little")

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        cdef int outcome = Mapping.change(self, code, key, value, timeout)
        if outcome != MORE:
            return outcome
        # The pair is there; the table grows when there is room.
        with contextlib.suppress(OutOfMemory, TooLarge):
            self.execute(GROW, b"", 0, timeout)
        return OK

    def _each(self, bint values, *, bint reverse=False):
        if reverse:
            raise TypeError("cannot reverse a hash table: it is not ordered")
        return chain.from_iterable(part._each_bucket(values) for part in self._parts())

    def _each_bucket(self, bint values):
        cdef cursor c
        c.next = 0
        c.values = values
        while c.next < <uint64_t> 1 << 32 and self.query(read_bucket, &c) == OK:
            c.next = c.then
            for key, value in self.answered_items():
                item = self.decoded(key, value, values)
                if item is not VANISHED:
                    yield item

    def _salvage(self, list damages not None):
        cdef cursor c
        c.next = 0
        c.values = True
        while c.next < <uint64_t> 1 << 32:
            c.then = 0
            try:
                if self.query(read_bucket, &c) != OK:
                    return
            except StructureDamaged as error:
                damages.append(error)
                if c.then <= c.next:
                    return                 # even the root is damaged: nothing can be found
            c.next = c.then
            yield from self.salvaged(self.answered_items(), damages)


register_kind(&hash_kind, HashTable)

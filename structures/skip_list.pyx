"""SkipList: a persistent mapping in the order of its keys, a node for each key.

This file has the class.  skip_list_operations has its operations and queries, skip_list_nodes the
nodes, skip_list_walk the checks.
"""

import os

from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.layout cimport skip_root
from structures.ordered_mapping cimport OrderedMapping
from structures.skip_list_operations cimport (
    count_towers, next_readable, read_towers, skip_apply, skip_find_first, skip_find_key,
)
from structures.skip_list_walk cimport skip_walk

cdef kind skip_kind
skip_kind.number, skip_kind.format, skip_kind.root = 5, 1, sizeof(skip_root)
skip_kind.apply, skip_kind.walk = skip_apply, skip_walk


cdef class SkipList(OrderedMapping):
    """A persistent skip list: a MutableMapping in the order of its keys (as bytes).

    Any number of front-ends share it.  An iteration yields each key that is there from its
    beginning to its end exactly once, in order, and a key added or removed during the iteration at
    most once.  This is the skip list of the paper (rNVM, section 5).  It has one node for each key:
    a change logs less than that of a BPlusTree, but a lookup or an iteration reads more nodes.

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or less if
    the pool's logs take less.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the list in the pool; created if it does not exist.
        codec: How keys and values other than bytes are stored: "utf-8" (which keeps the order of
            strings), "json", "pickle", or an object with encode() and decode().

    Raises:
        WrongKind: The name belongs to another kind of structure.

    Cost:
        - `skip[key] = value`, `del`: 2 WRITEs (the operation, and its changes).
        - Lookup: no round trip while this front-end has the writer lock; else 1 READ.  1 READ more
          for each node on the way that is not in its cache: about log2(n / c) among n keys, of
          which the c on the highest levels are in the cache.
        - len(): O(1).

    >>> scores = structures.SkipList(fe, "scores")
    >>> scores.update({b"a": b"1", b"c": b"3", b"b": b"2"})
    >>> list(scores), list(scores.range(b"b", b"c")), scores.floor(b"bb")
    ([b'a', b'b', b'c'], [(b'b', b'2')], (b'b', b'2'))
    """
    KIND = 5

    def __cinit__(self, *args, **options):
        self.find = skip_find_key
        self.any_item = skip_find_first
        self.read_items = read_towers
        self.next_bound = next_readable
        self.count_keys = count_towers
        self.salt = int.from_bytes(os.urandom(4), "little")


register_kind(&skip_kind, SkipList)

"""MVBPlusTree: a B+tree that keeps its earlier versions while they are read.

This file has the class.  mvbptree_operations has what differs from a B+tree, multi_version the
versions of the root and the retire list, snapshot the snapshots.
"""

from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.bptree cimport tree_made
from structures.layout cimport versioned_root
from structures.multi_version cimport retired_row
from structures.mvbptree_operations cimport versions_apply, versions_collect, versions_walk
from structures.snapshot cimport VersionedMapping

cdef kind versions_kind
versions_kind.number, versions_kind.format, versions_kind.root = 8, 1, sizeof(versioned_root)
versions_kind.apply, versions_kind.walk = versions_apply, versions_walk
versions_kind.collect, versions_kind.lists_row = versions_collect, retired_row


cdef class MVBPlusTree(VersionedMapping):
    """A persistent multi-version B+tree: a MutableMapping in the order of its keys, with snapshots.

    A writer makes new pages and then a new root, so readers never begin a query again because of a
    writer, and `snapshot()` reads one version as long as needed.  In exchange, an operation writes
    all pages on the way to its key (4 KiB each).  Otherwise it is as a BPlusTree.  This is the
    multi-version B+tree of the paper (rNVM, section 5).

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or less if
    the pool's logs take less: 28 KiB less than half of the memory log.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the tree in the pool; created if it does not exist.
        codec: How keys and values other than bytes are stored: "utf-8" (which keeps the order of
            strings), "json", "pickle", or an object with encode() and decode().
        partitions: How many trees it consists of, 1 to 64, as of BPlusTree.  A snapshot is of all
            of them at one moment.

    Raises:
        WrongKind: The name belongs to another kind of structure, or has another number of
            partitions.

    Cost:
        - `tree[key] = value`, `del`: 2 WRITEs (the operation, and its changes).
        - Lookup: no round trip while this front-end has the writer lock; else 1 READ.  If the tree
          has changed, 1 READ more for the root and for each page on the way: of the whole page if
          it is not in the cache, else of its header.
        - len(): O(1).  clear(): O(1); later operations free the pages.

    >>> index = structures.MVBPlusTree(fe, "index")
    >>> index.update({b"a": b"1", b"b": b"2"})
    >>> with index.snapshot() as before:
    ...     index[b"c"] = b"3"
    ...     list(before), list(index)
    ([b'a', b'b'], [b'a', b'b', b'c'])
    """
    KIND = 8

    def __cinit__(self, *args, **options):
        tree_made(self)


register_kind(&versions_kind, MVBPlusTree)

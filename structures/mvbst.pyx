"""MVBST: a binary search tree that keeps its earlier versions while they are read.

This file has the class.  mvbst_operations has what differs from a BST, multi_version the versions
of the root and the retire list, snapshot the snapshots.
"""

from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.bst cimport bst_made
from structures.layout cimport versioned_root
from structures.multi_version cimport retired_row
from structures.mvbst_operations cimport mvbst_apply, mvbst_collect, mvbst_walk
from structures.snapshot cimport VersionedMapping

cdef kind mvbst_kind
mvbst_kind.number, mvbst_kind.format, mvbst_kind.root = 7, 1, sizeof(versioned_root)
mvbst_kind.apply, mvbst_kind.walk = mvbst_apply, mvbst_walk
mvbst_kind.collect, mvbst_kind.lists_row = mvbst_collect, retired_row


cdef class MVBST(VersionedMapping):
    """A persistent multi-version binary search tree: a MutableMapping in the order of its keys.

    A writer makes new nodes on the way to its key and then a new root, so readers never begin a
    query again because of a writer, and `snapshot()` reads one version as long as needed.
    Otherwise it is as a BST.  This is the multi-version binary search tree of the paper (rNVM,
    section 5), kept balanced.

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or less if
    the pool's logs take less.  An operation logs all nodes on the way, so short keys are best.

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
          has changed, 1 READ more for the root and for each node on the way.
        - len(): O(1).  clear(): O(1); later operations free the nodes.

    >>> index = structures.MVBST(fe, "versions")
    >>> index.update({b"a": b"1", b"b": b"2"})
    >>> with index.snapshot() as before:
    ...     index[b"c"] = b"3"
    ...     list(before), list(index)
    ([b'a', b'b'], [b'a', b'b', b'c'])
    """
    KIND = 7

    def __cinit__(self, *args, **options):
        bst_made(self)


register_kind(&mvbst_kind, MVBST)

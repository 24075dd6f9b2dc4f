"""BST: a persistent mapping in the order of its keys, with a node for each key.

This file has the class.  bst_operations has its operations, bst_ranges the queries of iterations,
bst_nodes the nodes, bst_walk the checks.
"""

from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.bst_operations cimport bst_apply, find_first, find_key
from structures.bst_ranges cimport count_nodes, read_next_bound, read_nodes
from structures.bst_walk cimport bst_walk
from structures.layout cimport bst_root
from structures.ordered_mapping cimport OrderedMapping

cdef kind bst_kind
bst_kind.number, bst_kind.format, bst_kind.root = 6, 1, sizeof(bst_root)
bst_kind.apply, bst_kind.walk = bst_apply, bst_walk


cdef int bst_made(OrderedMapping tree) except -1:
    tree.find = find_key
    tree.any_item = find_first
    tree.read_items = read_nodes
    tree.next_bound = read_next_bound
    tree.count_keys = count_nodes
    return 0


cdef class BST(OrderedMapping):
    """A persistent binary search tree: a MutableMapping in the order of its keys (as bytes).

    Any number of front-ends share it.  An iteration yields each key that is there from its
    beginning to its end exactly once, in order, and a key added or removed during the iteration at
    most once.  This is the binary search tree of the paper (rNVM, section 5), kept balanced: a tree
    of n keys has at most 1.44 log2(n) levels, in any order of insertion.

    It is for small keys and values that change often: an insertion logs the new node and about
    three words in others.  A BPlusTree reads far fewer nodes for a lookup or a range.

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
          for each level whose node is not in its cache.
        - len(): O(1).

    >>> index = structures.BST(fe, "sorted")
    >>> index.update({b"a": b"1", b"c": b"3", b"b": b"2"})
    >>> list(index), list(index.range(b"b", b"c"))
    ([b'a', b'b', b'c'], [(b'b', b'2')])
    """
    KIND = 6

    def __cinit__(self, *args, **options):
        bst_made(self)


register_kind(&bst_kind, BST)

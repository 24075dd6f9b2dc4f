"""BPlusTree: a persistent mapping in the order of its keys.

This file has the class.  bptree_operations has its operations, bptree_ranges the queries of
iterations, bptree_pages and bptree_leaf the nodes, bptree_walk the checks.
"""

from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport register_kind
from structures.bptree_operations cimport SPLIT, find_first, find_key, tree_apply
from structures.bptree_ranges cimport count_leaves, read_leaf, read_next_bound
from structures.bptree_walk cimport tree_walk
from structures.layout cimport tree_root
from structures.ordered_mapping cimport OrderedMapping

cdef int tree_made(OrderedMapping tree) except -1:
    tree.find = find_key
    tree.any_item = find_first
    tree.read_items = read_leaf
    tree.next_bound = read_next_bound
    tree.count_keys = count_leaves
    tree.split = SPLIT
    return 0


cdef kind tree_kind
tree_kind.number, tree_kind.format, tree_kind.root = 3, 1, sizeof(tree_root)
tree_kind.apply, tree_kind.walk = tree_apply, tree_walk


cdef class BPlusTree(OrderedMapping):
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
        partitions: How many trees it consists of, 1 to 64, as of HashTable; a key's hash chooses.
            Ranges merge the trees, so each READs at least one page of every tree.

    Raises:
        WrongKind: The name belongs to another kind of structure, or has another number of
            partitions.

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
        tree_made(self)


register_kind(&tree_kind, BPlusTree)

# What multi-version structures share: versions of the root, and the retire list.
#
#   root    [ version 8: top, count ] [ version 9: top, count ]    written in turn (version.h)
#              |                         |
#              v                         v
#              A                         A'        the operation that changed C made A' and C'
#             / \                       / \
#            B   C                     B   C'
#
#   root.first --> chunk [ -  -  A  C | next ] --> chunk [ D  E  F        | 0 ] <-- root.last
#                              ^ first                            ^ end
#
# A node does not change while a reader may see it: an operation makes new nodes in place of those
# that it changes, up to the root.  (If no other session has opened the structure, that are the
# nodes of open snapshots.)  The replaced ones are listed, with the number of the
# transaction that replaced them; later operations free them, once no reader uses a version before
# that number.  They are still part of the structure: the walk visits them.
#
# How to write a multi-version structure:
#   - its root is a versioned_root; version_read() and version_write() (structure.pxd) read and
#     write top, count and height
#   - node_make() in place of node_new() for the copy of a node, node_add() for a further one;
#     node_retire() in place of node_free() for a node that was read, value_retire() for a
#     value in a node of its own, subtree_retire() for a whole tree (clear)
#   - a node may be changed in place only if unseen() says so
#   - apply begins with retired_free(), and executes COLLECT; kind.collect calls retired_collect();
#     kind.lists_row is retired_row(); walk calls retired_walk() as well

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.format.node cimport rnvm_node
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport version_frozen, visitor
from structures.mapping_operations cimport OWN_CODES

cdef enum:
    COLLECT = OWN_CODES + 64   # nothing: an operation of every multi-version structure

# Frees the node at the top of a listed subtree, after it has listed everything below it with
# retired_add(); `what`: of the subtree's entry.
ctypedef int (*expand_function)(instance *s, uint64_t address, uint64_t what) noexcept nogil
# Visits everything in a listed subtree.
ctypedef int (*subtree_walk)(instance *s, uint64_t address, uint32_t height, visitor visit,
                             void *context) noexcept nogil


cdef inline bint multi_version(const instance *s) noexcept nogil:
    return s.kind.collect != NULL

cdef inline bint unseen(const instance *s, const void *node) noexcept nogil:
    """Return whether no reader can see a node: it is newer than every version that one may use."""
    return (<const rnvm_node *> node).version > version_frozen(s)


# Makes a node in place of another one, in the memory of a listed one if possible.  Some listed
# nodes are reserved for this, so that keys can be changed and removed in a full pool.
cdef char *node_make(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil
# Makes a further node.
cdef char *node_add(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil
# A node was replaced: lists it; frees it at once if no reader can see it.
cdef int node_retire(instance *s, const void *node) noexcept nogil
# The same for a value in a node of its own; it needs not be read.
cdef int value_retire(instance *s, uint64_t address, uint32_t length) noexcept nogil
# The same for a node and everything that can be reached from it.
cdef int subtree_retire(instance *s, uint64_t address, uint32_t height) noexcept nogil
# For an expand_function: an address | RETIRED_SUBTREE, or of a value | RETIRED_VALUE;
# RETIRED(version, size).
cdef int retired_add(instance *s, uint64_t node, uint64_t what) noexcept nogil
# The operation COLLECT: frees listed nodes, as many as one record takes.  MORE: more may be left.
cdef int retired_collect_all(instance *s, expand_function expand,
                             uint64_t expand_bytes) noexcept nogil
# kind.collect: the same, but for the reserve.
cdef int retired_collect(instance *s, expand_function expand,
                         uint64_t expand_bytes) noexcept nogil
# Frees some listed nodes that no reader uses.  expand_bytes: that one call of `expand` changes at
# most.
cdef int retired_free(instance *s, expand_function expand, uint64_t expand_bytes) noexcept nogil
# kind.lists_row: whether so many blocks in a row are among the listed nodes, or may be.
cdef bint retired_row(instance *s, uint64_t count, uint64_t block) noexcept nogil
# type: of the nodes that node_retire() lists.
cdef int retired_walk(instance *s, visitor visit, void *context, uint16_t type,
                      subtree_walk walk) noexcept nogil

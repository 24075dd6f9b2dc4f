# The pages of a B+tree: descend, insert an entry, remove one.  page.h draws a page.
#
#   root.top --> inner page   [ "" | g  | p  ]           the first key counts as -infinity
#                               |    |    |
#                    +----------+    |    +----------+
#                    v               v               v
#   leaves       [ a  c  f ]      [ g  k ]      [ p  t  x ]
#
#   a split: entry m is inserted, and the leaf [ g  k ] is full
#
#       [ "" | g  | p  ]                 [ "" | g  | m  | p  ]
#              |                -->             |    +----+
#          [ g  k ] + m                     [ g  k ]  [ m ]        [ m ]: a new page
#
#   path: for each level the page's address and the index followed; in the leaf: the key's index
#
# If the parent is full too, it is split in the same way; if the top is, a new top gets two
# children.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport node_change, root_change
from structures.layout cimport TYPE_PAGE, tree_root
from structures.page cimport PAGE_BYTES, page, page_entry

cdef enum:
    LEVELS_MAX = 32
    MADE = 3

cdef struct path:              # from the top to a leaf
    uint32_t levels
    uint64_t[LEVELS_MAX] pages
    # the child that was followed; in the leaf: where the key is or should be
    uint32_t[LEVELS_MAX] indexes
    bint found


cdef inline page *page_change(instance *s, uint64_t address, uint32_t offset,
                              uint32_t n) noexcept nogil:
    """In apply: return a page of which n bytes from `offset` on are being changed."""
    return <page *> node_change(s, address, PAGE_BYTES, TYPE_PAGE, offset, n)

cdef inline tree_root *root_rewrite(instance *s) noexcept nogil:
    """In apply: return the root, all fields of which are being changed."""
    return <tree_root *> root_change(s, RNVM_NODE, sizeof(tree_root) - RNVM_NODE)


cdef const page *page_read(instance *s, uint64_t address, uint32_t level) noexcept nogil
cdef uint64_t child_of(const page_entry *e) noexcept nogil
# Descends to a key.  The path of an empty tree has no levels.
cdef int tree_descend(instance *s, const tree_root *root, const char *key, uint32_t length,
                      path *p) noexcept nogil
# Inserts an entry where the path leads; the path is invalid afterwards.
cdef int tree_insert(instance *s, path *p, uint32_t sizes, const char *key,
                     const char *payload) noexcept nogil
# Removes the entry that the path leads to; the path is invalid afterwards.  Pages that have become
# sparse are joined if that fits into the log beside the other changes of the operation (bytes);
# otherwise that is left for later.
cdef int tree_remove(instance *s, path *p, uint64_t beside) noexcept nogil
# Takes one step towards room for an entry of this size, for a put that does not fit into the log
# with all its splits.  Returns MADE, or OK: all pages on the way have room.  Works from the top
# down, so that each step is small and leaves a valid tree.
cdef int tree_make_room(instance *s, const char *key, uint32_t length,
                        uint32_t size) noexcept nogil

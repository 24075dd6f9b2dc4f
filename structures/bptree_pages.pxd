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
#
# A multi-version B+tree has the same pages.  Before an operation changes the pages of a path, they
# are made its own: copied, unless the present transaction has made them (path_own()).

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport node_change
from structures.layout cimport TYPE_PAGE
from structures.mapping_operations cimport MORE
from structures.page cimport PAGE_BYTES, page, page_entry

cdef enum:
    LEVELS_MAX = 32
    MADE = MORE                # an operation that only splits pages is called again

cdef struct path:              # from the top to a leaf
    uint32_t levels
    uint64_t[LEVELS_MAX] pages
    # the child that was followed; in the leaf: where the key is or should be
    uint32_t[LEVELS_MAX] indexes
    bint found

cdef struct tree_top:          # what the root says
    uint64_t count             # keys
    uint64_t top               # page, or 0
    uint32_t levels            # of pages


cdef inline page *page_change(instance *s, uint64_t address, uint32_t offset,
                              uint32_t n) noexcept nogil:
    """In apply: return a page of which n bytes from `offset` on are being changed."""
    return <page *> node_change(s, address, PAGE_BYTES, TYPE_PAGE, offset, n)


# Reads the root, of either kind of tree; of a multi-version one, of the version that is read.
cdef int top_read(instance *s, tree_top *root) noexcept nogil
# In apply: change it.
cdef int top_write(instance *s, const tree_top *root) noexcept nogil
cdef int count_change(instance *s, int64_t added) noexcept nogil
# In apply: makes the pages of a path the operation's own, so that it may change them.
cdef int path_own(instance *s, path *p) noexcept nogil
# In apply: a page is not used any more.
cdef int page_free(instance *s, const page *p) noexcept nogil
cdef const page *page_read(instance *s, uint64_t address, uint32_t level) noexcept nogil
cdef uint64_t child_of(const page_entry *e) noexcept nogil
# Descends to a key.  The path of an empty tree has no levels.
cdef int tree_descend(instance *s, const tree_top *root, const char *key, uint32_t length,
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

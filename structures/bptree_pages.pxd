# The pages of a B+tree: the way down, and what it takes to put an entry in or take one out.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.layout cimport tree_root
from structures.page cimport page, page_entry

cdef enum:
    LEVELS_MAX = 32
    MADE = 3

cdef struct path:              # from the top to a leaf
    uint32_t levels
    uint64_t[LEVELS_MAX] pages
    uint32_t[LEVELS_MAX] indexes   # the child that was followed; in the leaf: where the key is or should be
    bint found

cdef const page *page_read(instance *s, uint64_t address, uint32_t level) noexcept nogil
cdef uint64_t child_of(const page_entry *e) noexcept nogil
# The way to a key.  top: 0 for an empty tree, whose path has no levels.
cdef int tree_descend(instance *s, const tree_root *root, const char *key, uint32_t length, path *p) noexcept nogil
# Puts an entry where the path leads; the path means nothing any more.
cdef int tree_insert(instance *s, path *p, uint32_t sizes, const char *key, const char *payload) noexcept nogil
# Takes the entry out to which the path leads; the same.  Pages that have become sparse are joined if that fits into the
# log beside what the operation changes otherwise (bytes); else that is left for later.
cdef int tree_remove(instance *s, path *p, uint64_t beside) noexcept nogil
# One step towards room for an entry of this size, where a put with all its splits does not fit into the log: MADE, or OK if
# there is room in all pages of the way.  From the top down, so that each step is small and leaves a tree that is whole.
cdef int tree_make_room(instance *s, const char *key, uint32_t length, uint32_t size) noexcept nogil

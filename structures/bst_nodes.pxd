# The nodes of a binary search tree: find a key, insert a node, remove one, rotate.
#
#   root.top --> [ links | k | value ]            a node for each key
#                  |   |
#          +-------+   +------+
#          v                  v DEEP              DEEP: one level deeper than the other side
#   [ links | d | ..]   [ links | t | ..]
#                         |
#                 +-------+ DEEP
#                 v
#          [ links | p | ..]
#
# The tree is an AVL tree: the two sides of a node differ by one level at most, so n keys have
# at most 1.44 log2(n) levels in any order of insertion.
#
# A link contains the length of its child, so each level of a descent is one READ; and DEEP, so a
# change of balance writes a word beside the header, which is logged anyway.
#
#   way: the links from the top down to a node, and the side that was taken at each
#
# There are no parent pointers: each rotation would write three more nodes.
#
# A multi-version tree has the same nodes.  Before an operation changes the nodes of a way, they are
# made its own: copied, unless the present transaction has made them.  The nodes that a rotation
# reaches beside the way are made its own, too.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.layout cimport bst_node
from structures.mapping_operations cimport pair

cdef enum:
    HEIGHT_MAX = 64            # of a tree that fills 2^48 bytes: 61
    LOWER = 0
    HIGHER = 1
    # Bytes of a change of both links of one node, as an operation logs them.
    LINKS_BYTES = 96

cdef struct bst_way:           # from the top to a node
    uint32_t depth             # nodes
    uint64_t[HEIGHT_MAX] links  # of each node, with DEEP
    int[HEIGHT_MAX] sides      # that were taken there
    bint found                 # the last node has the key
    uint32_t changed           # nodes whose links the operation has changed, at most
    uint32_t seen              # nodes that a reader may see, at most

cdef struct bst_top:           # what the root says
    uint64_t count             # keys
    uint64_t top               # link

cdef struct entry:             # an item in its node
    const char *key
    const char *payload        # the value, or the address of its node
    uint32_t sizes
    uint32_t key_length

# Bytes of the longest value that is in the key's node.
cdef uint32_t inline_max(const instance *s) noexcept nogil
cdef bint is_inside(const instance *s, uint32_t sizes) noexcept nogil
# Bytes of a node.
cdef uint32_t node_length(const instance *s, uint32_t sizes) noexcept nogil
cdef const bst_node *bst_read(instance *s, uint64_t link) noexcept nogil
cdef void entry_of(const bst_node *node, entry *e) noexcept nogil
cdef uint64_t value_address(const entry *e) noexcept nogil
# The root, of either kind of tree; of a multi-version one, of the version that is read.
cdef int top_read(instance *s, bst_top *root) noexcept nogil
# In apply: changes it.
cdef int top_write(instance *s, const bst_top *root) noexcept nogil

# Finds a key.  If it is not there, the way leads to the node that would be its parent.
cdef int bst_descend(instance *s, const char *key, uint32_t length, bst_way *way) noexcept nogil
# Goes to the first node in a direction.  HIGHER: the lowest key above `key`, or at it unless
# `after`; LOWER: the highest one below `key`.  NULL: no bound.  MISSING: there is none.
cdef int bst_seek(instance *s, const char *key, uint32_t length, bint after, int direction,
                  bst_way *way) noexcept nogil
# Goes to the next node in a direction; MISSING: there is none.
cdef int bst_step(instance *s, int direction, bst_way *way) noexcept nogil

# In apply.  The way is invalid afterwards.

# Adds to the count of keys.
cdef int add_count(instance *s, int n) noexcept nogil
# Makes a node with a pair; `value`: the address of its node, if it has one.  0: s.error.
cdef uint64_t bst_new(instance *s, const pair *p, uint64_t value) noexcept nogil
# Inserts a new node where the way ended.
cdef int bst_insert(instance *s, bst_way *way, uint64_t link) noexcept nogil
# Takes the last node of the way out of the tree, and frees it.
cdef int bst_remove(instance *s, bst_way *way) noexcept nogil
# Puts a new node into the place of the last node of the way, and frees that one.
cdef int bst_replace(instance *s, bst_way *way, uint64_t link) noexcept nogil

# The nodes of a skip list: search a key, link a node and unlink it, read a node's value.
#
#   level 2   root ------------> k --------------------------->
#   level 1   root ----> c ----> k ------------> r ----------->
#   level 0   root -> a -> c -> e -> k -> m -> p -> r -> t --->       and back: <- each <-
#
# Half of the nodes of a level is also on the next one.  The level of a node follows from the hash
# of its key, so a re-executed operation makes the same nodes, and a walk can verify the level.  A
# link has the length of the node that it leads to, so that one READ fetches it.
#
# A search reads only the nodes that it passes, and not the one on each level that is beyond the
# key.  It knows how many bytes the key has in common with the node that it is at, m, and the link
# has the same number for the next node, c:
#
#     m > c    the next node differs from this one where the key does not: it is beyond the key
#     m < c    the key differs from this node where the next one does not: the next is below the key
#     m = c    the two bytes behind them decide, in the link; if they are equal: read the node
#
# So a search passes one node on each of log2(n) levels on average.  The upper ones are in the
# cache: with c cached nodes, a lookup among n keys READs about log2(n / c) nodes.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport root_read
from structures.layout cimport (
    KEY_OF, SKIP_INLINE, SKIP_LEVELS, VALUE_OF, skip_key_at, skip_link, skip_root, skip_tower,
)
from structures.mapping_operations cimport answer_stored
from structures.values cimport stored_answer, stored_node, stored_value

cdef struct trail:             # of a search
    # on each level, the last node below the key; no address: the root
    skip_link[SKIP_LEVELS] before
    const skip_tower *nodes[SKIP_LEVELS]  # the same; NULL: the root
    skip_link at               # the first node that is not below the key; no address: none
    const skip_tower *node     # the same, if it has been read: if it has the key


cdef inline const skip_root *root_of(instance *s) noexcept nogil:
    return <const skip_root *> root_read(s)

cdef inline const char *tower_key(const skip_tower *node) noexcept nogil:
    return <const char *> node + skip_key_at(node.levels)

cdef inline const char *tower_payload(const skip_tower *node) noexcept nogil:
    return tower_key(node) + KEY_OF(node.sizes)

cdef inline uint64_t value_node_of(const skip_tower *node) noexcept nogil:
    """Return the address of the node that has a node's value, or 0."""
    return stored_node(tower_payload(node), VALUE_OF(node.sizes), SKIP_INLINE)

cdef inline int tower_value(instance *s, const skip_tower *node, const char **bytes) noexcept nogil:
    """Point `bytes` to the value of a node, in it or in a node of its own."""
    return stored_value(s, tower_payload(node), VALUE_OF(node.sizes), SKIP_INLINE, bytes)

cdef inline int answer_value(instance *s, const skip_tower *node) noexcept nogil:
    return stored_answer(s, tower_payload(node), VALUE_OF(node.sizes), SKIP_INLINE)

cdef inline int answer_item(instance *s, const skip_tower *node, bint value,
                            bint outside) noexcept nogil:
    """Answer with an item.  value: with its value; outside: even if it has a node of its own."""
    return answer_stored(s, node.sizes, tower_key(node), tower_payload(node), SKIP_INLINE, value,
                         outside)


# The hint of a link to this key, from a node with the other one.
cdef void link_describe(skip_link *link, const char *key, uint32_t length, const char *before,
                        uint32_t before_length) noexcept nogil
# The number of bytes that two keys begin with, and two bytes of a key as a link has them.
cdef uint32_t common_bytes(const char *a, uint32_t a_length, const char *b,
                           uint32_t b_length) noexcept nogil
cdef uint32_t two_bytes(const char *key, uint32_t length, uint32_t at) noexcept nogil
# The level count of the node of a key.
cdef uint32_t levels_of(uint64_t seed, const char *key, uint32_t length) noexcept nogil
# The node that a link on this level leads to; its header, length and key length are sound.
cdef const skip_tower *tower_read(instance *s, const skip_link *link,
                                  uint32_t level) noexcept nogil
# Finds the key: OK, or MISSING.  Fills the trail.
cdef int towers_search(instance *s, const skip_root *root, const char *key, uint32_t length,
                       trail *t) noexcept nogil
# The same, for readers: the node only, NULL if MISSING.  It may end on an upper level.
cdef int towers_find(instance *s, const skip_root *root, const char *key, uint32_t length,
                     const skip_tower **node) noexcept nogil
# The same, around nodes that cannot be read, if they are not on the lowest level.
cdef int towers_search_around(instance *s, const skip_root *root, const char *key,
                              uint32_t length, trail *t) noexcept nogil
# In apply: makes the node of a key that the trail did not find, and links it.
cdef int tower_add(instance *s, const trail *t, uint32_t levels, uint32_t sizes, const char *key,
                   const char *payload) noexcept nogil
# In apply: removes the node that the trail found, and frees it.
cdef int tower_remove(instance *s, const trail *t) noexcept nogil
# In apply: the same, and puts a node with this value in its place.
cdef int tower_replace(instance *s, const trail *t, uint32_t sizes,
                       const char *payload) noexcept nogil
# In apply: the node, of which n bytes from `offset` on are being changed.
cdef skip_tower *tower_change(instance *s, const skip_link *link, uint32_t offset,
                              uint32_t n) noexcept nogil
# In apply: links the root to a node on a level; computes the hint.
cdef int root_link(instance *s, uint32_t level, const skip_link *to) noexcept nogil
# In apply: links the node before (no address: the root) to another one on a level.
cdef int link_forward(instance *s, const skip_link *before, uint32_t level,
                      const skip_link *to) noexcept nogil
# In apply: links the node after (no address: the root, as the last one) back.
cdef int link_back(instance *s, const skip_link *after, const skip_link *to) noexcept nogil

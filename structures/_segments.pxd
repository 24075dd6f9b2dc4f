# The segments of a queue: entries in the order of their numbers.

from libc.stdint cimport uint32_t, uint64_t
from rnvm._node cimport RNVM_NODE
from rnvm.frontend._front cimport instance
from rnvm.frontend._structure cimport root_change, root_read, visitor
from structures._layout cimport QUEUE_INLINE, queue_entry, queue_root, queue_segment

cdef enum:
    EMPTY = 1                  # there is no entry

cdef struct taken:             # an entry on its way out
    uint32_t slot              # + 1; 0: it comes from a segment
    uint32_t length
    uint64_t value             # address of its node, or 0: here are its
    const char *bytes


cdef inline const queue_root *root_of(instance *s) noexcept nogil:
    return <const queue_root *> root_read(s)

cdef inline queue_root *change_root(instance *s) noexcept nogil:
    """All that operations other than put change."""
    return <queue_root *> root_change(s, RNVM_NODE, sizeof(queue_root) - RNVM_NODE)

cdef inline uint64_t entry_value(const queue_entry *entry) noexcept nogil:
    """The address of its value's node, or 0 if it is inside."""
    return 0 if entry.length <= QUEUE_INLINE else (<const uint64_t *> (entry + 1))[0]


cdef const queue_segment *segment_read(instance *s, uint64_t address) noexcept nogil
# The entry there, its bounds checked.
cdef const queue_entry *entry_at(instance *s, const queue_segment *segment, uint64_t address, uint32_t at) noexcept nogil
# In apply: puts a value at the end.
cdef int segments_put(instance *s, const char *bytes, uint32_t length) noexcept nogil
# In apply: takes the oldest entry out; EMPTY if there is none.
cdef int segments_take(instance *s, taken *t) noexcept nogil
cdef int segments_walk(instance *s, visitor visit, void *context) noexcept nogil

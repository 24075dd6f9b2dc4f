# The segments of a queue: entries in the order of their numbers.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport root_change, root_read, visitor
from structures.layout cimport ENTRY_HELD, QUEUE_INLINE, queue_entry, queue_root, queue_segment

cdef enum:
    EMPTY = 1                  # there is no entry

cdef struct taken:             # an entry on its way out
    uint32_t slot              # + 1; 0: it comes from a segment
    uint32_t length            # of the value
    uint64_t value             # address of its node, or of the segment that it is in
    uint32_t at                # its offset there; 0: the value has a node


cdef inline const queue_root *root_of(instance *s) noexcept nogil:
    return <const queue_root *> root_read(s)

cdef inline queue_root *change_root(instance *s) noexcept nogil:
    """All that operations other than put change."""
    return <queue_root *> root_change(s, RNVM_NODE, sizeof(queue_root) - RNVM_NODE)

cdef inline uint32_t entry_length(const queue_entry *entry) noexcept nogil:
    """Of its value."""
    return entry.length & ~ENTRY_HELD

cdef inline uint64_t entry_value(const queue_entry *entry) noexcept nogil:
    """The address of its value's node, or 0 if it is inside."""
    return 0 if entry_length(entry) <= QUEUE_INLINE else (<const uint64_t *> (entry + 1))[0]


cdef const queue_segment *segment_read(instance *s, uint64_t address) noexcept nogil
# The entry there, its bounds checked.
cdef const queue_entry *entry_at(instance *s, const queue_segment *segment, uint64_t address, uint32_t at) noexcept nogil
# The bytes of a value that is, reserved or on its way out, in a segment.
cdef const char *entry_bytes(instance *s, uint64_t address, uint32_t at, uint32_t length) noexcept nogil
# In apply: a reserved entry stays in its segment; it is no longer needed there.
cdef int entry_hold(instance *s, uint64_t address, uint32_t at) noexcept nogil
cdef int entry_release(instance *s, const queue_root *root, uint64_t address, uint32_t at) noexcept nogil
# Whether an entry is the first that is held in its segment, and then how many are: else 0.  Below 0: an error.
cdef int entry_leads(instance *s, uint64_t address, uint32_t at) noexcept nogil
# How many entries wait that were never given.
cdef int segments_count(instance *s, const queue_root *root, uint64_t *count) noexcept nogil
# In apply: puts a value at the end.  grown: whether that took a new segment.
cdef int segments_put(instance *s, const char *bytes, uint32_t length, bint *grown) noexcept nogil
# In apply: takes the oldest entry out; EMPTY if there is none.
cdef int segments_take(instance *s, taken *t) noexcept nogil
# held: how many entries of the first segment are.
cdef int segments_walk(instance *s, visitor visit, void *context, uint64_t *held) noexcept nogil

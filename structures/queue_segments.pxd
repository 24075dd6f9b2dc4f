# The segments of a queue: entries in the order of their numbers.
#
#   root.head                           next                    root.tail
#   v                                                           v
#   +--------+----+----+----+----+     +--------+-- ... --+     +--------+-----+-----+------+
#   | header | e5 | e6 | e7 | e8 | --> | header |         | --> | header | e21 | e22 | room |
#   +--------+----+----+----+----+     +--------+-- ... --+     +--------+-----+-----+------+
#                 ^                                                                  ^
#                 root.head_offset; root.dequeued = 6: get() takes this one          end: put()
#
#   entry:  length (4) | low half of its number (4) | value, or the address of its node
#
# A segment is freed when its last entry has been taken and none is held: a reserved short value
# stays in its segment, with ENTRY_HELD in its length.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport root_change, root_read
from structures.layout cimport ENTRY_HELD, QUEUE_INLINE, queue_entry, queue_root, queue_segment

cdef enum:
    EMPTY = 1                  # there is no entry

cdef struct taken:             # an entry that is being taken out
    uint32_t slot              # + 1; 0: it comes from a segment
    uint32_t length            # of the value
    uint64_t value             # address of its node, or of the segment that contains it
    uint32_t at                # its offset there; 0: the value has a node


cdef inline const queue_root *root_of(instance *s) noexcept nogil:
    return <const queue_root *> root_read(s)

cdef inline queue_root *change_root(instance *s) noexcept nogil:
    """Return the root for changes: the fields that operations other than put change."""
    return <queue_root *> root_change(s, RNVM_NODE, sizeof(queue_root) - RNVM_NODE)

cdef inline uint32_t entry_length(const queue_entry *entry) noexcept nogil:
    """Return the length of its value."""
    return entry.length & ~ENTRY_HELD

cdef inline uint64_t entry_value(const queue_entry *entry) noexcept nogil:
    """Return the address of its value's node, or 0: it is inside."""
    return 0 if entry_length(entry) <= QUEUE_INLINE else (<const uint64_t *> (entry + 1))[0]


cdef const queue_segment *segment_read(instance *s, uint64_t address) noexcept nogil
# Returns the entry at this offset, its bounds checked.
cdef const queue_entry *entry_at(instance *s, const queue_segment *segment, uint64_t address,
                                 uint32_t at) noexcept nogil
# Returns the bytes of a value in a segment whose entry is reserved or being taken out.
cdef const char *entry_bytes(instance *s, uint64_t address, uint32_t at,
                             uint32_t length) noexcept nogil
# In apply: marks a reserved entry, which stays in its segment; or releases it.
cdef int entry_hold(instance *s, uint64_t address, uint32_t at) noexcept nogil
cdef int entry_release(instance *s, const queue_root *root, uint64_t address,
                       uint32_t at) noexcept nogil
# Returns the number of held entries if this one is the first of them in its segment, else 0.  Below
# 0: an error.
cdef int entry_leads(instance *s, uint64_t address, uint32_t at) noexcept nogil
# Counts the waiting entries that were never delivered.
cdef int segments_count(instance *s, const queue_root *root, uint64_t *count) noexcept nogil
# In apply: puts a value at the end.  grown: whether that took a new segment.
cdef int segments_put(instance *s, const char *bytes, uint32_t length,
                      bint *grown) noexcept nogil
# In apply: takes the oldest entry out; EMPTY: there is none.
cdef int segments_take(instance *s, taken *t) noexcept nogil

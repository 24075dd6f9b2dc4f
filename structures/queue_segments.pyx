"""Put, take, hold and release the entries of segments."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, node_new, node_read, root_change,
)
from structures.layout cimport (
    ENTRY_HELD, QUEUE_ENTRY, QUEUE_INLINE, SEGMENT_BYTES, SEGMENT_FIRST, TYPE_SEGMENT, VALUE_MAX,
    queue_entry, queue_root, queue_segment,
)
from structures.values cimport value_new

cdef uint64_t LAST_NUMBER = <uint64_t> 1 << 62         # of an entry: greater ones are invalid


cdef const queue_segment *segment_read(instance *s, uint64_t address) noexcept nogil:
    cdef const queue_segment *segment = <const queue_segment *> node_read(s, address, SEGMENT_BYTES,
                                                                          TYPE_SEGMENT)
    if segment == NULL:
        return NULL
    if segment.end < SEGMENT_FIRST or segment.end > SEGMENT_BYTES or segment.end & 7:
        s.error = fault(s, address, b"a segment of the queue has an invalid end")
        return NULL
    return segment


cdef const queue_entry *entry_at(instance *s, const queue_segment *segment, uint64_t address,
                                 uint32_t at) noexcept nogil:
    cdef const queue_entry *entry = <const queue_entry *> (<const char *> segment + at)
    if (at < SEGMENT_FIRST or at & 7 or at >= segment.end or entry_length(entry) > VALUE_MAX
            or QUEUE_ENTRY(entry_length(entry)) > segment.end - at):
        s.error = fault(s, address, b"an entry of the queue extends beyond its segment")
        return NULL
    return entry


cdef const char *entry_bytes(instance *s, uint64_t address, uint32_t at,
                             uint32_t length) noexcept nogil:
    cdef const queue_segment *segment = segment_read(s, address)
    cdef const queue_entry *entry = NULL if segment == NULL else entry_at(s, segment, address, at)
    if entry == NULL:
        return NULL
    if entry_length(entry) != length or length > QUEUE_INLINE:
        s.error = fault(s, address, b"a reserved entry does not match its slot")
        return NULL
    return <const char *> (entry + 1)


cdef inline queue_segment *segment_change(instance *s, uint64_t address) noexcept nogil:
    """Return a segment whose counts and end are being changed."""
    return <queue_segment *> node_change(s, address, SEGMENT_BYTES, TYPE_SEGMENT,
                                         SEGMENT_FIRST - 8, 8)


cdef int set_held(instance *s, uint64_t address, uint32_t at, bint held) noexcept nogil:
    cdef const queue_segment *seen = segment_read(s, address)
    cdef const queue_entry *entry = NULL if seen == NULL else entry_at(s, seen, address, at)
    cdef queue_segment *segment
    if entry == NULL:
        return s.error
    if ((entry.length & ENTRY_HELD) != 0) == held:
        return fault(s, address, b"an entry is reserved twice, or was not reserved")
    segment = segment_change(s, address)
    if segment == NULL or node_change(s, address, SEGMENT_BYTES, TYPE_SEGMENT, at, 4) == NULL:
        return s.error
    (<queue_entry *> (<char *> segment + at)).length ^= ENTRY_HELD
    segment.held += 1 if held else -1
    return OK


cdef int entry_hold(instance *s, uint64_t address, uint32_t at) noexcept nogil:
    return set_held(s, address, at, True)


cdef int entry_release(instance *s, const queue_root *root, uint64_t address,
                       uint32_t at) noexcept nogil:
    cdef const queue_segment *segment
    if set_held(s, address, at, False) != OK:
        return s.error
    segment = segment_read(s, address)
    if segment == NULL:
        return s.error
    return node_free(s, address, SEGMENT_BYTES) if not segment.held and address != root.head else OK


cdef int entry_leads(instance *s, uint64_t address, uint32_t at) noexcept nogil:
    cdef const queue_segment *segment = segment_read(s, address)
    cdef const queue_entry *entry
    cdef uint32_t each = SEGMENT_FIRST
    cdef int count = 0
    if segment == NULL:
        return s.error
    while each < segment.end:
        entry = entry_at(s, segment, address, each)
        if entry == NULL:
            return s.error
        if entry.length & ENTRY_HELD:
            if not count and each != at:
                return 0
            count += 1
        each += QUEUE_ENTRY(entry_length(entry))
    if count != segment.held:
        return fault(s, address,
                     b"a segment's count of reserved entries does not match its entries")
    return count


cdef int segments_count(instance *s, const queue_root *root, uint64_t *count) noexcept nogil:
    cdef const queue_segment *tail
    count[0] = 0
    if not root.tail:
        return OK
    tail = segment_read(s, root.tail)
    if tail == NULL:
        return s.error
    if tail.first + tail.count < root.dequeued or tail.first > LAST_NUMBER:
        return fault(s, root.tail, b"the queue has dequeued more entries than it contained")
    count[0] = tail.first + tail.count - root.dequeued
    return OK


cdef int segments_put(instance *s, const char *bytes, uint32_t length,
                      bint *grown) noexcept nogil:
    cdef const queue_root *root = root_of(s)
    cdef queue_root *changed
    cdef const queue_segment *tail = NULL
    cdef queue_segment *segment
    cdef queue_entry *entry
    cdef uint32_t size = QUEUE_ENTRY(length), end = SEGMENT_FIRST
    cdef uint64_t address = 0, number, value = 0
    if root == NULL:
        return s.error
    if length > QUEUE_INLINE:
        value = value_new(s, bytes, length)
        if not value:
            return s.error
    number = root.dequeued
    if root.tail:
        tail = segment_read(s, root.tail)
        if tail == NULL:
            return s.error
        number = tail.first + tail.count
        end = tail.end
    grown[0] = tail == NULL or end + size > SEGMENT_BYTES
    if not grown[0]:
        address = root.tail
        segment = segment_change(s, address)
        if segment == NULL:
            return s.error
        if node_change(s, address, SEGMENT_BYTES, TYPE_SEGMENT, end, size) == NULL:
            return s.error
    else:
        end = SEGMENT_FIRST
        segment = <queue_segment *> node_new(s, SEGMENT_BYTES, TYPE_SEGMENT, &address)
        changed = change_root(s)
        if segment == NULL or changed == NULL:
            return s.error
        segment.first = number
        if tail != NULL:
            tail = <queue_segment *> node_change(s, changed.tail, SEGMENT_BYTES, TYPE_SEGMENT,
                                                 RNVM_NODE, 8)
            if tail == NULL:
                return s.error
            (<queue_segment *> tail).next = address
        else:
            changed.head = address
            changed.head_offset = SEGMENT_FIRST
        changed.tail = address
    segment.count += 1
    segment.end = end + size
    entry = <queue_entry *> (<char *> segment + end)
    entry.length = length
    entry.number = <uint32_t> number
    if value:
        (<uint64_t *> (entry + 1))[0] = value
    else:
        memcpy(entry + 1, bytes, length)
    return OK


cdef int segments_take(instance *s, taken *t) noexcept nogil:
    cdef queue_root *root = <queue_root *> root_of(s)
    cdef const queue_segment *head
    cdef const queue_entry *entry
    cdef uint64_t address
    if root == NULL:
        return s.error
    if not root.head:
        return EMPTY
    address = root.head
    head = segment_read(s, address)
    if head == NULL:
        return s.error
    if root.head_offset == head.end and not head.next:
        return EMPTY
    # up to `head_offset`: all that an ordinary get changes
    root = <queue_root *> root_change(s, RNVM_NODE, 24)
    if root == NULL:
        return s.error
    if root.head_offset == head.end:
        root.head = head.next
        root.head_offset = SEGMENT_FIRST
        if not head.held and node_free(s, address, SEGMENT_BYTES) != OK:
            return s.error
        address = root.head
        head = segment_read(s, address)
        if head == NULL:
            return s.error
    entry = entry_at(s, head, address, root.head_offset)
    if entry == NULL:
        return s.error
    t.slot = 0
    t.length = entry.length
    t.value = entry_value(entry)
    t.at = 0
    if not t.value:
        t.value = address
        t.at = root.head_offset
    if t.length & ENTRY_HELD:
        return fault(s, address, b"an entry is reserved but was not dequeued")
    root.dequeued += 1
    root.head_offset += QUEUE_ENTRY(entry.length)
    return OK

"""The write set: all changes of the present transaction of a front-end.

Nodes are changed in the cache.  Each has 64 bits, one for each granule (a 64th of the node,
rounded up to 8 bytes): a redo record carries whole granules, and neighbours in one entry.

    node of 448 bytes: 56 granules of 8 bytes

    changed   1 1 1 1 0 0 0 1 1 0 0 0 ... 0      bit = granule
              \\_____/       \\_/
    bytes     0..31 header  56..71               the header always: it contains version and CRC

    redo      | part: structure, number, covers | take: blocks |
    record      | write: address + 0, 32 | 32 bytes | write: address + 56, 16 | 16 bytes |
                | return: blocks |

The CRC of a changed node is not computed from all of its bytes: that would fetch a whole page for a
few changed bytes.  It is linear, so it is enough to replace the contribution of the changed
granules (rfp/core/crc32c_zeros.h):

    the first change of a granule    sum = CRC ^ the contribution of its old bytes
    stamp()                          CRC = sum ^ the contribution of all changed granules

The undo log takes back the last operation, or all operations of a transaction:

    undo_log        [ADDED_STRUCTURE] [LISTED n] [CHANGED n, 8 bytes at 56] [TOOK block 7] ...
                                                      |                       ^ undo_count
    before_images   [8 old bytes] <-------------------+
                                 ^ length

    undo(to): from the last entry down to `to`: put the old bytes back, take the node out of the
    list, put the block back; each entry also says how long record and before-images were before.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from rfp.core.core cimport (
    RFP_ASSERT, rfp_crc32c_appends_zeros, rfp_crc32c_powers, rfp_crc32c_powers_fill, rfp_crc32c_raw,
    rfp_crc32c_zeros)
from rfp.core.system cimport __builtin_ctzll, __builtin_popcountll
from rnvm.format.layout cimport (
    RNVM_PARTS_MAX, RNVM_NO_BLOCK, RNVM_RETURN, RNVM_TAKE, RNVM_WRITE, rnvm_address,
    rnvm_block_at, rnvm_block_of, rnvm_entry, rnvm_offset, rnvm_part, rnvm_sequence_of)
from rnvm.format.messages cimport (
    RNVM_FEW_MIRRORS, RNVM_GOOD, RNVM_GRANT, RNVM_NO_SPACE, RNVM_UNREPLICATED)
from rnvm.format.node cimport RNVM_NODE, rnvm_node, rnvm_node_crc
from rnvm.frontend.byte_buffer cimport buffer_append, buffer_free, buffer_truncate
from rnvm.frontend.node_cache cimport (
    cache_add, cache_find, cache_remove, node_bytes)
from rnvm.frontend.remote cimport remote_call, session_fail
from rnvm.frontend.state cimport frontend, instance, node, run, runs, undo
from rnvm.frontend.status cimport (
    FEW_MIRRORS, FULL, LOST, NO_MEMORY, OK, UNREPLICATED, fault)

cdef enum:                     # undo.kind
    UNDO_CHANGED = 1           # bytes of a node
    UNDO_LISTED = 2            # a node was added to write_set.nodes
    UNDO_ADDED = 3             # a new node
    UNDO_FREED = 4
    UNDO_TOOK = 5
    UNDO_RETURNED = 6
    UNDO_ADDED_STRUCTURE = 7   # to the transaction
    UNDO_REUSED = 8            # blocks that the transaction had returned

cdef enum:
    GRANULES = 64
    GRANT_BLOCKS = 32          # requested at once
    UNDO_ENTRIES_MIN = 64      # of the first allocation
    SUMMED_BYTES_MIN = 256     # a node above it has a sum


# Granules


cdef inline uint32_t granule_bytes(uint32_t length) noexcept nogil:
    return ((length + GRANULES - 1) // GRANULES + 7) & ~7


cdef inline uint64_t mask_of(uint32_t length, uint32_t offset, uint32_t n) noexcept nogil:
    """The granules that n bytes from `offset` on touch."""
    cdef uint32_t granule = granule_bytes(length)
    cdef uint32_t first = offset // granule
    cdef uint32_t last = (offset + n - 1) // granule
    cdef uint64_t upto = ~<uint64_t> 0 if last == GRANULES - 1 \
        else (<uint64_t> 1 << (last + 1)) - 1
    RFP_ASSERT(offset + n <= length)
    RFP_ASSERT(last < GRANULES)
    return upto & ~((<uint64_t> 1 << first) - 1)


cdef inline uint64_t record_bytes_of(uint64_t added, uint32_t length) noexcept nogil:
    """What these granules add to a record at most: each run of them that is new is an entry."""
    return <uint64_t> __builtin_popcountll(added) * granule_bytes(length) \
        + <uint64_t> __builtin_popcountll(added & ~(added << 1)) * sizeof(rnvm_entry)


cdef uint64_t change_bytes_max(uint32_t length) noexcept nogil:
    # Granule by granule, each an entry of its own.
    return <uint64_t> __builtin_popcountll(mask_of(length, 0, length)) \
        * (granule_bytes(length) + sizeof(rnvm_entry))


# CRCs of changed nodes

cdef rfp_crc32c_powers powers
rfp_crc32c_powers_fill(&powers)


cdef uint32_t contribution(node *n, uint64_t mask) noexcept nogil:
    """What these granules contribute to the node's CRC: that of the node with zeros elsewhere."""
    cdef const char *bytes = node_bytes(n)
    cdef uint32_t granule = granule_bytes(n.length), sum = 0, at = 0, first = 0, begin, end, count
    while mask:
        count = __builtin_ctzll(mask)
        mask >>= count
        first += count
        count = __builtin_ctzll(~mask) if ~mask else GRANULES
        mask = mask >> (count - 1) >> 1
        begin = first * granule
        first += count
        end = min(first * granule, n.length)
        if begin >= end:
            break
        if at:
            sum = rfp_crc32c_zeros(&powers, sum, begin - at)
        # A CRC does not cover itself.
        at = begin if begin else <uint32_t> sizeof((<rnvm_node *> bytes).crc)
        sum = rfp_crc32c_raw(sum, bytes + at, end - at)
        at = end
    return rfp_crc32c_zeros(&powers, sum, n.length - at)


cdef inline void sum_without(node *n, uint64_t mask) noexcept nogil:
    """Takes what these granules contribute, before they change for the first time, out of n.sum."""
    if n.unsummed:
        return
    if n.length <= SUMMED_BYTES_MIN or 2 * __builtin_popcountll(mask) > GRANULES \
            or not rfp_crc32c_appends_zeros():
        n.unsummed = True               # reading all bytes once costs less than some of them twice
        return
    if not n.changed:
        n.sum = (<rnvm_node *> node_bytes(n)).crc
    n.sum ^= contribution(n, mask)


# The undo log


cdef undo *undo_push(instance *s, uint32_t kind, node *subject, uint64_t first,
                     uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef undo *u
    cdef uint64_t room
    if fe.write_set.undo_count == fe.write_set.undo_room:
        room = 2 * fe.write_set.undo_room if fe.write_set.undo_room else UNDO_ENTRIES_MIN
        u = <undo *> realloc(fe.write_set.undo_log, room * sizeof(undo))
        if u == NULL:
            s.error = NO_MEMORY
            return NULL
        fe.write_set.undo_log = u
        fe.write_set.undo_room = room
    RFP_ASSERT(fe.write_set.undo_count < fe.write_set.undo_room)
    u = &fe.write_set.undo_log[fe.write_set.undo_count]
    u.kind = kind
    u.subject = subject
    u.owner = s
    u.first = first
    u.count = count
    u.changed = 0
    u.sum = 0
    u.image_at = fe.write_set.before_images.length
    u.record_bytes = fe.write_set.record_bytes
    fe.write_set.undo_count += 1
    return u


cdef bint save_before_image(instance *s, const char *bytes, uint64_t n) noexcept nogil:
    if not buffer_append(&s.fe.write_set.before_images, bytes, n):
        s.error = NO_MEMORY
        return False
    return True


cdef void undo_log_clear(frontend *fe) noexcept nogil:
    fe.write_set.undo_count = 0
    buffer_truncate(&fe.write_set.before_images, 0)


cdef void write_set_undo(frontend *fe, uint64_t to) noexcept nogil:
    cdef rnvm_node *header
    cdef undo *u
    while fe.write_set.undo_count > to:
        fe.write_set.undo_count -= 1
        u = &fe.write_set.undo_log[fe.write_set.undo_count]
        RFP_ASSERT(u.record_bytes <= fe.write_set.record_bytes)
        RFP_ASSERT(u.image_at <= fe.write_set.before_images.length)
        fe.write_set.record_bytes = u.record_bytes
        buffer_truncate(&fe.write_set.before_images, u.image_at)
        if u.kind == UNDO_CHANGED:
            memcpy(node_bytes(u.subject) + u.first,
                   fe.write_set.before_images.bytes + u.image_at, u.count)
            u.subject.changed = u.changed
            u.subject.sum = u.sum
        elif u.kind == UNDO_LISTED or u.kind == UNDO_ADDED:
            RFP_ASSERT(fe.write_set.nodes == u.subject)
            RFP_ASSERT(u.subject.listed)
            fe.write_set.nodes = u.subject.next_changed    # it was added last, so it is the first
            u.subject.listed = False
            u.subject.unsummed = True   # a record that was not written may have stamped it
            if u.kind == UNDO_LISTED:
                header = <rnvm_node *> node_bytes(u.subject)
                header.version = u.first
                header.crc = <uint32_t> u.count
            if u.kind == UNDO_ADDED:
                cache_remove(fe, u.subject)
        elif u.kind == UNDO_FREED:
            u.subject.freed = False
        elif u.kind == UNDO_TOOK:
            RFP_ASSERT(fe.write_set.taken.count > 0)
            fe.write_set.taken.count -= 1
            put_back(fe, u.first, u.count)
        elif u.kind == UNDO_RETURNED:
            RFP_ASSERT(fe.write_set.returned.count > 0)
            fe.write_set.returned.count -= 1
        elif u.kind == UNDO_REUSED:
            fe.write_set.returned.items[u.first].count += u.count
        else:
            RFP_ASSERT(u.kind == UNDO_ADDED_STRUCTURE)
            RFP_ASSERT(fe.write_set.structures > 0)
            u.owner.touched = False
            fe.write_set.structures -= 1


# Structures and nodes


cdef bint add_structure(instance *s) noexcept nogil:
    if not s.touched:
        if undo_push(s, UNDO_ADDED_STRUCTURE, NULL, 0, 0) == NULL:
            return False
        s.touched = True
        s.fe.write_set.structures += 1
        s.fe.write_set.record_bytes += sizeof(rnvm_part)
    return True


cdef int write_set_add(instance *s) noexcept nogil:
    return OK if add_structure(s) else s.error


cdef inline void list_node(frontend *fe, node *n) noexcept nogil:
    RFP_ASSERT(not n.listed)
    RFP_ASSERT(n.owner.touched)
    n.listed = True
    n.next_changed = fe.write_set.nodes
    fe.write_set.nodes = n


cdef bint add_to_write_set(instance *s, node *n) noexcept nogil:
    cdef const rnvm_node *header = <const rnvm_node *> node_bytes(n)
    if n.listed:
        return True
    if not add_structure(s) or undo_push(s, UNDO_LISTED, n, header.version, header.crc) == NULL:
        return False
    list_node(s.fe, n)
    return True


cdef char *node_set_changed(instance *s, node *n, uint32_t offset, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t mask, added
    cdef undo *u
    if not length or n.born == fe.write_set.operation:
        return node_bytes(n)            # allocated by this operation: it is undone as a whole
    RFP_ASSERT(n.owner == s)
    RFP_ASSERT(not n.freed)
    if not add_to_write_set(s, n):
        return NULL
    u = undo_push(s, UNDO_CHANGED, n, offset, length)
    if u == NULL:
        return NULL
    u.changed = n.changed
    u.sum = n.sum
    if not save_before_image(s, node_bytes(n) + offset, length):
        fe.write_set.undo_count -= 1
        return NULL
    mask = mask_of(n.length, offset, length) | mask_of(n.length, 0, RNVM_NODE)
    added = mask & ~n.changed
    if added:
        sum_without(n, added)
        fe.write_set.record_bytes += record_bytes_of(added, n.length)
        n.changed |= added
    return node_bytes(n)


cdef node *node_set_new(instance *s, uint64_t address, uint32_t length,
                        uint16_t type) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef node *n = cache_find(fe, address)
    cdef rnvm_node *header
    if n != NULL:
        if n.listed:
            fault(s, address, "the memory of a node was given to another one")
            return NULL
        cache_remove(fe, n)             # a copy of the node that was there before
    n = cache_add(s, address, length)
    if n == NULL:
        s.error = NO_MEMORY
        return NULL
    memset(node_bytes(n), 0, length)
    RFP_ASSERT(length >= RNVM_NODE)
    RFP_ASSERT(length % 8 == 0)
    header = <rnvm_node *> node_bytes(n)
    header.length = length
    header.structure = s.id
    header.type = type
    header.address = address
    header.version = s.number + 1   # a multi-version structure recognizes its new nodes by it
    if not add_structure(s) or undo_push(s, UNDO_ADDED, n, 0, 0) == NULL:
        cache_remove(fe, n)
        return NULL
    n.born = fe.write_set.operation
    n.unsummed = True
    n.changed = ~<uint64_t> 0
    list_node(fe, n)
    fe.write_set.record_bytes += length + 2 * sizeof(rnvm_entry)
    return n


cdef int node_set_freed(instance *s, node *n) noexcept nogil:
    RFP_ASSERT(n.owner == s)
    if not add_to_write_set(s, n) or undo_push(s, UNDO_FREED, n, 0, 0) == NULL:
        return s.error
    n.freed = True
    return OK


# Blocks


cdef bint reserve(instance *s, runs *r, uint64_t count) noexcept nogil:
    cdef run *grown
    if count > r.room:
        grown = <run *> realloc(r.items, 2 * count * sizeof(run))
        if grown == NULL:
            s.error = NO_MEMORY
            return False
        r.items = grown
        r.room = 2 * count
    return True


cdef inline void append(runs *r, instance *owner, uint64_t first, uint64_t count) noexcept nogil:
    RFP_ASSERT(r.count < r.room)
    RFP_ASSERT(count > 0)
    r.items[r.count] = run(owner, first, count)
    r.count += 1


cdef bint reserve_for_undo(instance *s) noexcept nogil:
    """Room in the granted runs for the runs that an undo puts back, so that it cannot fail."""
    return reserve(s, &s.fe.space.granted,
                   s.fe.space.granted.count + s.fe.write_set.taken.count + 2)


cdef int request_grant(instance *s, uint64_t count) noexcept nogil:
    """Gets more consecutive blocks from the back-end, at least `count`."""
    cdef frontend *fe = s.fe
    cdef uint64_t wanted = max(count, <uint64_t> GRANT_BLOCKS), address = 0
    cdef uint32_t got = 0
    cdef int status
    while True:
        status = remote_call(fe, RNVM_GRANT, &wanted, sizeof(wanted), &address, sizeof(address),
                             &got)
        if status != OK:
            return status
        if fe.link.status == RNVM_GOOD and got == sizeof(address):
            break
        if fe.link.status == RNVM_FEW_MIRRORS:
            return FEW_MIRRORS
        if fe.link.status == RNVM_UNREPLICATED:
            return UNREPLICATED         # the session's, unused until its end
        if fe.link.status != RNVM_NO_SPACE:
            return session_fail(fe, LOST)
        if wanted == count:
            fe.space.lacking = count
            return FULL
        # Exactly these: the rest of a longer run could be too short for the next node.
        wanted = count
    if rnvm_block_of(&fe.g, rnvm_offset(address)) == RNVM_NO_BLOCK:
        return session_fail(fe, LOST)
    if not reserve_for_undo(s):
        return s.error
    append(&fe.space.granted, NULL, rnvm_block_of(&fe.g, rnvm_offset(address)), wanted)
    return OK


cdef uint64_t reuse_returned(instance *s, uint64_t count) noexcept nogil:
    """Takes blocks that this transaction returns.  They remain the structure's until it is applied,
    so no record has to mention them."""
    cdef runs *returned = &s.fe.write_set.returned
    cdef uint64_t i
    for i in range(returned.count):
        if returned.items[i].owner == s and returned.items[i].count >= count:
            if undo_push(s, UNDO_REUSED, NULL, i, count) == NULL:
                return RNVM_NO_BLOCK
            returned.items[i].count -= count
            return returned.items[i].first + returned.items[i].count
    s.error = FULL
    return RNVM_NO_BLOCK


cdef uint64_t blocks_take(instance *s, uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef runs *granted = &fe.space.granted
    cdef uint64_t i = 0, first
    cdef int status
    while i < granted.count and granted.items[i].count < count:
        i += 1
    if i == granted.count:
        status = request_grant(s, count)
        if status == FULL:
            return reuse_returned(s, count)
        if status != OK:
            s.error = status
            return RNVM_NO_BLOCK
    if not reserve_for_undo(s) \
            or not reserve(s, &fe.write_set.taken, fe.write_set.taken.count + 1) \
            or not add_structure(s):
        return RNVM_NO_BLOCK
    RFP_ASSERT(i < granted.count)
    RFP_ASSERT(granted.items[i].count >= count)
    first = granted.items[i].first + granted.items[i].count - count
    if undo_push(s, UNDO_TOOK, NULL, first, count) == NULL:
        return RNVM_NO_BLOCK
    granted.items[i].count -= count
    if not granted.items[i].count:
        granted.count -= 1
        granted.items[i] = granted.items[granted.count]
    append(&fe.write_set.taken, s, first, count)
    fe.write_set.record_bytes += sizeof(rnvm_entry)
    return first


cdef int blocks_return(instance *s, uint64_t first, uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    if not reserve(s, &fe.write_set.returned, fe.write_set.returned.count + 1) \
            or not add_structure(s) or undo_push(s, UNDO_RETURNED, NULL, first, count) == NULL:
        return s.error
    append(&fe.write_set.returned, s, first, count)
    fe.write_set.record_bytes += sizeof(rnvm_entry)
    return OK


cdef void put_back(frontend *fe, uint64_t first, uint64_t count) noexcept nogil:
    cdef runs *granted = &fe.space.granted
    cdef uint64_t i
    for i in range(granted.count):
        if granted.items[i].first + granted.items[i].count == first:
            granted.items[i].count += count
            return
    append(granted, NULL, first, count)


# The record


cdef struct writer:
    char *at
    char *end


cdef bint put_entry(writer *w, uint64_t address, uint32_t length, uint32_t kind,
                    const char *bytes) noexcept nogil:
    cdef rnvm_entry *entry = <rnvm_entry *> w.at
    cdef uint64_t n = length if kind == RNVM_WRITE else 0
    if sizeof(rnvm_entry) + n > <uint64_t> (w.end - w.at):
        return False
    entry.address = address
    entry.length = length
    entry.kind = kind
    if n:
        memcpy(entry + 1, bytes, n)
    w.at += sizeof(rnvm_entry) + n
    return True


cdef bint put_node(writer *w, node *n) noexcept nogil:
    """An entry for each run of changed granules."""
    cdef uint32_t granule = granule_bytes(n.length), first, last, offset
    cdef uint64_t mask = n.changed
    while mask:
        first = __builtin_ctzll(mask)
        mask >>= first
        last = first + (__builtin_ctzll(~mask) if ~mask else GRANULES)
        mask = n.changed & ~((<uint64_t> 1 << (last - 1) << 1) - 1)
        offset = first * granule
        if offset >= n.length:
            return True
        if not put_entry(w, n.address + offset, min(last * granule, n.length) - offset, RNVM_WRITE,
                         node_bytes(n) + offset):
            return False
    return True


cdef bint put_blocks(writer *w, instance *s, const runs *r, uint32_t kind) noexcept nogil:
    cdef uint64_t i
    for i in range(r.count):
        if r.items[i].owner == s and r.items[i].count and not put_entry(
                w, rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, r.items[i].first)),
                <uint32_t> r.items[i].count, kind, NULL):
            return False
    return True


cdef inline void stamp(instance *s, node *n) noexcept nogil:
    cdef rnvm_node *header = <rnvm_node *> node_bytes(n)
    header.version = s.number + 1
    header.crc = rnvm_node_crc(s.fe.g.seed, header) if n.unsummed \
        else n.sum ^ contribution(n, n.changed)
    RFP_ASSERT(header.crc == rnvm_node_crc(s.fe.g.seed, header))


cdef bint put_part(writer *w, instance *s) noexcept nogil:
    """All changes of one structure."""
    cdef rnvm_part *part = <rnvm_part *> w.at
    cdef node *n = s.fe.write_set.nodes
    cdef node *root = NULL
    if sizeof(rnvm_part) > <uint64_t> (w.end - w.at):
        return False
    memset(part, 0, sizeof(rnvm_part))
    part.structure = s.id
    part.number = s.number + 1
    part.covers = s.operations
    w.at += sizeof(rnvm_part)
    # Blocks are taken before anything is written into them, and returned after the last write.
    if not put_blocks(w, s, &s.fe.write_set.taken, RNVM_TAKE):
        return False
    while n != NULL:
        RFP_ASSERT(n.listed)
        if n.address == s.root and n.owner == s:
            root = n
        elif n.owner == s and not n.freed and n.changed:
            stamp(s, n)
            if not put_node(w, n):
                return False
        n = n.next_changed
    # The root last: readers of a multi-version structure begin there, while the record is applied.
    if root != NULL and root.changed:
        stamp(s, root)
        if not put_node(w, root):
            return False
    if not put_blocks(w, s, &s.fe.write_set.returned, RNVM_RETURN):
        return False
    part.length = <uint32_t> (w.at - <char *> (part + 1))
    return True


cdef uint32_t write_set_stamp_and_encode(frontend *fe, char *payload, uint64_t room,
                                         uint16_t *parts) noexcept nogil:
    cdef writer w
    cdef uint32_t i
    w.at = payload
    w.end = payload + room
    parts[0] = 0
    for i in range(fe.open.count):
        if fe.open.items[i].touched:
            if parts[0] == RNVM_PARTS_MAX or not put_part(&w, fe.open.items[i]):
                return 0
            parts[0] += 1
    RFP_ASSERT(parts[0] == fe.write_set.structures)
    RFP_ASSERT(<uint64_t> (w.at - payload) <= fe.write_set.record_bytes)
    return <uint32_t> (w.at - payload)


# The end of the transaction


cdef void empty(frontend *fe, bint written) noexcept nogil:
    cdef node *n = fe.write_set.nodes
    cdef node *next
    cdef instance *s
    cdef uint32_t i
    while n != NULL:
        next = n.next_changed
        n.next_changed = NULL
        n.listed = False
        if n.changed:
            n.unsummed = False          # it was stamped
        n.changed = 0
        n.born = 0
        if n.freed or not written:
            cache_remove(fe, n)
        else:
            n.pinned = n.owner.number + 1
            n.generation = n.owner.generation
            n.as_of = n.owner.number + 1
        n = next
    fe.write_set.nodes = NULL
    fe.write_set.record_bytes = 0
    fe.write_set.structures = 0
    fe.write_set.taken.count = 0
    fe.write_set.returned.count = 0
    undo_log_clear(fe)
    for i in range(fe.open.count):
        s = fe.open.items[i]
        if s.touched:
            s.touched = False
            if written:
                s.unannounced = True
                s.number += 1
                s.covered = s.operations
                s.seen = rnvm_sequence_of(s.number)


cdef void write_set_written(frontend *fe) noexcept nogil:
    empty(fe, True)


cdef void write_set_abandon(frontend *fe) noexcept nogil:
    empty(fe, False)
    fe.space.granted.count = 0


cdef void write_set_free(frontend *fe) noexcept nogil:
    free(fe.write_set.undo_log)
    buffer_free(&fe.write_set.before_images)
    free(fe.write_set.taken.items)
    free(fe.write_set.returned.items)
    free(fe.space.granted.items)

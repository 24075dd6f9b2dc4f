"""Space for nodes.

    slabs (first node)      slab of class 64      slab of class 64
    +------------------+    +----------------+    +----------------+
    | partial[64] ----------> next ------------->  next = 0        |
    | partial[128] = 0 |    | previous = 0   <------- previous     |
    | blocks, bytes    |    | taken 1101...  |    | taken 0100...  |
    +------------------+    | slot slot ...  |    | slot slot ...  |
                            +----------------+    +----------------+

partial[class] is the list of slabs with a free slot.  A node that fits no class has blocks of its
own.
"""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.system cimport __builtin_ctzll
from rnvm.format.layout cimport (
    RNVM_NO_BLOCK, rnvm_address, rnvm_block_at, rnvm_block_of, rnvm_entry, rnvm_offset)
from rnvm.format.node cimport (
    RNVM_CLASSES, RNVM_NODE, RNVM_TYPE_SLAB, RNVM_TYPE_SLABS, rnvm_class_bytes, rnvm_class_of,
    rnvm_slab, rnvm_slab_slots, rnvm_slabs)
from rnvm.frontend.node_cache cimport cache_find, cache_get, node_bytes
from rnvm.frontend.state cimport instance, node
from rnvm.frontend.status cimport OK, fault
from rnvm.frontend.write_set cimport (
    blocks_return, blocks_take, change_bytes_max, node_set_changed, node_set_freed, node_set_new)

cdef inline uint32_t header_bytes(uint32_t slots) noexcept nogil:
    return <uint32_t> sizeof(rnvm_slab) + (slots + 63) // 64 * 8


cdef rnvm_slabs *heads(instance *s, uint32_t sort) noexcept nogil:
    """Makes the counts and the head of one class's list changeable."""
    cdef node *n = cache_get(s, s.slabs, sizeof(rnvm_slabs), RNVM_TYPE_SLABS)
    if n == NULL:
        return NULL
    if sort < RNVM_CLASSES and node_set_changed(s, n, RNVM_NODE + 8 * sort, 8) == NULL:
        return NULL
    return <rnvm_slabs *> node_set_changed(s, n, RNVM_NODE + 8 * RNVM_CLASSES, 16)


cdef rnvm_slab *slab_at(instance *s, uint64_t address, uint32_t slots) noexcept nogil:
    """Makes all of a slab's header changeable."""
    cdef node *n = cache_get(s, address, header_bytes(slots), RNVM_TYPE_SLAB)
    if n == NULL:
        return NULL
    return <rnvm_slab *> node_set_changed(s, n, RNVM_NODE, n.length - RNVM_NODE)


cdef uint64_t blocks_for(const instance *s, uint32_t length) noexcept nogil:
    return (length + s.fe.g.block - 1) // s.fe.g.block


cdef uint64_t new_slab(instance *s, uint32_t slot, uint32_t slots, uint32_t first) noexcept nogil:
    cdef uint64_t block = blocks_take(s, 1)
    cdef uint64_t address
    cdef node *n
    cdef rnvm_slab *slab
    if block == RNVM_NO_BLOCK:
        return 0
    address = rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, block))
    n = node_set_new(s, address, header_bytes(slots), RNVM_TYPE_SLAB)
    if n == NULL:
        return 0
    slab = <rnvm_slab *> node_bytes(n)
    slab.slot = slot
    slab.slots = slots
    slab.first = first
    return address


cdef uint64_t slabs_cost(const instance *s, uint32_t length) noexcept nogil:
    """The node's own slab, and two neighbours in the list where that one goes."""
    cdef uint32_t sort = rnvm_class_of(length, s.fe.g.block), first = 0, slots
    if sort == RNVM_CLASSES:
        return 4 * sizeof(rnvm_entry)
    slots = rnvm_slab_slots(s.fe.g.block, rnvm_class_bytes[sort], &first)
    return 3 * change_bytes_max(header_bytes(slots)) + 2 * sizeof(rnvm_entry)


cdef uint64_t slabs_take(instance *s, uint32_t length) noexcept nogil:
    cdef uint32_t sort = rnvm_class_of(length, s.fe.g.block), slots, first = 0, word = 0
    cdef rnvm_slabs *all = heads(s, sort)
    cdef rnvm_slab *slab
    cdef rnvm_slab *next
    cdef uint64_t address, block, at
    if all == NULL:
        return 0
    if sort == RNVM_CLASSES:
        block = blocks_take(s, blocks_for(s, length))
        if block == RNVM_NO_BLOCK:
            return 0
        all.blocks += blocks_for(s, length)
        all.bytes += length
        return rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, block))
    slots = rnvm_slab_slots(s.fe.g.block, rnvm_class_bytes[sort], &first)
    address = all.partial[sort]
    if not address:
        address = new_slab(s, rnvm_class_bytes[sort], slots, first)
        if not address:
            return 0
        all.partial[sort] = address
        all.blocks += 1
    slab = slab_at(s, address, slots)
    if slab == NULL:
        return 0
    if slab.slot != rnvm_class_bytes[sort] or slab.slots != slots or slab.used >= slots:
        fault(s, address, "a slab in the list of partial slabs is full, or of another class")
        return 0
    while not ~slab.taken[word]:
        word += 1
    at = 64 * word + __builtin_ctzll(~slab.taken[word])
    if at >= slots:
        fault(s, address, "a slab's count of taken slots is too low")
        return 0
    slab.taken[word] |= <uint64_t> 1 << (at & 63)
    slab.used += 1
    all.bytes += length
    if slab.used == slots:
        all.partial[sort] = slab.next
        if slab.next:
            next = slab_at(s, slab.next, slots)
            if next == NULL:
                return 0
            next.previous = 0
        slab.next = 0
    return address + first + at * slab.slot


cdef int unlink(instance *s, rnvm_slabs *all, rnvm_slab *slab, uint32_t sort) noexcept nogil:
    cdef rnvm_slab *other
    if slab.previous:
        other = slab_at(s, slab.previous, slab.slots)
        if other == NULL:
            return s.error
        other.next = slab.next
    else:
        all.partial[sort] = slab.next
    if slab.next:
        other = slab_at(s, slab.next, slab.slots)
        if other == NULL:
            return s.error
        other.previous = slab.previous
    return OK


cdef int slabs_return(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    cdef uint32_t sort = rnvm_class_of(length, s.fe.g.block), slots, first = 0
    cdef rnvm_slabs *all = heads(s, sort)
    cdef rnvm_slab *slab
    cdef rnvm_slab *other
    cdef node *n
    cdef uint64_t block = rnvm_block_of(&s.fe.g, rnvm_offset(address)), start, at
    cdef int status
    if all == NULL:
        return s.error
    if block == RNVM_NO_BLOCK:
        return fault(s, address, "a node that is freed is not in the pool's data")
    n = cache_find(s.fe, address)
    # A copy of another instance is of a node that was there before.
    if n != NULL and n.owner == s:
        status = node_set_freed(s, n)
        if status != OK:
            return status
    start = rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, block))
    all.bytes -= length
    if sort == RNVM_CLASSES:
        if start != address:
            return fault(s, address, "a long node that is freed does not begin at a block")
        all.blocks -= blocks_for(s, length)
        return blocks_return(s, block, blocks_for(s, length))
    slots = rnvm_slab_slots(s.fe.g.block, rnvm_class_bytes[sort], &first)
    slab = slab_at(s, start, slots)
    if slab == NULL:
        return s.error
    at = (address - start - first) // rnvm_class_bytes[sort]
    if address < start + first or at >= slots \
            or start + first + at * rnvm_class_bytes[sort] != address or slab.slots != slots \
            or not slab.taken[at >> 6] >> (at & 63) & 1:
        return fault(s, address, "a node that is freed is not taken")
    slab.taken[at >> 6] &= ~(<uint64_t> 1 << (at & 63))
    slab.used -= 1
    if slab.used == slots - 1:
        slab.previous = 0
        slab.next = all.partial[sort]
        if slab.next:
            other = slab_at(s, slab.next, slots)
            if other == NULL:
                return s.error
            other.previous = start
        all.partial[sort] = start
    # Keep the last slab of its class: freeing and allocating one node in turn would otherwise cost
    # a block each time.
    if slab.used == 0 and (slab.next or slab.previous):
        status = unlink(s, all, slab, sort)
        if status != OK:
            return status
        status = node_set_freed(s, cache_find(s.fe, start))
        if status != OK:
            return status
        all.blocks -= 1
        return blocks_return(s, block, 1)
    return OK


cdef int slabs_begin(instance *s, uint64_t blocks) noexcept nogil:
    cdef node *n = node_set_new(s, s.slabs, sizeof(rnvm_slabs), RNVM_TYPE_SLABS)
    if n == NULL:
        return s.error
    (<rnvm_slabs *> node_bytes(n)).blocks = blocks
    return OK if node_set_new(s, s.root, s.kind.root, 1) != NULL else s.error

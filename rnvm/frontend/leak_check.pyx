"""The leak check of a structure: the mark phase of a fsck.

    reach        walks the structure and marks the blocks and slots of every reachable node
    compare      slots that are taken against slots that were reached, slab by slab
    empty_slabs  verifies the lists of slabs with a free slot; marks those without a reached slot
    own_blocks   blocks that the pool assigns to the structure against marked blocks
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from rfp.core.core cimport RFP_RANDOM_STEP
from rfp.core.system cimport __builtin_popcountll
from rnvm.format.layout cimport (
    RNVM_NO_BLOCK, RNVM_UNKNOWN, RNVM_USED, rnvm_address, rnvm_block_at, rnvm_block_of, rnvm_offset,
    rnvm_owner_shift, rnvm_owner_word_at, rnvm_word_value, rnvm_word_whole,
)
from rnvm.format.messages cimport RNVM_APPLY
from rnvm.format.node cimport (
    RNVM_CLASSES, RNVM_TYPE_SLAB, RNVM_TYPE_SLABS, rnvm_class_bytes, rnvm_class_of, rnvm_slab,
    rnvm_slab_slots, rnvm_slabs,
)
from rnvm.frontend.status cimport NO_MEMORY, OK, fault
from rnvm.frontend.node_cache cimport cache_trim, cache_get, node_bytes
from rnvm.frontend.state cimport frontend, instance, node
from rnvm.frontend.remote cimport remote_ask, remote_read

cdef struct place:             # a block with a reachable node: a slab, or the first of a node's own
    uint64_t block             # + 1; 0: free
    uint64_t count             # blocks, or slots
    uint32_t sort              # class of the slab's slots; RNVM_CLASSES: a node's own
    uint64_t *slots            # a bit for each: it was reached


cdef struct reached:
    instance *s
    place *places              # a hash table
    uint64_t room              # a power of two
    uint64_t used
    uint64_t *mine             # a bit for each block of the pool: it contains nodes of ours
    bint counts                # leaks are counted, not damage
    reachable found


cdef place *find(reached *r, uint64_t block) noexcept nogil:
    """The block's place in the table, or the free one where it can be added."""
    cdef uint64_t i = (block + 1) * RFP_RANDOM_STEP >> 20 & (r.room - 1)
    while r.places[i].block and r.places[i].block != block + 1:
        i = (i + 1) & (r.room - 1)
    return &r.places[i]


cdef bint grow(reached *r) noexcept nogil:
    cdef place *old = r.places
    cdef uint64_t before = r.room, i
    r.room = 2 * before if before else 256
    r.places = <place *> calloc(r.room, sizeof(place))
    if r.places == NULL:
        r.places = old
        r.room = before
        return False
    for i in range(before):
        if old[i].block:
            find(r, old[i].block - 1)[0] = old[i]
    free(old)
    return True


cdef void mark(reached *r, uint64_t block, uint64_t count) noexcept nogil:
    """Marks blocks as needed.  A node past the pool's last block would not have been whole."""
    cdef uint64_t i
    r.found.blocks += count
    for i in range(block, min(block + count, r.s.fe.g.blocks)):
        r.mine[i >> 6] |= <uint64_t> 1 << (i & 63)


cdef inline uint32_t header_bytes(uint64_t slots) noexcept nogil:
    return <uint32_t> (sizeof(rnvm_slab) + (slots + 63) // 64 * 8)


cdef int leak(reached *r, uint64_t address, uint64_t *count, uint64_t n,
              const char *what) noexcept nogil:
    if not r.counts:
        return fault(r.s, address, what)
    if not r.found.lost_at:
        r.found.lost_at = address
    count[0] += n
    return OK


cdef int visit(void *context, uint64_t address, uint32_t length) noexcept nogil:
    """Marks a reachable node."""
    cdef reached *r = <reached *> context
    cdef instance *s = r.s
    cdef uint64_t block = rnvm_block_of(&s.fe.g, rnvm_offset(address)), start, at
    cdef uint32_t sort, slots, first = 0
    cdef place *p
    length = (length + 7) & ~7
    if block == RNVM_NO_BLOCK:
        return fault(s, address, "a reachable node is outside the data")
    if 2 * r.used >= r.room and not grow(r):
        return NO_MEMORY
    start = rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, block))
    sort = rnvm_class_of(length, s.fe.g.block)
    p = find(r, block)
    r.found.nodes += 1
    r.found.bytes += length
    if sort == RNVM_CLASSES:
        if p.block:
            return fault(s, address, "two reachable nodes share a block that is not a slab")
        if address != start:
            return fault(s, address, "a long node does not begin at a block")
        p.block = block + 1
        p.sort = sort
        p.count = (length + s.fe.g.block - 1) // s.fe.g.block
        r.used += 1
        mark(r, block, p.count)
        return OK
    slots = rnvm_slab_slots(s.fe.g.block, rnvm_class_bytes[sort], &first)
    if not p.block:
        p.block = block + 1
        p.sort = sort
        p.count = slots
        p.slots = <uint64_t *> calloc((slots + 63) // 64, sizeof(uint64_t))
        r.used += 1
        mark(r, block, 1)
        if p.slots == NULL:
            return NO_MEMORY
    at = (address - start - first) // rnvm_class_bytes[sort]
    if p.sort != sort or address < start + first or at >= slots \
            or start + first + at * rnvm_class_bytes[sort] != address:
        return fault(s, address, "a reachable node is not a slot of its slab")
    if p.slots[at >> 6] >> (at & 63) & 1:
        return fault(s, address, "a node can be reached twice")
    p.slots[at >> 6] |= <uint64_t> 1 << (at & 63)
    return OK


cdef int compare(reached *r) noexcept nogil:
    """Compares reached slots with taken ones."""
    cdef instance *s = r.s
    cdef uint64_t i, word, address, lost
    cdef const rnvm_slab *slab
    cdef place *p
    cdef node *n
    cdef int status
    for i in range(r.room):
        p = &r.places[i]
        if not p.block or p.sort == RNVM_CLASSES:
            continue
        address = rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, p.block - 1))
        n = cache_get(s, address, header_bytes(p.count), RNVM_TYPE_SLAB)
        if n == NULL:
            return s.error
        slab = <const rnvm_slab *> node_bytes(n)
        for word in range((p.count + 63) // 64):
            if p.slots[word] & ~slab.taken[word]:
                return fault(s, address, "a reachable node is in a free slot")
            lost = slab.taken[word] & ~p.slots[word]
            if lost:
                status = leak(r, address, &r.found.lost_slots, __builtin_popcountll(lost),
                              "a taken slot cannot be reached: it has leaked")
                if status != OK:
                    return status
        cache_trim(s.fe)
    return OK


cdef int empty_slabs(reached *r, const rnvm_slabs *all) noexcept nogil:
    """Verifies the lists of slabs with a free slot, and marks those without a taken slot, which the
    walk cannot reach."""
    cdef instance *s = r.s
    cdef const rnvm_slab *slab
    cdef uint64_t address, previous, steps
    cdef uint32_t sort, slots, first = 0, word, taken
    cdef node *n
    for sort in range(RNVM_CLASSES):
        if not all.partial[sort]:
            continue
        address = all.partial[sort]
        slots = rnvm_slab_slots(s.fe.g.block, rnvm_class_bytes[sort], &first)
        previous = steps = 0
        while address:
            n = cache_get(s, address, header_bytes(slots), RNVM_TYPE_SLAB)
            if n == NULL:
                return s.error
            slab = <const rnvm_slab *> node_bytes(n)
            taken = 0
            for word in range((slots + 63) // 64):
                taken += __builtin_popcountll(slab.taken[word])
            if slab.slot != rnvm_class_bytes[sort] or slab.slots != slots or slab.used != taken \
                    or taken >= slots:
                return fault(s, address, "a slab's count of slots is wrong")
            if slab.previous != previous:
                return fault(s, address, "the list of slabs has a wrong back pointer")
            if not taken:
                mark(r, rnvm_block_of(&s.fe.g, rnvm_offset(address)), 1)
            previous = address
            address = slab.next
            steps += 1
            if steps > s.fe.g.blocks:
                return fault(s, address, "the list of slabs has no end")
    return OK


cdef int own_blocks(reached *r) noexcept nogil:
    """Compares the blocks that the pool assigns to the structure with the marked ones."""
    cdef instance *s = r.s
    cdef frontend *fe = s.fe
    cdef uint64_t block, word = 0, at, last = 0, address, owner
    cdef bint needed
    # Without a back-end there are no records to apply.
    cdef int status = remote_ask(fe, RNVM_APPLY, 0) if fe.link.ring != NULL else OK
    r.s.fetched = True
    for block in range(fe.g.blocks):
        at = rnvm_owner_word_at(&fe.g, block)
        if at != last:
            status = remote_read(fe, at, &word, sizeof(word)) if status == OK else status
            last = at
        if status != OK:
            return status
        address = rnvm_address(fe.g.backend, rnvm_block_at(&fe.g, block))
        owner = rnvm_word_value(word) >> rnvm_owner_shift(&fe.g, block) & 0xffff
        needed = r.mine[block >> 6] >> (block & 63) & 1
        # A damaged owner word is skipped: its owners are unknown, even after a repair.
        if not rnvm_word_whole(fe.g.seed, at, word) or owner & RNVM_UNKNOWN == RNVM_UNKNOWN:
            continue
        if needed and owner != (RNVM_USED | s.index + 1):
            return fault(s, address, "a node is in a block that is not the structure's")
        if not needed and owner == (RNVM_USED | s.index + 1):
            status = leak(r, address, &r.found.lost_blocks, 1,
                          "a block of the structure cannot be reached: it has leaked")
    return status


cdef int reach(instance *s, void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef reached r
    cdef rnvm_slabs all
    cdef uint64_t i
    cdef int status
    cdef node *n
    memset(&r, 0, sizeof(r))
    r.s = s
    r.counts = context != NULL
    n = cache_get(s, s.slabs, sizeof(rnvm_slabs), RNVM_TYPE_SLABS)
    if n == NULL:
        return s.error
    all = (<rnvm_slabs *> node_bytes(n))[0]
    r.mine = <uint64_t *> calloc((fe.g.blocks + 63) // 64, sizeof(uint64_t))
    status = OK if r.mine != NULL and grow(&r) else NO_MEMORY
    if status == OK:
        mark(&r, rnvm_block_of(&fe.g, rnvm_offset(s.slabs)),
             (s.root + s.kind.root - s.slabs + fe.g.block - 1) // fe.g.block)
        status = s.kind.walk(s, visit, &r)
        cache_trim(fe)
    if status == OK:
        status = compare(&r)
    if status == OK:
        status = empty_slabs(&r, &all)
    if status == OK and fe.write_set.nodes == NULL:
        status = own_blocks(&r)
    if status == OK and not r.found.lost_at and r.found.bytes != all.bytes:
        status = fault(s, s.slabs, "the bytes of the reachable nodes are not those counted")
    if status == OK and not r.found.lost_at and r.found.blocks != all.blocks:
        status = fault(s, s.slabs, "the blocks of the reachable nodes are not those counted")
    if context != NULL:
        (<reachable *> context)[0] = r.found
    for i in range(r.room):
        free(r.places[i].slots)
    free(r.places)
    free(r.mine)
    return status

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The cache of a front-end (the contract is in _cache.pxd).

Which copies go is decided as the paper does: of a random sample the one that was asked for least recently.  What this front-end
wrote and the back-end has not applied yet is pinned: it stands nowhere else.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from rnvm.format.layout cimport (
    RNVM_NAME_LIVE, RNVM_NO_BLOCK, rnvm_backend, rnvm_block_of, rnvm_name_at, rnvm_offset,
)
from rnvm.format.node cimport RNVM_NODE, RNVM_NODE_BYTES_MAX, rnvm_node, rnvm_node_crc
from rnvm.frontend.status cimport AGAIN, NO_MEMORY, OK
from rnvm.frontend.state cimport frontend, instance, node
from rnvm.frontend.log_overlay cimport overlay_patch
from rnvm.frontend.remote cimport remote_read

cdef enum:
    SAMPLE = 8
    TRIALS = 64                # samples without anything to evict, before it is given up for now
    SLACK = 65536              # bytes by which the cache grows then before that is tried again in a batch or transaction
    STEPS = 65536              # nodes that a query may look at
    BUCKETS = 1024             # at first


cdef char *node_bytes(node *n) noexcept nogil:
    return <char *> (n + 1)


cdef inline uint64_t bucket_of(const frontend *fe, uint64_t address) noexcept nogil:
    return address * <uint64_t> 0x9e3779b97f4a7c15 >> 20 & (fe.bucket_count - 1)


cdef node *cache_find(frontend *fe, uint64_t address) noexcept nogil:
    cdef node *n
    if not fe.bucket_count:
        return NULL
    n = fe.buckets[bucket_of(fe, address)]
    while n != NULL and (n.address != address or n.freed):
        n = n.next
    return n


cdef bint grow(frontend *fe) noexcept nogil:
    """Twice as many buckets, and room for as many nodes."""
    cdef uint64_t count = 2 * fe.bucket_count if fe.bucket_count else BUCKETS
    cdef uint64_t i, bucket
    cdef node **buckets = <node **> calloc(count, sizeof(node *))
    cdef node **nodes = <node **> realloc(fe.nodes, count * sizeof(node *))
    if nodes != NULL:
        fe.nodes = nodes
        fe.node_room = count if buckets != NULL else fe.bucket_count
    if buckets == NULL or nodes == NULL:
        free(buckets)
        return False
    free(fe.buckets)
    fe.buckets = buckets
    fe.bucket_count = count
    for i in range(fe.node_count):
        bucket = bucket_of(fe, nodes[i].address)
        nodes[i].next = buckets[bucket]
        buckets[bucket] = nodes[i]
    return True


cdef node *cache_add(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef node *n
    cdef uint64_t bucket
    if fe.node_count == fe.node_room and not grow(fe):
        return NULL
    n = <node *> malloc(sizeof(node) + length)
    if n == NULL:
        return NULL
    bucket = bucket_of(fe, address)
    n.next = fe.buckets[bucket]
    n.later = NULL
    n.owner = s
    n.address = address
    n.length = length
    n.generation = s.generation
    n.pinned = 0
    n.changed = 0
    n.born = 0
    n.listed = n.freed = False
    fe.clock += 1
    n.used = fe.clock
    n.slot = <uint32_t> fe.node_count
    fe.nodes[fe.node_count] = n
    fe.node_count += 1
    fe.buckets[bucket] = n
    fe.bytes += sizeof(node) + length
    return n


cdef void cache_remove(frontend *fe, node *n) noexcept nogil:
    cdef node **link = &fe.buckets[bucket_of(fe, n.address)]
    while link[0] != n:
        link = &link[0].next
    link[0] = n.next
    fe.node_count -= 1
    fe.nodes[n.slot] = fe.nodes[fe.node_count]
    fe.nodes[n.slot].slot = n.slot
    fe.bytes -= sizeof(node) + n.length
    n.next = fe.released
    fe.released = n


cdef void hear(instance *s) noexcept nogil:
    """How far the back-end has applied what this front-end wrote."""
    cdef uint64_t sequence = 0
    if remote_read(s.fe, rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE, &sequence, sizeof(sequence)) == OK:
        s.applied = max(s.applied, min(sequence // 2, s.number))


cdef node *sample(frontend *fe) noexcept nogil:
    cdef node *best = NULL
    cdef node *n
    cdef uint32_t i
    for i in range(SAMPLE):
        fe.random ^= fe.random << 13
        fe.random ^= fe.random >> 7
        fe.random ^= fe.random << 17
        n = fe.nodes[fe.random % fe.node_count]
        if n.listed:
            continue                            # also where what it was before is applied by now
        if n.pinned > n.owner.applied:
            if n.pinned > n.owner.number:
                continue
            hear(n.owner)
            if n.pinned > n.owner.applied:
                continue
        if best == NULL or n.used < best.used:
            best = n
    return best


cdef void evict(frontend *fe) noexcept nogil:
    cdef uint32_t trials = 0
    cdef node *n
    while fe.bytes > fe.budget and fe.node_count and trials < TRIALS:
        n = sample(fe)
        if n == NULL:
            trials += 1
        else:
            cache_remove(fe, n)
            fe.evictions += 1
    fe.futile = fe.bytes + SLACK if trials == TRIALS else 0


cdef void cache_forget(frontend *fe) noexcept nogil:
    cdef node *n
    # What a batch or transaction has changed stays until it is written, however much that is.
    if fe.bytes > fe.budget and (fe.bytes > fe.futile or not fe.batching and not fe.transacting):
        evict(fe)
    while fe.released != NULL:
        n = fe.released
        fe.released = n.next
        free(n)


cdef void cache_clear(frontend *fe, const instance *s) noexcept nogil:
    cdef uint64_t i = 0
    while i < fe.node_count:
        if s == NULL or fe.nodes[i].owner == s:
            cache_remove(fe, fe.nodes[i])
        else:
            i += 1
    while fe.released != NULL:
        n = fe.released
        fe.released = n.next
        free(n)


cdef node *failed(instance *s, uint64_t address, int error) noexcept nogil:
    s.error = error
    s.fault_at = address
    return NULL


cdef inline bint plausible(const instance *s, uint64_t address, uint64_t length) noexcept nogil:
    """Whether a node can stand there at all: an address is checked before it is followed."""
    cdef uint64_t offset = rnvm_offset(address), first, last
    if address & 7 or rnvm_backend(address) != s.fe.g.backend or length < RNVM_NODE or length > RNVM_NODE_BYTES_MAX or length & 7:
        return False
    first = rnvm_block_of(&s.fe.g, offset)
    last = rnvm_block_of(&s.fe.g, offset + length - 1)
    return first != RNVM_NO_BLOCK and last != RNVM_NO_BLOCK and first // s.fe.g.group_blocks == last // s.fe.g.group_blocks


cdef inline bint fits(const instance *s, const rnvm_node *header, uint64_t address, uint32_t length,
                      uint16_t type) noexcept nogil:
    return header.length == length and header.structure == s.id and header.type == type and header.address == address


cdef node *cache_get(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef node *n = cache_find(fe, address)
    cdef rnvm_node header
    cdef int found
    s.steps += 1
    if s.steps > STEPS and not s.entered:
        return failed(s, address, AGAIN)
    if n != NULL and n.owner == s and n.generation == s.generation:
        if not fits(s, <rnvm_node *> node_bytes(n), address, length if length else n.length, type):
            return failed(s, address, AGAIN)
        fe.hits += 1
        fe.clock += 1
        n.used = fe.clock
        return n
    fe.misses += 1
    if n != NULL:
        cache_remove(fe, n)
    s.fetched = True
    if not length:
        if not plausible(s, address, RNVM_NODE):
            return failed(s, address, AGAIN)
        found = remote_read(fe, rnvm_offset(address), &header, RNVM_NODE)
        if found != OK:
            return failed(s, address, found)
        if not s.entered:
            overlay_patch(s, rnvm_offset(address), <char *> &header, RNVM_NODE)
        length = header.length
    if not plausible(s, address, length):
        return failed(s, address, AGAIN)
    n = cache_add(s, address, length)
    if n == NULL:
        return failed(s, address, NO_MEMORY)
    found = remote_read(fe, rnvm_offset(address), node_bytes(n), length)
    if not s.entered:
        overlay_patch(s, rnvm_offset(address), node_bytes(n), length)
    if found != OK or not fits(s, <rnvm_node *> node_bytes(n), address, length, type) \
            or rnvm_node_crc(fe.g.seed, <rnvm_node *> node_bytes(n)) != (<rnvm_node *> node_bytes(n)).crc:
        cache_remove(fe, n)
        return failed(s, address, found if found != OK else AGAIN)
    return n


cdef int cache_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil:
    if not plausible(s, address, n):
        return AGAIN
    return remote_read(s.fe, rnvm_offset(address), to, n)

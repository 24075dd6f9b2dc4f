"""The node cache of a front-end.

Eviction as in the paper: of a random sample the copy whose last use is longest ago.  Copies that
this front-end wrote and the back-end has not applied yet are pinned: the pool does not contain
those bytes.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from rfp.core.core cimport RFP_RANDOM_STEP, rfp_prefetch, rfp_random_below
from rnvm.format.layout cimport (
    RNVM_NAME_LIVE, RNVM_NO_BLOCK, rnvm_backend, rnvm_block_of, rnvm_name_at, rnvm_offset,
    rnvm_transaction_of)
from rnvm.format.node cimport RNVM_NODE_BYTES_MAX, RNVM_NODE, rnvm_node, rnvm_node_crc
from rnvm.frontend.log_overlay cimport overlay_patch
from rnvm.frontend.node_memory cimport (
    large_zeros, node_allocate, node_memory_free, node_memory_misfits, node_release)
from rnvm.frontend.read_set cimport read_set_add
from rnvm.frontend.remote cimport remote_read
from rnvm.frontend.state cimport frontend, instance, node
from rnvm.frontend.status cimport AGAIN, NO_MEMORY, OK
from rnvm.frontend.writer_lock cimport locks_poll_others

cdef enum:
    SAMPLE = 8
    TRIALS_MAX = 16            # samples without a copy to evict, before eviction gives up for now
    SLACK_BYTES = 65536        # growth after which eviction tries again
    TRIMS_SKIPPED = 16         # the same in operations, outside a batch
    CUTS_SKIPPED = 1024        # operations until it is examined again whether slots can be freed
    QUERY_STEPS_MAX = 65536    # nodes that a query without the lock may read
    BUCKETS_MIN = 1024         # of the first allocation
    TAG_SHIFT = 48             # of a successor: above it bits of the address, below the pointer


cdef bint checks_versions = True


def _skip_version_checks(bint skipped):
    """Take nodes of any version, for tests only."""
    global checks_versions
    checks_versions = not skipped


cdef void cache_init(frontend *fe, uint64_t budget_bytes, uint64_t seed) noexcept nogil:
    fe.cache.budget_bytes = budget_bytes
    fe.cache.random = seed


# The tables


cdef inline uint64_t bucket_of(const frontend *fe, uint64_t address) noexcept nogil:
    return address * RFP_RANDOM_STEP >> 20 & (fe.cache.bucket_count - 1)


cdef node *cache_find(frontend *fe, uint64_t address) noexcept nogil:
    cdef node *n
    if not fe.cache.bucket_count:
        return NULL
    n = fe.cache.buckets[bucket_of(fe, address)]
    while n != NULL and (n.address != address or n.freed):
        n = n.next
    return n


cdef bint grow(frontend *fe) noexcept nogil:
    """Doubles the buckets and the room for nodes: one for two buckets, since each further node in a
    bucket is a cache miss of a lookup."""
    cdef uint64_t count = 2 * fe.cache.bucket_count if fe.cache.bucket_count else BUCKETS_MIN
    cdef uint64_t i, bucket
    cdef node **buckets = <node **> large_zeros(count * sizeof(node *))
    cdef node **nodes = <node **> realloc(fe.cache.nodes, count // 2 * sizeof(node *))
    if nodes != NULL:
        fe.cache.nodes = nodes
        fe.cache.node_room = (count if buckets != NULL else fe.cache.bucket_count) // 2
    if buckets == NULL or nodes == NULL:
        free(buckets)
        return False
    free(fe.cache.buckets)
    fe.cache.buckets = buckets
    fe.cache.bucket_count = count
    for i in range(fe.cache.node_count):
        bucket = bucket_of(fe, nodes[i].address)
        nodes[i].next = buckets[bucket]
        buckets[bucket] = nodes[i]
    return True


cdef node *cache_add(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef node *n
    cdef uint64_t bucket
    if fe.cache.node_count == fe.cache.node_room and not grow(fe):
        return NULL
    n = node_allocate(fe, length)
    if n == NULL:
        return NULL
    bucket = bucket_of(fe, address)
    n.next = fe.cache.buckets[bucket]
    n.next_changed = NULL
    n.owner = s
    n.address = address
    n.length = length
    n.generation = s.generation
    n.pinned = 0
    n.noted = 0
    n.changed = 0
    n.born = 0
    n.as_of = 0
    n.sum = 0
    n.listed = n.freed = n.unsummed = n.removed = False
    n.successors[0] = n.successors[1] = 0
    fe.cache.clock += 1
    n.used = fe.cache.clock
    n.slot = <uint32_t> fe.cache.node_count
    fe.cache.nodes[fe.cache.node_count] = n
    fe.cache.node_count += 1
    fe.cache.buckets[bucket] = n
    fe.cache.bytes += sizeof(node) + length
    return n


cdef void cache_remove(frontend *fe, node *n) noexcept nogil:
    cdef node **link = &fe.cache.buckets[bucket_of(fe, n.address)]
    while link[0] != n:
        link = &link[0].next
    link[0] = n.next
    fe.cache.node_count -= 1
    fe.cache.nodes[n.slot] = fe.cache.nodes[fe.cache.node_count]
    fe.cache.nodes[n.slot].slot = n.slot
    fe.cache.bytes -= sizeof(node) + n.length
    n.next = fe.cache.removed
    n.removed = True
    fe.cache.removed = n


cdef void free_removed(frontend *fe) noexcept nogil:
    cdef node *n
    while fe.cache.removed != NULL:
        n = fe.cache.removed
        fe.cache.removed = n.next
        node_release(fe, n)


cdef void cache_clear(frontend *fe, const instance *s) noexcept nogil:
    cdef uint64_t i = 0
    while i < fe.cache.node_count:
        if s == NULL or fe.cache.nodes[i].owner == s:
            cache_remove(fe, fe.cache.nodes[i])
        else:
            i += 1
    free_removed(fe)


cdef void cache_free(frontend *fe) noexcept nogil:
    cache_clear(fe, NULL)
    fe.cache.last = NULL
    node_memory_free(fe)
    free(fe.cache.buckets)
    free(fe.cache.nodes)


# Eviction


cdef void update_applied(instance *s) noexcept nogil:
    """READs how far the back-end has applied this front-end's records."""
    cdef uint64_t sequence = 0
    cdef uint64_t at = rnvm_name_at(&s.fe.g, s.index) + RNVM_NAME_LIVE
    if remote_read(s.fe, at, &sequence, sizeof(sequence)) == OK:
        s.applied = max(s.applied, min(rnvm_transaction_of(sequence), s.number))


cdef node *draw_sample(frontend *fe, instance **polled) noexcept nogil:
    """The copy to evict, or NULL.  *polled: whose progress was read since this eviction began."""
    cdef node *best = NULL
    cdef node *n
    cdef node *drawn[SAMPLE]
    cdef uint32_t i
    for i in range(SAMPLE):             # the misses of all of them at once
        drawn[i] = fe.cache.nodes[rfp_random_below(&fe.cache.random, fe.cache.node_count)]
        rfp_prefetch(drawn[i])
    for i in range(SAMPLE):
        n = drawn[i]
        if n.listed:
            continue                    # in the write set, even if its former state is applied
        if n.pinned > n.owner.applied:
            if n.pinned > n.owner.number or polled[0] == n.owner:
                continue
            polled[0] = n.owner         # a READ, of a line that the back-end writes all the time
            update_applied(n.owner)
            if n.pinned > n.owner.applied:
                continue
        if best == NULL or n.used < best.used:
            best = n
    return best


cdef void evict(frontend *fe) noexcept nogil:
    cdef uint32_t trials = 0
    cdef instance *polled = NULL
    cdef node *n
    while fe.cache.bytes > fe.cache.budget_bytes and fe.cache.node_count and trials < TRIALS_MAX:
        n = draw_sample(fe, &polled)
        if n == NULL:
            trials += 1
        else:
            cache_remove(fe, n)
            fe.cache.evictions += 1
    # Nearly all copies are pinned: do not sample in vain after each operation.
    fe.cache.evict_again_bytes = fe.cache.bytes + SLACK_BYTES if trials == TRIALS_MAX else 0
    fe.cache.evict_again_trims = TRIMS_SKIPPED if trials == TRIALS_MAX else 0


cdef void cache_trim(frontend *fe) noexcept nogil:
    cdef bint keeps_changes = fe.scope.batching or fe.scope.transacting
    if fe.cache.bytes > fe.cache.budget_bytes:
        # A batch or transaction keeps all that it has changed until that is written.  Outside, the
        # back-end's progress unpins copies.
        if fe.cache.bytes > fe.cache.evict_again_bytes \
                or not keeps_changes and not fe.cache.evict_again_trims:
            evict(fe)
        elif fe.cache.evict_again_trims:
            fe.cache.evict_again_trims -= 1
    free_removed(fe)
    if node_memory_misfits(fe) and not keeps_changes:
        cut_again(fe)


cdef void cut_again(frontend *fe) noexcept nogil:
    """Gives all copies in slots up, so that later ones have slots of their lengths."""
    cdef uint64_t i = 0
    cdef node *n
    if fe.cache.cut_again_trims:
        fe.cache.cut_again_trims -= 1
        return
    for i in range(fe.cache.node_count):
        n = fe.cache.nodes[i]
        if not n.pooled:
            continue
        if not n.listed and n.pinned > n.owner.applied and n.pinned <= n.owner.number:
            update_applied(n.owner)
        if n.listed or n.pinned > n.owner.applied:
            fe.cache.cut_again_trims = CUTS_SKIPPED
            return
    i = 0
    while i < fe.cache.node_count:
        n = fe.cache.nodes[i]
        if n.pooled:
            cache_remove(fe, n)
        else:
            i += 1
    free_removed(fe)
    fe.cache.last = NULL
    node_memory_free(fe)


# Nodes


cdef node *failed(instance *s, uint64_t address, int error) noexcept nogil:
    s.error = error
    s.fault_at = address
    return NULL


cdef inline bint plausible(const instance *s, uint64_t address, uint64_t length) noexcept nogil:
    """Whether a node can be there at all: an address is checked before it is followed."""
    cdef uint64_t offset = rnvm_offset(address), first, last
    if address & 7 or rnvm_backend(address) != s.fe.g.backend or length < RNVM_NODE \
            or length > RNVM_NODE_BYTES_MAX or length & 7:
        return False
    first = rnvm_block_of(&s.fe.g, offset)
    last = rnvm_block_of(&s.fe.g, offset + length - 1)
    return first != RNVM_NO_BLOCK and last != RNVM_NO_BLOCK \
        and first // s.fe.g.group_blocks == last // s.fe.g.group_blocks


cdef inline bint matches(const instance *s, const rnvm_node *header, uint64_t address,
                         uint32_t length, uint16_t type) noexcept nogil:
    return header.length == length and header.structure == s.id and header.type == type \
        and header.address == address


cdef inline bint whole(const instance *s, const rnvm_node *header) noexcept nogil:
    return rnvm_node_crc(s.fe.g.seed, header) == header.crc


cdef node *cache_get(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil:
    return get(s, cache_find(s.fe, address), address, length, type)


cdef node *get(instance *s, node *n, uint64_t address, uint32_t length,
               uint16_t type) noexcept nogil:
    """n: the copy at the address, or NULL."""
    cdef frontend *fe = s.fe
    s.steps += 1
    if s.steps > QUERY_STEPS_MAX and not s.entered:
        return failed(s, address, AGAIN)
    if n != NULL and n.owner == s and current(s, n):
        if not matches(s, <rnvm_node *> node_bytes(n), address, length if length else n.length,
                       type) or too_new(s, n):
            return failed(s, address, AGAIN)
        fe.cache.hits += 1
        fe.cache.clock += 1
        n.used = fe.cache.clock
        return noted(s, n) if fe.read_set.noting else n
    if s.version and (n != NULL and kept_for_another(s, n) or is_freed(fe, address)):
        return failed(s, address, AGAIN)        # its memory was used again
    fe.cache.misses += 1
    if n != NULL:
        cache_remove(fe, n)
    n = fetch(s, address, length, type)
    return noted(s, n) if fe.read_set.noting and n != NULL else n


# Successors.  A structure reads a node, then one of few that it points to.  The copies that were
# read after a copy are noted there, so that a descent needs no bucket, which is a cache miss on
# each level.  A pointer may be out of date; then its slot has no node or another one.


cdef inline uint64_t successor_of(const node *n) noexcept nogil:
    return n.address * RFP_RANDOM_STEP >> TAG_SHIFT << TAG_SHIFT | <uint64_t> n


cdef inline node *successor_node(uint64_t successor) noexcept nogil:
    return <node *> (successor & (<uint64_t> 1 << TAG_SHIFT) - 1)


cdef inline bint has_tag(uint64_t successor, uint64_t address) noexcept nogil:
    return (successor ^ address * RFP_RANDOM_STEP) >> TAG_SHIFT == 0 and successor != 0


cdef inline bint is_at(const node *n, uint64_t address) noexcept nogil:
    return n.address == address and not n.freed and not n.removed


cdef node *cache_follow(instance *s, uint64_t address, uint32_t length,
                        uint16_t type) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef node *last = fe.cache.last
    cdef node *n = NULL
    cdef bint known = False
    if last != NULL:
        if has_tag(last.successors[0], address):
            n = successor_node(last.successors[0])
        elif has_tag(last.successors[1], address):
            n = successor_node(last.successors[1])
        known = n != NULL and is_at(n, address)
    if not known:
        n = cache_find(fe, address)
    n = get(s, n, address, length, type)
    if n == NULL or not n.pooled:
        fe.cache.last = NULL
        return n
    if not known and last != NULL:
        last.successors[1] = last.successors[0]
        last.successors[0] = successor_of(n)
    fe.cache.last = n
    return n


cdef node *noted(instance *s, node *n) noexcept nogil:
    return n if read_set_add(s, n) else failed(s, n.address, NO_MEMORY)


cdef inline bint too_new(const instance *s, node *n) noexcept nogil:
    """Whether a node is of a later version than the query: its memory was used again.

    This alone keeps readers of multi-version structures from wrong data (version_query.pyx).
    """
    return s.version and (<rnvm_node *> node_bytes(n)).version > s.version and checks_versions


cdef bint kept_for_another(const instance *s, node *n) noexcept nogil:
    """Whether a copy must stay: another structure has changed it, and the pool has older bytes."""
    if n.listed:
        return True
    if n.owner != s and n.pinned > n.owner.applied:
        update_applied(n.owner)
    return n.owner != s and n.pinned > n.owner.applied


cdef bint is_freed(const frontend *fe, uint64_t address) noexcept nogil:
    """Whether the present transaction has freed a node there, which it may still take back."""
    cdef const node *n = NULL
    if fe.cache.bucket_count:
        n = fe.cache.buckets[bucket_of(fe, address)]
    while n != NULL and (n.address != address or not n.freed):
        n = n.next
    return n != NULL


cdef bint current(instance *s, node *n) noexcept nogil:
    """Whether a copy may be used."""
    cdef rnvm_node header
    cdef uint64_t offset = rnvm_offset(n.address)
    if s.kind.collect == NULL or not s.version and n.generation == s.generation:
        return n.generation == s.generation
    if n.listed or s.version and n.as_of >= s.version:
        return True
    # Of a version before: it is the same node if its header in the pool is the same.
    s.fetched = True
    if remote_read(s.fe, offset, &header, RNVM_NODE) != OK:
        return False
    if not s.entered and s.at == NULL:
        overlay_patch(s, offset, <char *> &header, RNVM_NODE)
    if memcmp(&header, node_bytes(n), RNVM_NODE) != 0:
        return False
    n.as_of = s.version if s.version else s.number
    if s.at == NULL:
        n.generation = s.generation
    return True


cdef node *fetch(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_node header
    cdef node *n
    # A function that READs many nodes may take longer than a lease.
    cdef int status = locks_poll_others(s)
    s.fetched = True
    if status != OK:
        return failed(s, address, status)
    if not length:
        if not plausible(s, address, RNVM_NODE):
            return failed(s, address, AGAIN)
        status = remote_read(fe, rnvm_offset(address), &header, RNVM_NODE)
        if status != OK:
            return failed(s, address, status)
        if not s.entered and s.at == NULL:
            overlay_patch(s, rnvm_offset(address), <char *> &header, RNVM_NODE)
        length = header.length
    if not plausible(s, address, length):
        return failed(s, address, AGAIN)
    n = cache_add(s, address, length)
    if n == NULL:
        return failed(s, address, NO_MEMORY)
    status = remote_read(fe, rnvm_offset(address), node_bytes(n), length)
    if not s.entered and s.at == NULL:
        overlay_patch(s, rnvm_offset(address), node_bytes(n), length)
    if status != OK or not matches(s, <rnvm_node *> node_bytes(n), address, length, type) \
            or not whole(s, <rnvm_node *> node_bytes(n)) or too_new(s, n):
        cache_remove(fe, n)
        return failed(s, address, status if status != OK else AGAIN)
    n.as_of = s.version
    if s.at != NULL:
        # Its bytes are not those of the state that queries have seen: a log may not be applied.
        n.generation = s.generation - 1
    return n


cdef int cache_peek(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil:
    if not plausible(s, address, n):
        return AGAIN
    return remote_read(s.fe, rnvm_offset(address), to, n)

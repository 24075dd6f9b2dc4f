"""Find, insert and remove entries; split and merge buckets."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from rfp.core.core cimport rfp_prefetch
from rfp.core.limits cimport RFP_LINE
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, answer_put, fault, node_change, node_cost, node_free, node_new, node_read, room_for,
)
from structures.directory cimport directory_get, directory_set
from structures.layout cimport (
    BUCKET_BYTES, BUCKET_FIRST, BUCKET_ROOM, HASH_INSIDE, HASH_SHORT_KEY, KEY_OF, SIZES,
    TYPE_BUCKET, TYPE_VALUE, VALUE_NODE, VALUE_OF, hash_bucket, hash_bucket_of, hash_entry,
    hash_entry_size, hash_key_at, hash_level, hash_outside, hash_root, hash_value_at, value_node,
)
from structures.mapping_operations cimport MISSING, answer_entry, pair
from structures.values cimport value_bytes, value_change, value_fits

cdef enum:
    HEADER_AT = BUCKET_FIRST - 8           # changed when an entry is added or removed
    FULL_BYTES = BUCKET_ROOM * 2 // 3      # bytes of entries per bucket: above it the table grows
    BUCKET_SPARSE_BYTES = BUCKET_ROOM // 6  # below it, it shrinks
    ENTRY_BYTES_MAX = 272                  # bytes: sizes, key and value inside
    SPLIT_BYTES = 1500                     # bytes that a split changes in root and directory
    BUCKET_MERGE_BYTES = 700               # the same of a merge
    KEPT_NODES = 2                         # a split reuses the nodes of a chain of so many


cdef const hash_bucket *bucket_read(instance *s, uint64_t address, uint32_t index) noexcept nogil:
    cdef const hash_bucket *bucket = <const hash_bucket *> node_read(s, address, BUCKET_BYTES,
                                                                     TYPE_BUCKET)
    if bucket == NULL:
        return NULL
    if (bucket.end < BUCKET_FIRST or bucket.end > BUCKET_BYTES or bucket.end & 7
            or bucket.index != index):
        s.error = fault(s, address, b"a bucket has an invalid end, or is another bucket")
        return NULL
    return bucket


cdef const hash_entry *entry_at(instance *s, const hash_bucket *bucket, uint64_t address,
                                uint32_t at) noexcept nogil:
    cdef const hash_entry *entry = <const hash_entry *> (<const char *> bucket + at)
    cdef uint32_t size = hash_entry_size(entry.sizes)
    if size < sizeof(hash_entry) or size & 7 or size > bucket.end - at:
        s.error = fault(s, address, b"an entry extends beyond its bucket")
        return NULL
    return entry


cdef int same_key(instance *s, const hash_entry *entry, const char *key,
                  uint32_t length) noexcept nogil:
    """Return 1, 0, or below 0: an error."""
    cdef const char *there
    if KEY_OF(entry.sizes) != length:
        return 0
    if HASH_SHORT_KEY(entry.sizes):
        there = <const char *> entry + hash_key_at(entry.sizes)
    else:
        there = value_bytes(s, node_of(entry), hash_outside(entry.sizes))
        if there == NULL:
            return s.error
    return memcmp(there, key, length) == 0


cdef inline void prefetch(const hash_bucket *bucket) noexcept nogil:
    """Start the cache misses of all entries at once: the size of one decides where the next is."""
    cdef uint32_t at = RFP_LINE
    while at < BUCKET_BYTES:
        rfp_prefetch(<const char *> bucket + at)
        at += RFP_LINE


cdef int locate(instance *s, const hash_root *root, const char *key, uint32_t length,
                place *p) noexcept nogil:
    cdef chain_scan c
    cdef const hash_entry *entry
    cdef uint32_t hash
    cdef int outcome, same
    if not root.buckets:
        return MISSING
    hash = hash_of(root, key, length)
    outcome = chain_begin(s, root, hash_bucket_of(hash, root.buckets), &c)
    while outcome == OK:
        prefetch(c.bucket)
        while c.at < c.bucket.end:
            entry = entry_at(s, c.bucket, c.address, c.at)
            if entry == NULL:
                return s.error
            if entry.hash == hash:
                same = same_key(s, entry, key, length)
                if same < 0:
                    return same
                if same:
                    p.address = c.address
                    p.previous = c.previous
                    p.at = c.at
                    p.entry = entry
                    return OK
            c.at += hash_entry_size(entry.sizes)
        outcome = chain_next(s, &c)
    return outcome


cdef int entry_value(instance *s, const hash_entry *entry, const char **bytes) noexcept nogil:
    cdef const char *there
    if HASH_INSIDE(entry.sizes):
        bytes[0] = <const char *> entry + hash_value_at(entry.sizes)
        return OK
    there = value_bytes(s, node_of(entry), hash_outside(entry.sizes))
    if there == NULL:
        return s.error
    bytes[0] = there + hash_outside(entry.sizes) - VALUE_OF(entry.sizes)
    return OK


cdef int answer_value(instance *s, const hash_entry *entry) noexcept nogil:
    cdef const char *bytes = NULL
    if entry_value(s, entry, &bytes) != OK:
        return s.error
    return answer_put(s, bytes, VALUE_OF(entry.sizes))


cdef int answer_item(instance *s, const hash_entry *entry, bint value,
                     bint outside) noexcept nogil:
    cdef const char *there = NULL
    cdef const char *key
    cdef bint inside = HASH_INSIDE(entry.sizes)
    value = value and (inside or outside)
    if not HASH_SHORT_KEY(entry.sizes) or (value and not inside):
        there = value_bytes(s, node_of(entry), hash_outside(entry.sizes))
        if there == NULL:
            return s.error
    key = there
    if HASH_SHORT_KEY(entry.sizes):
        key = <const char *> entry + hash_key_at(entry.sizes)
    if inside:
        there = <const char *> entry + hash_value_at(entry.sizes)
    elif there != NULL:
        there += hash_outside(entry.sizes) - VALUE_OF(entry.sizes)
    return answer_entry(s, entry.sizes, key, there if value else NULL)


# Changes


cdef inline hash_bucket *bucket_change(instance *s, uint64_t address, uint32_t offset,
                                       uint32_t n) noexcept nogil:
    return <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, offset, n)


cdef hash_bucket *bucket_new(instance *s, uint32_t index, uint64_t *address) noexcept nogil:
    """Return a new node of a bucket, without entries."""
    cdef hash_bucket *bucket = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, address)
    if bucket != NULL:
        bucket.index = index
        bucket.end = BUCKET_FIRST
    return bucket


cdef int entry_remove(instance *s, uint32_t index, const place *p) noexcept nogil:
    cdef hash_bucket *bucket = bucket_change(s, p.address, HEADER_AT, 8)
    cdef hash_bucket *previous
    cdef hash_entry *entry
    cdef uint32_t size
    cdef uint64_t next
    if bucket == NULL or bucket_change(s, p.address, p.at, sizeof(hash_entry)) == NULL:
        return s.error
    entry = <hash_entry *> (<char *> bucket + p.at)
    size = hash_entry_size(entry.sizes)
    if p.at + size == bucket.end:
        bucket.end -= size
    else:
        entry.hash = 0
        entry.sizes = SIZES(0, size)
        bucket.holes += size
    if bucket.end != BUCKET_FIRST + bucket.holes:
        return OK
    bucket.end = BUCKET_FIRST
    bucket.holes = 0
    if not p.previous:
        return OK
    next = bucket.next
    previous = bucket_change(s, p.previous, RNVM_NODE, 8)
    if previous == NULL:
        return s.error
    previous.next = next
    return node_free(s, p.address, BUCKET_BYTES)


cdef uint32_t compact(hash_bucket *bucket) noexcept nogil:
    """Move the entries together; return the offset of the room behind them."""
    cdef uint32_t at = BUCKET_FIRST, to = BUCKET_FIRST, size
    cdef hash_entry *entry
    while at < bucket.end:
        entry = <hash_entry *> (<char *> bucket + at)
        size = hash_entry_size(entry.sizes)
        if KEY_OF(entry.sizes):
            if at != to:
                memmove(<char *> bucket + to, entry, size)
            to += size
        at += size
    bucket.holes = 0
    bucket.end = to
    return to


cdef int entry_make(instance *s, uint32_t index, uint64_t address, const hash_bucket *seen,
                    uint32_t size) noexcept nogil:
    """Make room for an entry in a node that has enough; return its offset, or below 0."""
    cdef uint32_t at = BUCKET_FIRST, hole, rest_size, end = seen.end
    cdef const hash_entry *entry
    cdef hash_bucket *bucket
    cdef hash_entry *rest
    if seen.holes >= size:                 # the first hole that is long enough
        while at < end:
            entry = entry_at(s, seen, address, at)
            if entry == NULL:
                return s.error
            hole = hash_entry_size(entry.sizes)
            if not KEY_OF(entry.sizes) and hole >= size:
                bucket = bucket_change(s, address, HEADER_AT, 8)
                rest_size = 8 if hole > size else 0
                if bucket == NULL or bucket_change(s, address, at, size + rest_size) == NULL:
                    return s.error
                if hole > size:
                    rest = <hash_entry *> (<char *> bucket + at + size)
                    rest.hash = 0
                    rest.sizes = SIZES(0, hole - size)
                bucket.holes -= size
                return at
            at += hole
    if end + size <= BUCKET_BYTES:
        bucket = bucket_change(s, address, HEADER_AT, 8)
        if bucket == NULL or bucket_change(s, address, end, size) == NULL:
            return s.error
    else:
        bucket = bucket_change(s, address, HEADER_AT, BUCKET_BYTES - HEADER_AT)
        if bucket == NULL:
            return s.error
        end = compact(bucket)
    bucket.end = end + size
    return end


cdef int entry_insert(instance *s, const hash_root *root, uint32_t hash, const pair *p,
                      uint32_t sizes) noexcept nogil:
    cdef uint32_t index = hash_bucket_of(hash, root.buckets), size = hash_entry_size(sizes)
    cdef uint32_t outside = hash_outside(sizes)
    cdef uint64_t address = 0, node = 0
    cdef chain_scan c
    cdef hash_bucket *bucket
    cdef hash_bucket *last
    cdef hash_entry *entry
    cdef value_node *own
    cdef char *bytes
    cdef int at = BUCKET_FIRST, outcome
    if not HASH_INSIDE(sizes):
        own = <value_node *> node_new(s, VALUE_NODE(outside), TYPE_VALUE, &node)
        if own == NULL:
            return s.error
        bytes = own.bytes
        if not HASH_SHORT_KEY(sizes):
            memcpy(bytes, p.key, p.key_length)
        memcpy(bytes + outside - p.value_length, p.value, p.value_length)
    outcome = chain_begin(s, root, index, &c)
    while outcome == OK and BUCKET_BYTES - c.bucket.end + c.bucket.holes < size:
        outcome = chain_next(s, &c)
    if outcome < OK:
        return outcome
    if outcome == OK:
        at = entry_make(s, index, c.address, c.bucket, size)
        if at < 0:
            return at
        bucket = bucket_change(s, c.address, <uint32_t> at, size)
        if bucket == NULL:
            return s.error
    else:
        bucket = bucket_new(s, index, &address)
        if bucket == NULL:
            return s.error
        bucket.end = BUCKET_FIRST + size
        last = bucket_change(s, c.address, RNVM_NODE, 8)
        if last == NULL:
            return s.error
        last.next = address
    entry = <hash_entry *> (<char *> bucket + at)
    memset(entry, 0, size)
    entry.hash = hash
    entry.sizes = sizes
    if node:
        (<uint64_t *> (entry + 1))[0] = node
    if HASH_SHORT_KEY(sizes):
        memcpy(<char *> entry + hash_key_at(sizes), p.key, p.key_length)
    if not node:
        memcpy(<char *> entry + hash_value_at(sizes), p.value, p.value_length)
    return OK


cdef int entry_replace(instance *s, const place *where, const hash_entry *entry, const pair *p,
                       uint32_t sizes) noexcept nogil:
    cdef uint32_t size = hash_entry_size(sizes), at = hash_value_at(sizes), old = entry.sizes
    cdef uint32_t outside = hash_outside(sizes), skip
    cdef hash_bucket *bucket
    cdef char *changed
    if HASH_INSIDE(old) and HASH_INSIDE(sizes) and hash_entry_size(old) == size:
        skip = at if old == sizes else 0
        changed = <char *> bucket_change(s, where.address, where.at + skip, size - skip)
        if changed == NULL:
            return s.error
        changed += where.at
        (<hash_entry *> changed).sizes = sizes
        memset(changed + at, 0, size - at)
        memcpy(changed + at, p.value, p.value_length)
        return OK
    if HASH_INSIDE(old) or HASH_INSIDE(sizes) or not value_fits(hash_outside(old), outside):
        return MISSING
    # The value is behind the key, if that is outside too: the key stays.
    if value_change(s, node_of(entry), outside - p.value_length, p.value, p.value_length) != OK:
        return s.error
    if old != sizes:
        bucket = bucket_change(s, where.address, where.at, sizeof(hash_entry))
        if bucket == NULL:
            return s.error
        (<hash_entry *> (<char *> bucket + where.at)).sizes = sizes
    return OK


# The number of buckets


cdef struct chain:             # under construction
    uint64_t first
    hash_bucket *last
    uint32_t index

cdef int chain_make(instance *s, chain *c, uint32_t index) noexcept nogil:
    c.index = index
    c.last = bucket_new(s, index, &c.first)
    return s.error if c.last == NULL else OK

cdef int chain_add(instance *s, chain *c, const hash_entry *entry) noexcept nogil:
    cdef uint32_t size = hash_entry_size(entry.sizes)
    cdef hash_bucket *last = c.last
    if last.end + size > BUCKET_BYTES:
        c.last = bucket_new(s, c.index, &last.next)
        if c.last == NULL:
            return s.error
        last = c.last
    memcpy(<char *> last + last.end, entry, size)
    last.end += size
    return OK


cdef int chain_reuse(instance *s, chain *c, uint32_t index, uint64_t first,
                     uint64_t bytes) noexcept nogil:
    """Begin a chain for entries of so many bytes in a node that contains others."""
    c.index = index
    c.first = first
    c.last = bucket_change(s, first, RNVM_NODE,
                           BUCKET_FIRST - RNVM_NODE + <uint32_t> min(bytes, BUCKET_ROOM))
    if c.last == NULL:
        return s.error
    c.last.next = 0
    c.last.index = index
    c.last.end = BUCKET_FIRST
    c.last.holes = 0
    return OK


cdef int distribute_short(instance *s, const hash_root *root, uint32_t index, chain *low,
                          chain *high, uint32_t bit) noexcept nogil:
    """As distribute(), of a bucket with one node or two: they become the first ones of the new
    chains."""
    cdef char[KEPT_NODES * BUCKET_BYTES] copies
    cdef uint64_t[KEPT_NODES] addresses
    cdef uint64_t low_bytes = 0, high_bytes = 0
    cdef const hash_bucket *copy
    cdef const hash_entry *entry
    cdef chain_scan c
    cdef uint32_t n = 0, i, at, size
    cdef bint moving
    cdef int outcome = chain_begin(s, root, index, &c)
    while outcome == OK and n < KEPT_NODES:
        memcpy(copies + n * BUCKET_BYTES, c.bucket, BUCKET_BYTES)
        addresses[n] = c.address
        n += 1
        outcome = chain_next(s, &c)
    if outcome != MISSING:
        return s.error if outcome < OK else fault(s, c.address, b"a bucket has become longer")
    for moving in range(2):
        for i in range(n):
            copy = <const hash_bucket *> (copies + i * BUCKET_BYTES)
            at = BUCKET_FIRST
            while at < copy.end:
                entry = entry_at(s, copy, addresses[i], at)
                if entry == NULL:
                    return s.error
                size = hash_entry_size(entry.sizes)
                at += size
                if not KEY_OF(entry.sizes):
                    continue
                if moving:
                    if chain_add(s, high if entry.hash & bit else low, entry) != OK:
                        return s.error
                elif entry.hash & bit:
                    high_bytes += size
                else:
                    low_bytes += size
        if moving:
            break
        if chain_reuse(s, low, index, addresses[0], low_bytes) != OK:
            return s.error
        if n == 1:
            outcome = chain_make(s, high, root.buckets)
        else:
            outcome = chain_reuse(s, high, root.buckets, addresses[1], high_bytes)
        if outcome != OK:
            return outcome
    return OK


cdef int distribute(instance *s, const hash_root *root, uint32_t index, chain *low, chain *high,
                    uint32_t bit) noexcept nogil:
    """Move the entries of a bucket into new chains, and free its own nodes.

    Entries with this bit in their hashes go to high.
    """
    cdef chain_scan c
    cdef const hash_entry *entry
    cdef uint64_t address
    cdef int outcome = chain_begin(s, root, index, &c)
    while outcome == OK:
        while c.at < c.bucket.end:
            entry = entry_at(s, c.bucket, c.address, c.at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes):
                if chain_add(s, high if entry.hash & bit else low, entry) != OK:
                    return s.error
            c.at += hash_entry_size(entry.sizes)
        address = c.address
        outcome = chain_next(s, &c)
        if outcome >= OK and node_free(s, address, BUCKET_BYTES) != OK:
            return s.error
    return OK if outcome == MISSING else outcome


cdef int chain_measure(instance *s, const hash_root *root, uint32_t index, uint32_t *nodes,
                       uint64_t *bytes) noexcept nogil:
    """Add the number of its nodes, and the bytes of its entries."""
    cdef chain_scan c
    cdef int outcome = chain_begin(s, root, index, &c)
    while outcome == OK:
        if c.bucket.holes > c.bucket.end - BUCKET_FIRST:
            return fault(s, c.address, b"a bucket's holes do not match its header")
        bytes[0] += c.bucket.end - BUCKET_FIRST - c.bucket.holes
        nodes[0] += 1
        outcome = chain_next(s, &c)
    return OK if outcome == MISSING else outcome


cdef uint64_t split_cost(instance *s, uint32_t nodes, uint64_t bytes) noexcept nogil:
    """Return the maximum bytes that the split of a chain changes."""
    cdef uint64_t made = bytes // (BUCKET_ROOM - ENTRY_BYTES_MAX) + 2
    return SPLIT_BYTES + made * (BUCKET_BYTES + 32) + (made + nodes) * node_cost(s, BUCKET_BYTES)


cdef bint buckets_short(const hash_root *root) noexcept nogil:
    return root.bytes > <uint64_t> root.buckets * FULL_BYTES


cdef bint buckets_idle(const hash_root *root) noexcept nogil:
    return root.buckets > 1 and root.bytes < <uint64_t> root.buckets * BUCKET_SPARSE_BYTES


cdef int buckets_grow(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil:
    cdef uint32_t whole = <uint32_t> 1 << hash_level(root.buckets), added = root.buckets
    cdef uint32_t split = root.buckets - whole, nodes = 0
    cdef uint64_t bytes = 0
    cdef chain low, high
    done[0] = False
    if root.buckets >= <uint32_t> 1 << 31:
        return OK
    if chain_measure(s, root, split, &nodes, &bytes) != OK:
        return s.error
    if not room_for(s, beside + split_cost(s, nodes, bytes)):
        return OK
    done[0] = True
    if nodes <= KEPT_NODES:
        if distribute_short(s, root, split, &low, &high, whole) != OK:
            return s.error
    else:
        if chain_make(s, &low, split) != OK or chain_make(s, &high, added) != OK:
            return s.error
        if distribute(s, root, split, &low, &high, whole) != OK:
            return s.error
        if directory_set(s, &root.directory, &root.depth, split, low.first) != OK:
            return s.error
    root.buckets += 1
    return directory_set(s, &root.directory, &root.depth, added, high.first)


cdef int move_entries(instance *s, uint64_t source, uint64_t target, uint32_t index) noexcept nogil:
    """Append the entries of a node to another one, which has room for them, and free it."""
    cdef const hash_bucket *node = <const hash_bucket *> node_read(s, source, BUCKET_BYTES,
                                                                   TYPE_BUCKET)
    cdef const hash_bucket *seen = bucket_read(s, target, index)
    cdef hash_bucket *into
    cdef const hash_entry *entry
    cdef uint32_t at = BUCKET_FIRST, size, live
    if node == NULL or seen == NULL:
        return s.error
    live = node.end - BUCKET_FIRST - node.holes
    if live:
        if live > BUCKET_BYTES - seen.end:
            into = bucket_change(s, target, HEADER_AT, BUCKET_BYTES - HEADER_AT)
            if into == NULL:
                return s.error
            compact(into)
        else:
            into = bucket_change(s, target, HEADER_AT, 8)
            if into == NULL or bucket_change(s, target, seen.end, live) == NULL:
                return s.error
        while at < node.end:
            entry = entry_at(s, node, source, at)
            if entry == NULL:
                return s.error
            size = hash_entry_size(entry.sizes)
            if KEY_OF(entry.sizes):
                if size > BUCKET_BYTES - into.end:
                    return fault(s, source, b"a bucket's holes do not match its header")
                memcpy(<char *> into + into.end, entry, size)
                into.end += size
            at += size
    return node_free(s, source, BUCKET_BYTES)


cdef int buckets_shrink(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil:
    # A merge takes no new node, so a full pool can still shrink after deletions.
    cdef uint32_t last = root.buckets - 1, into = hash_bucket_of(last, last)
    cdef uint32_t nodes = 0, moved = 0, live
    cdef uint64_t bytes = 0, cost, address, next, tail
    cdef const hash_bucket *bucket
    cdef const hash_bucket *end
    cdef hash_bucket *changed
    done[0] = False
    if chain_measure(s, root, last, &moved, &bytes) != OK:
        return s.error
    if chain_measure(s, root, into, &nodes, &bytes) != OK:
        return s.error
    # Never create a chain that could not be split again.
    cost = BUCKET_MERGE_BYTES + (moved + 1) * (2 * BUCKET_BYTES + node_cost(s, BUCKET_BYTES))
    if not room_for(s, split_cost(s, nodes + moved, bytes)) or not room_for(s, beside + cost):
        return OK
    done[0] = True
    tail = directory_get(s, root.directory, root.depth, into)
    end = bucket_read(s, tail, into)
    while end != NULL and end.next:
        tail = end.next
        end = bucket_read(s, tail, into)
    address = directory_get(s, root.directory, root.depth, last)
    while address:
        bucket = bucket_read(s, address, last)
        end = bucket_read(s, tail, into)
        if bucket == NULL or end == NULL:
            return s.error
        next = bucket.next
        live = bucket.end - BUCKET_FIRST - bucket.holes
        if live <= BUCKET_BYTES - end.end + end.holes:
            if move_entries(s, address, tail, into) != OK:
                return s.error
        else:
            changed = bucket_change(s, address, RNVM_NODE, 16)
            if changed == NULL:
                return s.error
            changed.next = 0
            changed.index = into
            changed = bucket_change(s, tail, RNVM_NODE, 8)
            if changed == NULL:
                return s.error
            changed.next = address
            tail = address
        address = next
    root.buckets = last
    return directory_set(s, &root.directory, &root.depth, last, 0)

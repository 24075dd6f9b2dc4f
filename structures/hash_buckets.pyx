"""Find, insert and remove entries; split and merge buckets."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, fault, node_change, node_cost, node_free, node_new, node_read, room_for
from structures.layout cimport (
    BUCKET_BYTES, BUCKET_FIRST, BUCKET_ROOM, HASH_INSIDE, HASH_SHORT_KEY, KEY_OF, SIZES,
    TYPE_BUCKET, TYPE_VALUE, UP8, VALUE_NODE, VALUE_OF, hash_bucket, hash_bucket_of, hash_entry,
    hash_entry_size, hash_key_at, hash_level, hash_outside, hash_root, hash_value_at, value_node,
)
from structures.mapping cimport MISSING, pair, told
from structures.shared cimport directory_get, directory_set, value_bytes

cdef enum:
    HEADER_AT = BUCKET_FIRST - 8           # changed when an entry is added or removed
    FULL_ENOUGH = BUCKET_ROOM * 2 // 3     # bytes of entries per bucket: above it the table grows
    EMPTY_ENOUGH = BUCKET_ROOM // 6        # below it, it shrinks
    ENTRY_MAX = 272                        # bytes: sizes, key and value inside
    SPLITTING = 1500                       # bytes that a split changes in root and directory
    MERGING = 700                          # the same of a merge


cdef const hash_bucket *bucket_read(instance *s, uint64_t address, uint32_t index) noexcept nogil:
    cdef const hash_bucket *bucket = <const hash_bucket *> node_read(s, address, BUCKET_BYTES, TYPE_BUCKET)
    if bucket == NULL:
        return NULL
    if bucket.end < BUCKET_FIRST or bucket.end > BUCKET_BYTES or bucket.end & 7 or bucket.index != index:
        s.error = fault(s, address, b"a bucket has an invalid end, or is another bucket")
        return NULL
    return bucket


cdef const hash_entry *entry_at(instance *s, const hash_bucket *bucket, uint64_t address, uint32_t at) noexcept nogil:
    cdef const hash_entry *entry = <const hash_entry *> (<const char *> bucket + at)
    cdef uint32_t size = hash_entry_size(entry.sizes)
    if size < sizeof(hash_entry) or size & 7 or size > bucket.end - at:
        s.error = fault(s, address, b"an entry extends beyond its bucket")
        return NULL
    return entry


cdef int same_key(instance *s, const hash_entry *entry, const char *key, uint32_t length) noexcept nogil:
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


cdef int locate(instance *s, const hash_root *root, const char *key, uint32_t length, place *p) noexcept nogil:
    cdef uint32_t hash, index, links = 0
    cdef uint64_t address
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef int same
    if not root.buckets:
        return MISSING
    hash = hash_of(root, key, length)
    index = hash_bucket_of(hash, root.buckets)
    address = directory_get(s, root.directory, root.depth, index)
    p.previous = 0
    if not address:
        return s.error
    while address:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        p.at = BUCKET_FIRST
        while p.at < bucket.end:
            entry = entry_at(s, bucket, address, p.at)
            if entry == NULL:
                return s.error
            if entry.hash == hash:
                same = same_key(s, entry, key, length)
                if same < 0:
                    return same
                if same:
                    p.address = address
                    p.entry = entry
                    return OK
            p.at += hash_entry_size(entry.sizes)
        links += 1
        if links > CHAIN_MAX:
            return fault(s, address, b"the chain of a bucket has a cycle")
        p.previous = address
        address = bucket.next
    return MISSING


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


cdef int answer_item(instance *s, const hash_entry *entry, bint value, bint outside) noexcept nogil:
    cdef const char *there = NULL
    cdef const char *key
    cdef told header
    cdef bint inside = HASH_INSIDE(entry.sizes)
    header.sizes = entry.sizes
    header.bytes = VALUE_OF(entry.sizes) if value and (inside or outside) else 0
    if not HASH_SHORT_KEY(entry.sizes) or (header.bytes and not inside):
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
    if answer_put(s, &header, sizeof(header)) != OK or answer_put(s, key, KEY_OF(entry.sizes)) != OK:
        return s.error
    return answer_put(s, there, header.bytes) if header.bytes else OK


# Changes


cdef int entry_remove(instance *s, uint32_t index, const place *p) noexcept nogil:
    cdef hash_bucket *bucket = <hash_bucket *> node_change(s, p.address, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, 8)
    cdef hash_bucket *previous
    cdef hash_entry *entry
    cdef uint32_t size
    cdef uint64_t next
    if bucket == NULL or node_change(s, p.address, BUCKET_BYTES, TYPE_BUCKET, p.at, sizeof(hash_entry)) == NULL:
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
    previous = <hash_bucket *> node_change(s, p.previous, BUCKET_BYTES, TYPE_BUCKET, RNVM_NODE, 8)
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


cdef int entry_make(instance *s, uint32_t index, uint64_t address, const hash_bucket *seen, uint32_t size) noexcept nogil:
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
                bucket = <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, 8)
                rest_size = 8 if hole > size else 0
                if bucket == NULL or node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, at, size + rest_size) == NULL:
                    return s.error
                if hole > size:
                    rest = <hash_entry *> (<char *> bucket + at + size)
                    rest.hash = 0
                    rest.sizes = SIZES(0, hole - size)
                bucket.holes -= size
                return at
            at += hole
    if end + size <= BUCKET_BYTES:
        bucket = <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, 8)
        if bucket == NULL or node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, end, size) == NULL:
            return s.error
    else:
        bucket = <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, BUCKET_BYTES - HEADER_AT)
        if bucket == NULL:
            return s.error
        end = compact(bucket)
    bucket.end = end + size
    return end


cdef int entry_insert(instance *s, const hash_root *root, uint32_t hash, const pair *p, uint32_t sizes) noexcept nogil:
    cdef uint32_t index = hash_bucket_of(hash, root.buckets), size = hash_entry_size(sizes), outside = hash_outside(sizes)
    cdef uint32_t links = 0
    cdef uint64_t address = directory_get(s, root.directory, root.depth, index), previous = 0, node = 0
    cdef const hash_bucket *seen = NULL
    cdef hash_bucket *bucket
    cdef hash_entry *entry
    cdef value_node *own
    cdef char *bytes
    cdef int at = BUCKET_FIRST
    if not address:
        return s.error
    if not HASH_INSIDE(sizes):
        own = <value_node *> node_new(s, VALUE_NODE(outside), TYPE_VALUE, &node)
        if own == NULL:
            return s.error
        bytes = own.bytes
        if not HASH_SHORT_KEY(sizes):
            memcpy(bytes, p.key, p.key_length)
        memcpy(bytes + outside - p.value_length, p.value, p.value_length)
    while address:
        seen = bucket_read(s, address, index)
        if seen == NULL:
            return s.error
        if BUCKET_BYTES - seen.end + seen.holes >= size:
            break
        links += 1
        if links > CHAIN_MAX:
            return fault(s, address, b"the chain of a bucket has a cycle")
        previous = address
        address = seen.next
    if address:
        at = entry_make(s, index, address, seen, size)
        if at < 0:
            return at
        bucket = <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, <uint32_t> at, size)
        if bucket == NULL:
            return s.error
    else:
        bucket = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, &address)
        if bucket == NULL:
            return s.error
        bucket.index = index
        bucket.end = BUCKET_FIRST + size
        seen = <const hash_bucket *> node_change(s, previous, BUCKET_BYTES, TYPE_BUCKET, RNVM_NODE, 8)
        if seen == NULL:
            return s.error
        (<hash_bucket *> seen).next = address
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


cdef int entry_replace(instance *s, const place *where, const hash_entry *entry, const pair *p, uint32_t sizes) noexcept nogil:
    cdef uint32_t size = hash_entry_size(sizes), at = hash_value_at(sizes), old = entry.sizes, outside = hash_outside(sizes)
    cdef uint32_t skip
    cdef uint64_t node
    cdef char *bucket
    cdef value_node *own
    if HASH_INSIDE(old) and HASH_INSIDE(sizes) and hash_entry_size(old) == size:
        skip = at if old == sizes else 0
        bucket = node_change(s, where.address, BUCKET_BYTES, TYPE_BUCKET, where.at + skip, size - skip)
        if bucket == NULL:
            return s.error
        (<hash_entry *> (bucket + where.at)).sizes = sizes
        memset(bucket + where.at + at, 0, size - at)
        memcpy(bucket + where.at + at, p.value, p.value_length)
        return OK
    if HASH_INSIDE(old) or HASH_INSIDE(sizes) or UP8(hash_outside(old)) != UP8(outside):
        return MISSING
    node = node_of(entry)
    own = <value_node *> node_change(s, node, VALUE_NODE(outside), TYPE_VALUE, RNVM_NODE, UP8(outside))
    if own == NULL:
        return s.error
    at = outside - p.value_length          # behind the key, if that is outside too: it stays
    memset(<char *> own.bytes + at, 0, UP8(outside) - at)
    memcpy(<char *> own.bytes + at, p.value, p.value_length)
    if old != sizes:
        bucket = node_change(s, where.address, BUCKET_BYTES, TYPE_BUCKET, where.at, sizeof(hash_entry))
        if bucket == NULL:
            return s.error
        (<hash_entry *> (bucket + where.at)).sizes = sizes
    return OK


# The number of buckets


cdef struct chain:             # under construction
    uint64_t first
    hash_bucket *last
    uint32_t index

cdef int chain_begin(instance *s, chain *c, uint32_t index) noexcept nogil:
    c.index = index
    c.last = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, &c.first)
    if c.last == NULL:
        return s.error
    c.last.index = index
    c.last.end = BUCKET_FIRST
    return OK

cdef int chain_add(instance *s, chain *c, const hash_entry *entry) noexcept nogil:
    cdef uint32_t size = hash_entry_size(entry.sizes)
    cdef hash_bucket *last = c.last
    if last.end + size > BUCKET_BYTES:
        c.last = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, &last.next)
        if c.last == NULL:
            return s.error
        c.last.index = c.index
        c.last.end = BUCKET_FIRST
        last = c.last
    memcpy(<char *> last + last.end, entry, size)
    last.end += size
    return OK

cdef int distribute(instance *s, const hash_root *root, uint32_t index, chain *low, chain *high, uint32_t bit) noexcept nogil:
    """Move the entries of a bucket into new chains, and free its own nodes.

    Entries whose hash has this bit go to high.
    """
    cdef uint64_t address = directory_get(s, root.directory, root.depth, index), next
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint32_t at, links = 0
    if not address:
        return s.error
    while address:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        at = BUCKET_FIRST
        while at < bucket.end:
            entry = entry_at(s, bucket, address, at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes) and chain_add(s, high if entry.hash & bit else low, entry) != OK:
                return s.error
            at += hash_entry_size(entry.sizes)
        links += 1
        if links > CHAIN_MAX:
            return fault(s, address, b"the chain of a bucket has a cycle")
        next = bucket.next
        if node_free(s, address, BUCKET_BYTES) != OK:
            return s.error
        address = next
    return OK


cdef int chain_measure(instance *s, const hash_root *root, uint32_t index, uint32_t *nodes, uint64_t *bytes) noexcept nogil:
    """Add the number of its nodes, and the bytes of its entries."""
    cdef uint64_t address = directory_get(s, root.directory, root.depth, index)
    cdef const hash_bucket *bucket
    cdef uint32_t links = 0
    if not address:
        return s.error
    while address:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        if bucket.holes > bucket.end - BUCKET_FIRST:
            return fault(s, address, b"a bucket's holes do not match its header")
        bytes[0] += bucket.end - BUCKET_FIRST - bucket.holes
        nodes[0] += 1
        links += 1
        if links > CHAIN_MAX:
            return fault(s, address, b"the chain of a bucket has a cycle")
        address = bucket.next
    return OK


cdef uint64_t split_cost(instance *s, uint32_t nodes, uint64_t bytes) noexcept nogil:
    """Return the maximum bytes that the split of a chain changes."""
    cdef uint64_t made = bytes // (BUCKET_ROOM - ENTRY_MAX) + 2
    return SPLITTING + made * (BUCKET_BYTES + 32) + (made + nodes) * node_cost(s, BUCKET_BYTES)


cdef bint buckets_short(const hash_root *root) noexcept nogil:
    return root.bytes > <uint64_t> root.buckets * FULL_ENOUGH


cdef bint buckets_idle(const hash_root *root) noexcept nogil:
    return root.buckets > 1 and root.bytes < <uint64_t> root.buckets * EMPTY_ENOUGH


cdef int buckets_grow(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil:
    cdef uint32_t whole = <uint32_t> 1 << hash_level(root.buckets), added = root.buckets, split = root.buckets - whole, nodes = 0
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
    if chain_begin(s, &low, split) != OK or chain_begin(s, &high, added) != OK:
        return s.error
    if distribute(s, root, split, &low, &high, whole) != OK:
        return s.error
    if directory_set(s, &root.directory, &root.depth, split, low.first) != OK:
        return s.error
    root.buckets += 1
    return directory_set(s, &root.directory, &root.depth, added, high.first)


cdef int move_entries(instance *s, uint64_t source, uint64_t target, uint32_t index) noexcept nogil:
    """Append the entries of a node to another one, which has room for them, and free it."""
    cdef const hash_bucket *node = <const hash_bucket *> node_read(s, source, BUCKET_BYTES, TYPE_BUCKET)
    cdef const hash_bucket *seen = bucket_read(s, target, index)
    cdef hash_bucket *into
    cdef const hash_entry *entry
    cdef uint32_t at = BUCKET_FIRST, size, live
    if node == NULL or seen == NULL:
        return s.error
    live = node.end - BUCKET_FIRST - node.holes
    if live:
        if live > BUCKET_BYTES - seen.end:
            into = <hash_bucket *> node_change(s, target, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, BUCKET_BYTES - HEADER_AT)
            if into == NULL:
                return s.error
            compact(into)
        else:
            into = <hash_bucket *> node_change(s, target, BUCKET_BYTES, TYPE_BUCKET, HEADER_AT, 8)
            if into == NULL or node_change(s, target, BUCKET_BYTES, TYPE_BUCKET, seen.end, live) == NULL:
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
    cdef uint32_t last = root.buckets - 1, into = hash_bucket_of(last, last), nodes = 0, moved = 0, live
    cdef uint64_t bytes = 0, address, next, tail
    cdef const hash_bucket *bucket
    cdef const hash_bucket *end
    cdef hash_bucket *changed
    done[0] = False
    if chain_measure(s, root, last, &moved, &bytes) != OK or chain_measure(s, root, into, &nodes, &bytes) != OK:
        return s.error
    # Never create a chain that could not be split again.
    if not room_for(s, split_cost(s, nodes + moved, bytes)) or not room_for(
            s, beside + MERGING + (moved + 1) * (2 * BUCKET_BYTES + node_cost(s, BUCKET_BYTES))):
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
            changed = <hash_bucket *> node_change(s, address, BUCKET_BYTES, TYPE_BUCKET, RNVM_NODE, 16)
            if changed == NULL:
                return s.error
            changed.next = 0
            changed.index = into
            changed = <hash_bucket *> node_change(s, tail, BUCKET_BYTES, TYPE_BUCKET, RNVM_NODE, 8)
            if changed == NULL:
                return s.error
            changed.next = address
            tail = address
        address = next
    root.buckets = last
    return directory_set(s, &root.directory, &root.depth, last, 0)

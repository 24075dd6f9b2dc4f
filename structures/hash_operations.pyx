"""Put, remove, pop and clear: the operations of a hash table; find and iterate: its queries."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_cost, node_free, node_new, record_room, root_change,
)
from structures.directory cimport directory_get, directory_set
from structures.hash_buckets cimport (
    answer_item, answer_value, bucket_read, buckets_grow, buckets_idle, buckets_short,
    buckets_shrink, chain_begin, chain_next, chain_scan, entry_at, entry_insert, entry_remove,
    entry_replace, entry_value, hash_of, locate, node_of, place, root_of,
)
from structures.layout cimport (
    BUCKET_BYTES, BUCKET_FIRST, HASH_INSIDE, KEY_OF, SIZES, TYPE_BUCKET, VALUE_NODE, VALUE_OF,
    hash_bits, hash_bucket, hash_bucket_of, hash_entry, hash_entry_size, hash_outside,
    hash_reversed, hash_root,
)
from structures.mapping_operations cimport (
    CLEARED_BYTES_MAX, DELETE, FOUND, MISSING, MORE, answer_removed, lookup, mapping_apply, pair,
)
from structures.values cimport value_free

# Maximum bytes that operations change, without nodes allocated or freed; the other parts of the
# operation must fit beside them.
cdef enum:
    PUT_BYTES = 4500
    HASH_REMOVE_BYTES = 1200
    HASH_STEP_BYTES = 2500     # of a step of clear() or popitem()
    HASH_DROP_BYTES = 200      # an entry or a bucket, without its node

cdef enum:
    # maximum bytes that one merge changes, without those of the last buckets' nodes
    REMOVE_MERGE_BYTES = 9000
    SHRINKS_MAX = 2            # merges per removal: if some were left for later, several are due


cdef inline hash_root *change_root(instance *s) noexcept nogil:
    return <hash_root *> root_change(s, RNVM_NODE, sizeof(hash_root) - RNVM_NODE)


# Operations


cdef int grow(instance *s, uint64_t beside) noexcept nogil:
    """Add one bucket, if that is due.

    Return OK, or MORE: no room beside the operation's other changes.
    """
    cdef const hash_root *root = root_of(s)
    cdef hash_root *changed
    cdef bint done = False
    if root == NULL:
        return s.error
    if not buckets_short(root):
        return OK
    changed = change_root(s)
    if changed == NULL or buckets_grow(s, changed, beside, &done) != OK:
        return s.error
    return OK if done else MORE


cdef int put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef hash_root *changed
    cdef hash_bucket *bucket
    cdef const hash_entry *entry
    cdef place where
    cdef uint64_t address, node
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length), old = 0, before = 0, hash
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.buckets:
        changed = change_root(s)
        bucket = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, &address)
        if changed == NULL or bucket == NULL:
            return s.error
        bucket.end = BUCKET_FIRST
        if not changed.seed:
            changed.seed = <uint64_t> 1 << 32 | p.salt
        changed.buckets = 1
        if directory_set(s, &changed.directory, &changed.depth, 0, address) != OK:
            return s.error
        root = changed
    hash = hash_of(root, p.key, p.key_length)
    outcome = locate(s, root, p.key, p.key_length, &where)
    if outcome < 0:
        return outcome
    if outcome == OK:
        entry = where.entry
        if keep:
            outcome = answer_value(s, entry)
            return FOUND if outcome == OK else outcome
        outcome = entry_replace(s, &where, entry, p, sizes)
        if outcome != MISSING:
            return outcome
        old = entry.sizes
        before = hash_entry_size(old)
        node = node_of(entry)
        if entry_remove(s, hash_bucket_of(hash, root.buckets), &where) != OK:
            return s.error
        if node and value_free(s, node, hash_outside(old)) != OK:
            return s.error
    if entry_insert(s, root, hash, p, sizes) != OK:
        return s.error
    if before == hash_entry_size(sizes):
        return OK
    changed = <hash_root *> root_change(s, RNVM_NODE, 16)
    if changed == NULL:
        return s.error
    changed.count += before == 0
    changed.bytes += <uint64_t> hash_entry_size(sizes) - before
    return grow(s, PUT_BYTES + hash_outside(sizes) + 4 * node_cost(s, BUCKET_BYTES)
                + 2 * node_cost(s, VALUE_NODE(0)))


cdef int remove_at(instance *s, const hash_root *root, uint32_t index, const place *where,
                   uint64_t beside) noexcept nogil:
    """Remove the entry at this place.  beside: bytes that the operation has changed before."""
    cdef hash_root *changed
    cdef uint32_t sizes = where.entry.sizes, shrinks = 0
    cdef uint64_t node = node_of(where.entry)
    cdef bint done = True
    if entry_remove(s, index, where) != OK:
        return s.error
    if node and value_free(s, node, hash_outside(sizes)) != OK:
        return s.error
    changed = <hash_root *> root_change(s, RNVM_NODE, 16)
    if changed == NULL:
        return s.error
    changed.count -= 1
    changed.bytes -= hash_entry_size(sizes)
    beside += HASH_REMOVE_BYTES + node_cost(s, BUCKET_BYTES)
    beside += node_cost(s, VALUE_NODE(hash_outside(sizes)))
    while done and shrinks < SHRINKS_MAX and buckets_idle(changed):
        # Shrinking is not part of the request: a step that does not fit is left for later.
        changed = change_root(s)
        if changed == NULL or buckets_shrink(s, changed, beside, &done) != OK:
            return s.error
        beside += REMOVE_MERGE_BYTES
        shrinks += 1
    return OK


cdef int remove(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef const char *value = NULL
    cdef uint32_t index
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = locate(s, root, p.key, p.key_length, &where)
    if outcome != OK:
        return outcome
    if code != DELETE and entry_value(s, where.entry, &value) != OK:
        return s.error
    outcome = answer_removed(s, p, code, value, VALUE_OF(where.entry.sizes))
    if outcome != OK:
        return outcome
    index = hash_bucket_of(hash_of(root, p.key, p.key_length), root.buckets)
    return remove_at(s, root, index, &where, 0)


cdef int last_item(instance *s, const hash_root *root, uint32_t last,
                   place *where) noexcept nogil:
    """Find the first entry in a bucket: OK, or MISSING with `where` at the end of its chain."""
    cdef chain_scan c
    cdef const hash_entry *entry
    cdef int outcome = chain_begin(s, root, last, &c)
    while outcome == OK:
        while c.at < c.bucket.end:
            entry = entry_at(s, c.bucket, c.address, c.at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes):
                where.address = c.address
                where.previous = c.previous
                where.at = c.at
                where.entry = entry
                return OK
            c.at += hash_entry_size(entry.sizes)
        outcome = chain_next(s, &c)
    where.address = c.address
    where.previous = c.previous
    return outcome


cdef int pop_any(instance *s) noexcept nogil:
    """Pop an item of the last bucket.

    An empty last bucket is removed: its keys now belong to the bucket that it was split from.
    """
    cdef hash_root *root = <hash_root *> root_of(s)
    cdef place where
    cdef uint64_t spent = HASH_STEP_BYTES, each = HASH_DROP_BYTES + node_cost(s, BUCKET_BYTES)
    cdef uint32_t last
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.count:
        return MISSING
    while True:
        last = root.buckets - 1
        outcome = last_item(s, root, last, &where)
        if outcome < OK:
            return outcome
        if outcome == OK:
            if answer_item(s, where.entry, True, True) != OK:
                return s.error
            return remove_at(s, root, last, &where, spent)
        if last == 0 or where.previous:
            return fault(s, where.address, b"the table's key count exceeds the keys found")
        if spent > HASH_STEP_BYTES and spent + each > record_room(s):
            return MORE
        spent += each
        root = change_root(s)
        if root == NULL or node_free(s, where.address, BUCKET_BYTES) != OK:
            return s.error
        root.buckets = last
        if directory_set(s, &root.directory, &root.depth, last, 0) != OK:
            return s.error


cdef int clear_node(instance *s, uint32_t index, uint64_t address, uint64_t *spent,
                    uint64_t most) noexcept nogil:
    """Free the nodes of a node's entries, and leave holes there.

    Return OK, or MORE: no room for the rest.
    """
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef hash_root *root
    cdef place where
    cdef uint64_t cost
    cdef uint32_t sizes
    where.previous = 0
    where.address = address
    where.at = BUCKET_FIRST
    while True:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        if where.at >= bucket.end:
            return OK
        entry = entry_at(s, bucket, address, where.at)
        if entry == NULL:
            return s.error
        sizes = entry.sizes
        where.entry = entry
        if not KEY_OF(sizes) or HASH_INSIDE(sizes):
            where.at += hash_entry_size(sizes)
            continue
        cost = HASH_DROP_BYTES + node_cost(s, VALUE_NODE(hash_outside(sizes)))
        if spent[0] > HASH_STEP_BYTES and spent[0] + cost > most:
            return MORE
        spent[0] += cost
        if value_free(s, node_of(entry), hash_outside(sizes)) != OK:
            return s.error
        if entry_remove(s, index, &where) != OK:
            return s.error
        root = change_root(s)
        if root == NULL:
            return s.error
        root.count -= 1
        root.bytes -= hash_entry_size(sizes)


cdef int clear(instance *s) noexcept nogil:
    """Remove the last buckets, with their content, while the log has room; return OK, or MORE."""
    cdef hash_root *root = <hash_root *> root_of(s)
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint64_t most = min(record_room(s), <uint64_t> CLEARED_BYTES_MAX)
    cdef uint64_t cost = HASH_DROP_BYTES + node_cost(s, BUCKET_BYTES), spent = HASH_STEP_BYTES
    cdef uint64_t address, next
    cdef uint32_t at, last
    cdef int outcome
    if root == NULL:
        return s.error
    while root.buckets:
        if spent > HASH_STEP_BYTES and spent + cost > most:
            return MORE
        last = root.buckets - 1
        address = directory_get(s, root.directory, root.depth, last)
        if not address:
            return s.error
        outcome = clear_node(s, last, address, &spent, most)
        if outcome != OK:
            return outcome
        if spent > HASH_STEP_BYTES and spent + cost > most:
            return MORE
        spent += cost
        bucket = bucket_read(s, address, last)
        root = change_root(s)
        if bucket == NULL or root == NULL:
            return s.error
        at = BUCKET_FIRST
        while at < bucket.end:
            entry = entry_at(s, bucket, address, at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes):
                root.count -= 1
                root.bytes -= hash_entry_size(entry.sizes)
            at += hash_entry_size(entry.sizes)
        next = bucket.next
        if node_free(s, address, BUCKET_BYTES) != OK:
            return s.error
        if not next:
            root.buckets = last
        if directory_set(s, &root.directory, &root.depth, last, next) != OK:
            return s.error
    return OK


cdef int hash_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    if code == GROW and length == 0:
        return grow(s, 0)
    return mapping_apply(s, code, bytes, length, put, remove, pop_any, clear)


# Queries


cdef int hash_find(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = locate(s, root, wanted.key, wanted.length, &where)
    if outcome != OK or not wanted.answer:
        return outcome
    return answer_value(s, where.entry)


cdef int hash_find_any(instance *s, void *context) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef uint32_t last
    cdef int outcome = MISSING
    if root == NULL:
        return s.error
    last = root.buckets if root.count else 0
    while last and outcome == MISSING:
        last -= 1
        outcome = last_item(s, root, last, &where)
    return answer_item(s, where.entry, True, True) if outcome == OK else outcome


cdef int read_bucket(instance *s, void *context) noexcept nogil:
    cdef cursor *c = <cursor *> context
    cdef const hash_root *root = root_of(s)
    cdef const hash_entry *entry
    cdef chain_scan scan
    cdef uint32_t index
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.buckets:
        return MISSING
    index = hash_bucket_of(hash_reversed(<uint32_t> c.next), root.buckets)
    c.then = hash_reversed(index) + (<uint64_t> 1 << (32 - hash_bits(index, root.buckets)))
    outcome = chain_begin(s, root, index, &scan)
    while outcome == OK:
        while scan.at < scan.bucket.end:
            entry = entry_at(s, scan.bucket, scan.address, scan.at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes) and hash_reversed(entry.hash) >= c.next:
                if answer_item(s, entry, c.values, False) != OK:
                    return s.error
            scan.at += hash_entry_size(entry.sizes)
        outcome = chain_next(s, &scan)
    return OK if outcome == MISSING else outcome

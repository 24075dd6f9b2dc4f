"""Walk all nodes of a hash table; check that each key is in its bucket, and there once."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.directory cimport directory_walk
from structures.hash_buckets cimport (
    chain_begin, chain_next, chain_scan, entry_at, hash_of, locate, node_of, place, root_of,
)
from structures.key_partition cimport key_is_misplaced
from structures.layout cimport (
    BUCKET_BYTES, BUCKET_FIRST, HASH_INSIDE, HASH_SHORT_KEY, KEY_OF, VALUE_NODE, hash_bucket_of,
    hash_entry, hash_entry_size, hash_key_at, hash_outside, hash_root,
)
from structures.mapping_operations cimport MISSING
from structures.values cimport value_bytes


cdef int walk_entry(instance *s, const hash_root *root, const chain_scan *c,
                    const hash_entry *entry, visitor visit, void *context) noexcept nogil:
    cdef const char *own = NULL
    cdef const char *key = <const char *> entry + hash_key_at(entry.sizes)
    cdef place first
    cdef int outcome
    if not HASH_INSIDE(entry.sizes):
        own = value_bytes(s, node_of(entry), hash_outside(entry.sizes))
        if own == NULL:
            return s.error
        outcome = visit(context, node_of(entry), VALUE_NODE(hash_outside(entry.sizes)))
        if outcome != OK:
            return outcome
        if not HASH_SHORT_KEY(entry.sizes):
            key = own
    if (hash_of(root, key, KEY_OF(entry.sizes)) != entry.hash
            or hash_bucket_of(entry.hash, root.buckets) != c.index):
        return fault(s, c.address, b"an entry is in the wrong bucket for its key")
    if key_is_misplaced(s, key, KEY_OF(entry.sizes)):
        return fault(s, c.address, b"a key is in the wrong partition")
    outcome = locate(s, root, key, KEY_OF(entry.sizes), &first)
    if outcome < 0:
        return outcome
    if outcome == MISSING or first.address != c.address or first.at != c.at:
        return fault(s, c.address, b"a key is in the table twice")
    return OK


cdef int walk_bucket(instance *s, const hash_root *root, uint32_t index, uint64_t *count,
                     uint64_t *bytes, visitor visit, void *context) noexcept nogil:
    """Walk the nodes of one bucket; add its keys and their bytes."""
    cdef chain_scan c
    cdef const hash_entry *entry
    cdef uint32_t size, holes
    cdef int outcome = chain_begin(s, root, index, &c)
    while outcome == OK:
        if c.links and c.bucket.end == BUCKET_FIRST:
            return fault(s, c.address, b"a node in the chain of a bucket is empty")
        holes = 0
        while c.at < c.bucket.end:
            entry = entry_at(s, c.bucket, c.address, c.at)
            if entry == NULL:
                return s.error
            size = hash_entry_size(entry.sizes)
            if not KEY_OF(entry.sizes):
                holes += size
            else:
                count[0] += 1
                bytes[0] += size
                outcome = walk_entry(s, root, &c, entry, visit, context)
                if outcome != OK:
                    return outcome
            c.at += size
        if holes != c.bucket.holes:
            return fault(s, c.address, b"a bucket's holes do not match its header")
        outcome = visit(context, c.address, BUCKET_BYTES)
        if outcome != OK:
            return outcome
        outcome = chain_next(s, &c)
    return OK if outcome == MISSING else outcome


cdef int hash_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef uint64_t count = 0, bytes = 0
    cdef uint32_t index, buckets
    cdef int outcome
    if root == NULL:
        return s.error
    buckets = root.buckets
    if root.depth and not root.directory:
        return fault(s, 0, b"the table has no directory")
    outcome = directory_walk(s, root.directory, root.depth, visit, context)
    if outcome != OK:
        return outcome
    for index in range(buckets):
        nodes_release(s)
        root = root_of(s)
        if root == NULL:
            return s.error
        outcome = walk_bucket(s, root, index, &count, &bytes, visit, context)
        if outcome != OK:
            return outcome
    root = root_of(s)
    if root == NULL:
        return s.error
    if count != root.count or bytes != root.bytes:
        return fault(s, s.root, b"the table's key count does not match the keys found")
    return OK

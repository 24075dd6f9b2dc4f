# The buckets of a hash table, by linear hashing: a bucket is a chain of nodes with entries.
#
#   root.directory --> | 0 | 1 | 2 | 3 | 4 | 5 |       6 buckets: level 2, two of four are split
#                            |                         buckets 0, 1, 4, 5: 3 bits of the hash
#                            v                         buckets 2, 3: 2 bits
#                +--------+-------+------+-------+------+
#         node   | header | entry | hole | entry | room |
#                +--------+-------+------+-------+------+
#                     | next                     ^ end
#                     v
#                +--------+-------+------+
#         node   | header | entry | room |
#                +--------+-------+------+
#
#   entry:  hash (4), sizes (4), [address of its node], [short key], [short value]
#
#   grow: bucket 2 is the next to split; hash bit 2 decides between bucket 2 and the new bucket 6
#   shrink: the last bucket is merged into the one that it was split from

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_hash
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, root_read
from structures.directory cimport directory_get
from structures.layout cimport BUCKET_FIRST, HASH_INSIDE, hash_bucket, hash_entry, hash_root
from structures.mapping_operations cimport MISSING, pair

cdef enum:
    CHAIN_NODES_MAX = 65536    # a longer chain is circular

cdef struct place:             # the place of a key
    uint64_t address           # of the bucket's node
    uint64_t previous          # the previous node in the chain, or 0
    uint32_t at                # offset of its entry there
    const hash_entry *entry

cdef struct chain_scan:        # through the nodes of one bucket
    uint64_t address           # of the present node
    uint64_t previous          # the node before it, or 0
    const hash_bucket *bucket  # the present node
    uint32_t index             # of the bucket
    uint32_t links             # nodes before the present one
    uint32_t at                # offset of the entry to examine next


cdef inline const hash_root *root_of(instance *s) noexcept nogil:
    return <const hash_root *> root_read(s)

cdef inline uint32_t hash_of(const hash_root *root, const char *key,
                             uint32_t length) noexcept nogil:
    return <uint32_t> rfp_hash(key, length, root.seed)

cdef inline uint64_t node_of(const hash_entry *entry) noexcept nogil:
    """Return the address of the node with the parts that are not in the bucket, or 0."""
    return 0 if HASH_INSIDE(entry.sizes) else (<const uint64_t *> (entry + 1))[0]


cdef const hash_bucket *bucket_read(instance *s, uint64_t address, uint32_t index) noexcept nogil
# Returns the entry at this offset, its bounds checked; `at` is below bucket.end.
cdef const hash_entry *entry_at(instance *s, const hash_bucket *bucket, uint64_t address,
                                uint32_t at) noexcept nogil


cdef inline int chain_read(instance *s, chain_scan *c) noexcept nogil:
    """Read the node at c.address, and begin at its first entry."""
    c.bucket = bucket_read(s, c.address, c.index)
    c.at = BUCKET_FIRST
    return s.error if c.bucket == NULL else OK

cdef inline int chain_begin(instance *s, const hash_root *root, uint32_t index,
                            chain_scan *c) noexcept nogil:
    """Begin a scan of a bucket that exists; return OK at its first node."""
    c.index = index
    c.links = 0
    c.previous = 0
    c.address = directory_get(s, root.directory, root.depth, index)
    return chain_read(s, c) if c.address else s.error

cdef inline int chain_next(instance *s, chain_scan *c) noexcept nogil:
    """Step to the next node: OK; MISSING after the last one, where the scan stays."""
    c.links += 1
    if c.links > CHAIN_NODES_MAX:
        return fault(s, c.address, b"the chain of a bucket has a cycle")
    if not c.bucket.next:
        return MISSING
    c.previous = c.address
    c.address = c.bucket.next
    return chain_read(s, c)


# Returns OK and the key's place; or MISSING.
cdef int locate(instance *s, const hash_root *root, const char *key, uint32_t length,
                place *p) noexcept nogil
cdef int answer_value(instance *s, const hash_entry *entry) noexcept nogil
# Answers with an item.  value: with its value; outside: even if it has a node of its own.
cdef int answer_item(instance *s, const hash_entry *entry, bint value,
                     bint outside) noexcept nogil
# In apply, as the functions below.  Leaves a hole; frees a node of the chain that is empty then,
# unless it is the first.  Does not free the entry's own node.
cdef int entry_remove(instance *s, uint32_t index, const place *p) noexcept nogil
# Inserts a pair that is not there into its bucket.
cdef int entry_insert(instance *s, const hash_root *root, uint32_t hash, const pair *p,
                      uint32_t sizes) noexcept nogil
# Overwrites the value of a key if the new one takes the same room: OK; else MISSING, and nothing
# has changed.
cdef int entry_replace(instance *s, const place *where, const hash_entry *entry, const pair *p,
                       uint32_t sizes) noexcept nogil
# Points `bytes` to the value, in the entry or in its node.
cdef int entry_value(instance *s, const hash_entry *entry, const char **bytes) noexcept nogil
# Returns whether the table has too few or too many buckets for its entries.
cdef bint buckets_short(const hash_root *root) noexcept nogil
cdef bint buckets_idle(const hash_root *root) noexcept nogil
# Splits the next bucket, or merges the last one back, if that fits into the log beside the other
# changes of the operation (bytes); otherwise that is left for later: no lookup needs it.  Returns
# OK and whether it was done.
cdef int buckets_grow(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil
cdef int buckets_shrink(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil

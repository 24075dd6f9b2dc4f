# The buckets of a hash table: chains of nodes with entries, by linear hashing.

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_hash
from rnvm.frontend.state cimport instance
from structures.layout cimport HASH_INSIDE, hash_bucket, hash_entry, hash_root
from structures.mapping cimport pair

cdef enum:
    CHAIN_MAX = 65536          # nodes: a chain that is longer runs in a circle

cdef struct place:             # where a key stands
    uint64_t address           # of the bucket's node
    uint64_t previous          # the node before it in the chain, or 0
    uint32_t at                # offset of its entry there
    const hash_entry *entry


cdef inline uint32_t hash_of(const hash_root *root, const char *key, uint32_t length) noexcept nogil:
    return <uint32_t> rfp_hash(key, length, root.seed)

cdef inline uint64_t node_of(const hash_entry *entry) noexcept nogil:
    """The address of what does not stand in the bucket, or 0."""
    return 0 if HASH_INSIDE(entry.sizes) else (<const uint64_t *> (entry + 1))[0]


cdef const hash_bucket *bucket_read(instance *s, uint64_t address, uint32_t index) noexcept nogil
# The entry there, its bounds checked; at is below bucket.end.
cdef const hash_entry *entry_at(instance *s, const hash_bucket *bucket, uint64_t address, uint32_t at) noexcept nogil
# OK and its place; or MISSING.
cdef int locate(instance *s, const hash_root *root, const char *key, uint32_t length, place *p) noexcept nogil
cdef int answer_value(instance *s, const hash_entry *entry) noexcept nogil
# As `told`.  value: with it; outside: also if it has a node of its own.
cdef int answer_item(instance *s, const hash_entry *entry, bint value, bint outside) noexcept nogil
# The rest in apply.  Leaves a hole; a node of the chain that is empty then is freed, unless it is the first.  What stands outside
# stays.
cdef int entry_remove(instance *s, uint32_t index, const place *p) noexcept nogil
# Puts a pair that is not there into its bucket.
cdef int entry_insert(instance *s, const hash_root *root, uint32_t hash, const pair *p, uint32_t sizes) noexcept nogil
# Writes another value over that of a key, if it takes the same room: OK; else MISSING, and nothing has changed.
cdef int entry_replace(instance *s, const place *where, const hash_entry *entry, const pair *p, uint32_t sizes) noexcept nogil
# What stands in the entry's node or not, `bytes` points to its value.
cdef int entry_value(instance *s, const hash_entry *entry, const char **bytes) noexcept nogil
# Whether the table has too few or too many buckets for its entries.
cdef bint buckets_short(const hash_root *root) noexcept nogil
cdef bint buckets_idle(const hash_root *root) noexcept nogil
# Splits the bucket whose turn it is, or takes the last split back, if it fits into the log beside what the operation changes
# otherwise (bytes); else that is left for later: no lookup needs it.  OK and whether it was done.
cdef int buckets_grow(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil
cdef int buckets_shrink(instance *s, hash_root *root, uint64_t beside, bint *done) noexcept nogil

# The index of a partition: linear hashing over buckets of one cache line (layout.h).
#
# index.pyx draws a bucket, a chain, and a split.  The table grows by one bucket at a time, so no
# request ever pays for a rehash.  It grows down from the end of the region and moves the records
# that are in its way.  A full bucket chains overflow lines, which are blocks of the arena.  Chains
# are dense: only the last line has empty slots, and an overflow line holds at least two records.  A
# fixed table (strict LRU in each bucket) neither grows nor chains, and its first slot is the latest
# used.

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_fence_release, rfp_hash, rfp_prefetch, rfp_store64
from rfp.core.system cimport __builtin_ctz
from rfp.store.layout cimport (
    KV_LINE, KV_REARRANGEMENTS, KV_SLOTS, KV_STATE_KEY, kv_bucket, kv_match, kv_overflow,
    kv_partition_header, kv_record, kv_same, kv_slot_link, kv_slot_offset, kv_tag,
)
from rfp.store.server.arena cimport arena

cdef enum:
    INDEX_GRANULE = 64         # buckets that the arena gives up at a time: one page of 4 KiB
    # The load that adds a bucket, as records per bucket times two.
    INDEX_LOAD = 9

cdef enum:                     # results of index_insert()
    INDEX_INSERTED = 0
    INDEX_NO_MEMORY = 1        # no memory for an overflow line
    INDEX_FULL = 2             # the chain has its greatest length

cdef struct index:
    arena *memory
    char *base
    char *top                  # bucket b is at top - 64 * (b + 1)
    kv_partition_header *header
    uint64_t seed
    uint64_t buckets
    uint64_t mask
    uint64_t room              # buckets that fit into the lines reserved for them
    uint64_t records
    uint64_t lines             # overflow lines
    uint64_t moved             # records and lines moved so far

# Initializes a region: header, arena, buckets.  length is a multiple of 64; flags: of the header.
cdef void index_open(index *x, arena *memory, char *base, uint64_t length, uint64_t seed,
                     uint64_t buckets, uint32_t flags) noexcept nogil
cdef int index_insert(index *x, uint64_t hash, uint64_t slot) noexcept nogil
cdef void index_remove(index *x, uint64_t hash, uint64_t *slot) noexcept nogil
# For strict LRU: puts a record into the first slot of its bucket, which must not be full; moves a
# record there.
cdef void index_insert_first(index *x, uint64_t hash, uint64_t slot) noexcept nogil
cdef void index_move_first(index *x, uint64_t hash, uint64_t *slot) noexcept nogil
# Returns the slot that points to the record at this offset, or NULL.
cdef uint64_t *index_slot(index *x, uint64_t hash, uint64_t offset) noexcept nogil
# Redirects the slot or link that pointed to a record or overflow line at `old` to its copy at
# `block`, and invalidates the original of a record.
cdef void index_repoint(index *x, uint64_t old, uint64_t block) noexcept nogil
# Begins and ends the time in which a record is in two places; the first returns the argument of the
# second.  A reader cannot prove by a CRC that it has copied a long value from one of them.
cdef uint64_t index_move_begin(index *x, uint64_t old) noexcept nogil
cdef void index_move_end(index *x, uint64_t bucket) noexcept nogil
# Moves a record or overflow line into another block, which must be large enough, and frees its old
# block.
cdef void index_move(index *x, uint64_t old, uint64_t block) noexcept nogil
# Adds a bucket.  False: no memory, or no room at the end of the arena because `obstacle` (if not 0)
# cannot be moved.
cdef bint index_split(index *x, uint64_t *obstacle) noexcept nogil
# Returns the number of records of a bucket and its overflow lines, and their slots and lines (at
# most KV_CHAIN and KV_MAX_LINES).
cdef int index_chain(index *x, uint64_t bucket, uint64_t *slots, uint64_t *lines,
                     int *n_lines) noexcept nogil


# The counter of rearrangements for a bucket (layout.h).
cdef inline uint64_t *index_rearrangements(char *base, uint64_t bucket) noexcept nogil:
    return <uint64_t *> (base + sizeof(kv_partition_header)) + bucket % KV_REARRANGEMENTS

# From here on the record is not its key's current value.  No later write to its memory may reach a
# reader before this one does.
cdef inline void record_invalidate(kv_record *record) noexcept nogil:
    rfp_store64(&record.version, 0)
    rfp_fence_release()

cdef inline uint64_t *index_bucket(index *x, uint64_t bucket) noexcept nogil:
    return <uint64_t *> (x.top - KV_LINE * (bucket + 1))

cdef inline uint64_t *index_line(index *x, uint64_t hash) noexcept nogil:
    return index_bucket(x, kv_bucket(hash, x.buckets, x.mask))

cdef inline uint64_t *index_next_line(index *x, uint64_t *line) noexcept nogil:
    cdef uint64_t last = line[KV_SLOTS - 1]
    return (<kv_overflow *> (x.base + kv_slot_offset(last))).slots if kv_slot_link(last) else NULL

cdef inline uint64_t index_hash(index *x, kv_record *record) noexcept nogil:
    return rfp_hash(record + 1, record.state & KV_STATE_KEY, x.seed)

cdef inline uint64_t *index_find(index *x, uint64_t hash, const char *key,
                                 uint32_t key_length) noexcept nogil:
    """Returns the slot of the record with this key, or NULL."""
    cdef uint64_t *line = index_line(x, hash)
    cdef uint64_t tag = kv_tag(hash)
    cdef uint32_t found, i
    cdef kv_record *record
    while line != NULL:
        found = kv_match(line, tag)
        while found:
            i = __builtin_ctz(found)
            record = <kv_record *> (x.base + kv_slot_offset(line[i]))
            if (record.state & KV_STATE_KEY) == key_length \
                    and kv_same(<char *> (record + 1), key, key_length):
                return line + i
            found &= found - 1
        line = index_next_line(x, line)
    return NULL

cdef inline void index_prefetch(index *x, uint64_t hash) noexcept nogil:
    rfp_prefetch(index_line(x, hash))

cdef inline void index_prefetch_records(index *x, uint64_t hash) noexcept nogil:
    cdef uint64_t *line = index_line(x, hash)
    cdef uint32_t found = kv_match(line, kv_tag(hash))
    cdef char *record
    while found:
        record = x.base + kv_slot_offset(line[__builtin_ctz(found)])
        rfp_prefetch(record)
        rfp_prefetch(record + KV_LINE)
        found &= found - 1

# A partition, and the life of its records: written, in the index, removed from it, freed.
#
# All other modules of the store work on this struct.  One thread owns it.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_store32, rfp_store64
from rfp.store.layout cimport (
    KV_COUNTS_REARRANGEMENTS, KV_EVICTS, KV_EXPIRY_SHIFT, KV_STATE_REFERENCED, kv_record,
)
from rfp.store.messages cimport KV_COUNTERS, KV_MAX_KEY, kv_put
from rfp.store.server.arena cimport arena
from rfp.store.server.index cimport index
from rfp.store.view_table cimport KV_VIEW_PINS

cdef enum:                     # the record to evict when memory is used up
    # one not used since the clock hand passed it last, over the whole arena
    EVICT_CLOCK = 0
    EVICT_BUCKET = 1           # the least recently used of a bucket
    EVICT_NOTHING = 2          # none: the put fails

cdef enum:
    MAX_PINS = 256             # of one session
    MAX_UPLOADS = 8
    VIEWED_BUCKETS = 1024      # a power of two

cdef struct link:              # the first field of an item of a doubly linked list
    link *next
    link *previous

cdef struct linked_list:
    link *first
    link *last

cdef struct eviction:          # memory being freed for one block
    uint64_t block             # reserved, grows upwards; 0: not begun
    uint64_t size              # wanted
    uint64_t exempt            # the record that must stay, or 0
    uint64_t scanned           # bytes of the arena visited

cdef struct pin:
    link links                 # in the order of the grants; the next of the owner's unused pins
    uint64_t id                # 0: not in use
    uint64_t record            # its offset
    uint64_t bytes
    uint64_t deadline          # 0 until the first tick() after the grant
    session_resources *owner

cdef struct upload:
    link links                 # in the order of the last piece
    uint64_t id                # 0: not in use
    eviction place             # place.block becomes the record
    bint ready                 # the block is large enough
    uint64_t hash
    uint32_t flags
    uint32_t received
    uint32_t crc               # of the key and the bytes received
    kv_put put
    uint64_t touched           # time of the last accepted piece
    session_resources *owner
    char[KV_MAX_KEY] key

cdef struct account:           # the sum over all sessions of one client
    uint64_t peer              # session.peer
    uint64_t sessions          # number of sessions that share it
    uint64_t uploading         # bytes
    account *next

cdef struct view_pin:          # one for each record and client process (views.pxd)
    view_pin *next             # in the chain of the record; of the owner's unused pins
    uint64_t record            # its offset; 0: not in use
    uint64_t bytes
    uint64_t granted           # time of the last grant
    uint32_t generation
    bint high                  # the record is above the lowest quarter of the arena
    view_holder *owner

cdef struct view_holder:       # the pins of one client process
    view_holder *next
    uint64_t peer              # session.peer
    uint64_t *words            # its part of the process's view table, which the process may write
    uint64_t bytes
    uint64_t count
    uint32_t fresh             # pins from here on were never used
    uint32_t ending            # set by the control thread: the process has ended
    uint32_t ended             # set by the worker: it uses this no more
    view_pin *unused
    view_pin[KV_VIEW_PINS] pins

cdef struct session_resources:  # the resources of one session; session.state
    link links
    uint64_t bytes             # pinned and uploading
    account *account
    pin *unused
    pin[MAX_PINS] pins
    upload[MAX_UPLOADS] uploads

cdef struct partition:
    arena memory
    index index
    uint64_t length            # of the region
    uint64_t seed
    int policy
    uint64_t version           # the next one to assign
    uint64_t lease             # ns
    # bytes that a session may hold, and that all sessions of a client may be uploading
    uint64_t quota
    uint64_t max_value
    uint64_t now               # ns, as of the last tick()
    uint64_t now_ms            # now rounded down: records up to here have expired
    uint64_t evicts_from       # bytes of the arena in use from which on readers send their uses
    uint64_t growth_retry_in   # insertions before the index tries to grow again
    uint64_t[KV_COUNTERS] counters
    linked_list sessions
    account *accounts
    linked_list pins           # in the order of the grants, which is that of their deadlines
    pin *new_pin               # the first without a deadline
    linked_list uploads        # in the order of the last piece
    uint64_t handed            # view_holder *: those that the worker has not seen; atomic
    uint64_t endings           # holders that have been ended, and are in use still; atomic
    view_holder *holders
    view_holder *scanning      # where the pass over the pins of views is; NULL: none in progress
    uint32_t scanned           # its pins before this one were examined
    uint64_t next_pass         # ns
    uint64_t next_reap         # ns: earliest pass for a request
    uint64_t high_views        # records that have views and are `high`
    # bytes that all views together, and those of one process, may keep
    uint64_t view_quota
    uint64_t process_view_quota
    view_pin *viewed[VIEWED_BUCKETS]    # by record
    uint64_t serial            # last serial number of pins and uploads
    uint64_t expiring          # records with an expiry
    uint64_t soonest           # ms: nothing expires before
    uint64_t upcoming          # ms: the soonest expiry that the current sweep has seen
    uint64_t walked            # blocks visited by the current sweep
    uint64_t moved             # index.moved at its beginning
    uint64_t rest              # ns: earliest begin of the next sweep
    bint sweeping

# Returns the slot of a record that has not expired, or NULL; removes a record that has.
cdef uint64_t *record_find(partition *p, uint64_t hash, const char *key,
                           uint32_t key_length) noexcept nogil
# Writes all of a record except its block word, value, version and CRC.
cdef void record_begin(partition *p, uint64_t block, const char *key, uint32_t key_length,
                       uint32_t value_length, uint64_t expiry, bint replaces) noexcept nogil
# Assigns the next version and writes the CRC that covers it, which continues `crc` of key and
# value.  The record stays invalid: its version is written when it is its key's current value.
cdef void record_seal(partition *p, uint64_t block, uint32_t crc) noexcept nogil
# Makes a record that has entered the index valid, and accounts for it; accounts for one that has
# been invalidated and has left the index, and frees its memory unless a client may still read it.
cdef void record_entered(partition *p, uint64_t block, uint64_t version) noexcept nogil
cdef void record_left(partition *p, uint64_t block) noexcept nogil
# Removes a record from the index.
cdef void record_remove(partition *p, uint64_t hash, uint64_t *slot) noexcept nogil
# Does the same because memory is needed.
cdef void record_evict(partition *p, uint64_t block) noexcept nogil
# Removes one pin; the last pin of an orphan frees it.
cdef void record_unpin(partition *p, uint64_t block) noexcept nogil
# Returns the expiry (ms) of a value with a TTL of `ttl` ms; 0 means never, in both.
cdef uint64_t expiry_of(partition *p, uint64_t ttl) noexcept nogil


cdef inline void list_append(linked_list *list_, link *item) noexcept nogil:
    item.next = NULL
    item.previous = list_.last
    if list_.last != NULL:
        list_.last.next = item
    else:
        list_.first = item
    list_.last = item

cdef inline void list_unlink(linked_list *list_, link *item) noexcept nogil:
    if item.previous != NULL:
        item.previous.next = item.next
    else:
        list_.first = item.next
    if item.next != NULL:
        item.next.previous = item.previous
    else:
        list_.last = item.previous

# From here on readers report the records that they use.
cdef inline void need_uses(partition *p) noexcept nogil:
    if p.policy == EVICT_CLOCK and p.evicts_from != <uint64_t> -1:
        p.evicts_from = <uint64_t> -1
        rfp_store32(&p.index.header.flags, KV_COUNTS_REARRANGEMENTS | KV_EVICTS)

cdef inline kv_record *record_at(partition *p, uint64_t block) noexcept nogil:
    return <kv_record *> (p.memory.base + block)

cdef inline bint record_expired(partition *p, kv_record *record) noexcept nogil:
    cdef uint64_t expiry = record.state >> KV_EXPIRY_SHIFT
    return expiry != 0 and expiry <= p.now_ms

cdef inline void record_refer(kv_record *record) noexcept nogil:
    # Most records are marked already: do not dirty their lines.
    if not record.state & KV_STATE_REFERENCED:
        rfp_store64(&record.state, record.state | KV_STATE_REFERENCED)

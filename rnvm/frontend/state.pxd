# The state of a front-end, as plain C.  Private memory; one thread at a time uses it (the fair lock
# of session.pyx).
#
# Ownership.  Each part of `frontend` names its owner, the module that alone assigns its fields.
# Other modules read them, and change them through the owner's functions.  `stats` is counters:
# any module adds to them.  tests/frontend/test_state_owners.py reads the sources and fails on an
# assignment elsewhere.
#
# The parts are declared here and not in the .pxd of their owners: `frontend` contains them by
# value (a pointer would cost a load in every operation), the owners' functions take a
# `frontend *`, and Cython defines C structs module by module: the owner's own extension would
# define `frontend` before the part that it contains.
#
# Modules, from the user down to the wire:
#
# frontend         the handle that users have; batches and transactions
# session          the session at a back-end, reconnecting, the fair lock, how calls begin and end
# structure        the base class of structures
# watch            a call that waits for a change of a structure
# operation        one write, from the writer lock to the logs
# moment           a read transaction: queries of several structures, all of one moment
# query            one read of a state that is whole
# version_query    the same of a multi-version structure: one read of one version
# version_root     its root
# version_use      which versions this session uses; the oldest one that any session uses
# log_overlay      redo records that are not applied yet, laid over the bytes of READs
# write_set        the changes of the present transaction: undo log, record
# slab_allocator   space for nodes
# node_cache       local copies of nodes
# node_memory      their memory
# read_set         the nodes that the open read transaction has read
# promise          what a session of promise `replicated` waits for before it answers
# log_writer       the session's two logs: append, wait until durable
# writer_lock      a structure's lock; cas_lock: the same by compare-and-swap
# status_line      a structure's live words
# remote           READs and WRITEs of the pool, calls of the back-end
# status           status codes

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport local_region, remote_region
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.byte_buffer cimport byte_buffer

cdef enum:
    LIVENESS_INTERVAL_NS = 10000000    # between two polls whether the back-end is alive

cdef enum:                     # indices of frontend.log, and of in_doubt
    OPERATION_LOG = 0
    REDO_LOG = 1


# Nodes, and the parts of a write set


cdef struct node:              # a local copy; its bytes follow
    uint64_t pinned            # number of the transaction that wrote it: kept until that is applied
    uint64_t as_of             # of a multi-version structure: the version in which it is current
    uint32_t length
    uint32_t slot              # index in cache.nodes
    uint32_t noted             # index in read_set.notes, if it is there
    # Of the present transaction.
    uint32_t sum               # its CRC, less what the changed granules contributed to it
    node *next_changed         # in write_set.nodes
    uint64_t changed           # granules that the present transaction has changed, a bit for each
    uint64_t born              # number of the operation that allocated it here
    unsigned char unsummed     # its CRC is not that of its bytes: stamp() computes it from them
    unsigned char pooled       # its memory is a slot (node_memory.pyx)
    # A lookup needs these and the first bytes: two cache lines, of which this is the first.
    node *next                 # in its bucket
    uint64_t address
    instance *owner
    uint64_t used              # cache.clock at its last use
    uint64_t[2] successors     # copies that were read after it (node_cache.pyx)
    uint32_t generation        # the copy is current as long as this is the owner's generation
    unsigned char listed       # is in write_set.nodes
    unsigned char freed        # is freed; kept until the operation cannot be undone
    unsigned char removed      # is out of the tables

cdef struct undo:              # how to undo one step of an operation
    uint32_t kind
    instance *owner
    node *subject
    uint64_t first             # offset of old bytes; block
    uint64_t count             # of them
    uint64_t image_at          # where in write_set.before_images the old bytes are
    uint64_t changed           # the node's granules that were changed before
    uint32_t sum               # the node's, before
    uint64_t record_bytes      # write_set.record_bytes before

cdef struct run:               # consecutive blocks
    instance *owner
    uint64_t first
    uint64_t count

cdef struct runs:
    run *items
    uint64_t count
    uint64_t room


# The overlay of a reader (owner: log_overlay)


cdef struct patch:             # bytes that a transaction writes into one page of the pool
    uint64_t offset            # in the pool
    uint32_t length
    uint32_t bytes             # where in overlay.log
    uint32_t next              # in the list of its page

cdef struct overlay:           # a structure's records in a redo log that may not be applied yet
    uint64_t word              # of the lock whose holder wrote them; 0: none
    uint64_t first             # LSNs in the holder's redo log, from ... to
    uint64_t upto
    uint64_t number            # of the structure's last transaction in there, 0: none
    byte_buffer log            # all records of that range; its length is upto - first
    patch *patches
    uint32_t count
    uint32_t patch_room
    uint32_t[128] heads        # lists of patches, by page
    uint32_t[128] tails


# The nodes that a read transaction has read (owner: read_set)


cdef struct note:
    instance *owner
    uint64_t address
    uint64_t version           # of the node's header
    uint32_t crc               # the same
    uint32_t length


# Parts of a front-end


cdef struct link:              # owner: remote.  The connection
    client_ring *ring
    remote_arena *arena        # all of the pool, to read: attached in chunks if it is not mapped
    remote_region *pool        # its first chunk: all of it if it is mapped
    local_region *buffer       # registered memory of this process: log records, then the landing
    uint64_t landing_at        # offset there at which READs land
    uint64_t landing_bytes
    bint mapped                # the pool is mapped here and no network is emulated: loads, no READs
    bint polls_liveness        # no READ fails when the back-end is dead: poll for it
    uint64_t alive_ns          # when the back-end was last known to be alive
    uint64_t deadline_ns       # of the present call
    # grouped, in a wait: until when the back-end may answer, as it was last seen; when that was
    # first seen, and when it was last read
    uint64_t until
    uint64_t until_since_ns
    uint64_t until_read_ns
    int error                  # LOST or FENCED: all calls return that until the next session; or 0
    uint32_t status            # of the last call (messages.h)
    void *owner                # the FrontEnd

cdef struct session_terms:     # owner: session.  Agreed with the back-end, or set by the user
    uint32_t number            # of the session
    uint64_t epoch
    uint64_t lease_ns          # for which a lock remains ours after its revocation
    uint64_t snapshot_ns       # for which the back-end keeps the memory of a snapshot
    bint persistent            # a call returns only when its changes are durable
    bint logs_operations
    bint sticky                # locks are kept until others request them
    bint direct                # our own stores become durable without the back-end
    bint flushes               # by flushing cache lines
    bint replicated            # an answer waits until what it depends on is replicated
    bint grouped               # the back-end is a group's: it may answer for a limited time
    bint guarded               # an answer waits until it is known to be the primary still
    bint reads_until           # the replication line says that, in the time of this process' clock
    bint waits_until_applied   # a call returns only when its changes are applied: no cache has them

cdef struct open_instances:    # owner: session
    instance **items
    uint32_t count
    uint32_t gone              # how many of them have no object any more

cdef struct log_ring:          # owner: log_writer.  One ring of the session; positions are LSNs
    uint64_t at                # offset in the pool
    uint64_t offset            # in log_io.region
    uint64_t staging           # where in link.buffer its records are made, aligned to 64
    uint64_t size
    uint32_t seed
    uint64_t head              # space before it may be reused, as far as the back-end has published
    uint64_t tail              # where the next record goes
    uint64_t durable           # everything before it is

cdef struct log_transport:     # owner: log_writer
    remote_region *region      # the two rings, to write
    # Over a network: from a record's WRITE to the READ of the durable positions.
    uint64_t durable_read_delay_ns
    int durable_polls          # of those positions, before the back-end is asked for durability

cdef struct doubt:             # owner: log_writer.  Records that were written and may not count
    bint any
    bint[2] written            # to the operation log, to the redo log
    uint64_t[2] lsn

cdef struct promise:           # owner: promise.  What a session of promise `replicated` has read
    uint64_t state             # the greatest frame word loaded with any state that was read
    uint64_t own               # frame of this session's own records
    uint64_t acked             # frames up to it are replicated
    bint few_mirrors           # fewer are in sync than required, as far as is known
    bint unread                # own records are durable, and their frame was not read yet
    bint stored                # own records count as stored, and may be in no frame yet
    uint64_t trusted_until     # guarded, without reads_until: ns of CLOCK_BOOTTIME
    uint64_t poll_ns           # of polling the replication line, before the back-end is asked
    uint64_t records           # counts own records
    doubt written              # the last ones, not known to be replicated

cdef enum:
    NODE_CLASSES = 72          # of slots, in steps of 64 bytes: up to a page of a tree

cdef struct node_region:       # slots follow from the next cache line on
    node_region *next

cdef struct node_memory:       # owner: node_memory
    node_region *regions
    uint64_t bytes             # of all regions
    uint64_t used              # of slots that are not vacant
    bint refused               # a node has found no slot since the regions were last freed
    char *at                   # what is left of the newest one
    uint64_t left
    node *vacant[NODE_CLASSES]   # lists of vacant slots

cdef struct cache:             # owner: node_cache
    node **buckets
    uint64_t bucket_count      # a power of two
    node **nodes               # all of them, in no order: evictions draw their samples here
    uint64_t node_count
    uint64_t node_room
    node *removed              # out of the tables; freed when no pointer to them is left
    node *last                 # pooled, the last one that node_read() returned; or NULL
    uint64_t bytes
    uint64_t budget_bytes
    uint64_t evict_again_bytes  # nearly all copies are pinned: no eviction below so many bytes
    uint32_t evict_again_trims  # or outside a batch, in the next so many operations
    uint32_t cut_again_trims   # copies in slots are pinned: no new slots in the next so many
    uint64_t clock
    uint64_t random
    uint64_t hits
    uint64_t misses
    uint64_t evictions

cdef struct changes:           # owner: write_set.  The present transaction (picture: write_set.pyx)
    uint64_t operation         # counts operations of this front-end
    node *nodes                # that it changes, the last one first
    uint64_t record_bytes      # that its redo record takes, at most; 0: nothing is changed
    uint32_t structures        # that it changes: parts of its record
    undo *undo_log
    uint64_t undo_count
    uint64_t undo_room
    byte_buffer before_images  # old bytes of changed nodes
    runs taken                 # of the granted blocks, for its structures
    runs returned

cdef struct free_space:        # owner: write_set
    runs granted               # blocks of this front-end that no structure uses yet
    uint64_t lacking           # consecutive blocks that the pool did not have when it was last FULL

cdef struct activity:          # owner: writer_lock
    remote_region *words       # of the back-end: one for each naming entry, odd while we are inside
    uint64_t turn              # makes each value of those words a new one
    uint64_t others_polled_ns  # over a network: when kept locks were last polled for revocations

cdef struct cas_words:         # owner: cas_lock
    remote_region *words       # one for each structure; NULL: the back-end grants locks one by one
    uint64_t swaps             # counts them, and makes each word of ours a new one

cdef struct call_scope:        # owner: operation
    bint batching
    bint transacting
    bint sparing               # operations give up no reader of an earlier version
    bint patient               # locks are requested without an end of their holders' sessions
    int result                 # of the last operation whose record was written: valid if it counts
    uint64_t record_bytes      # that the last operation would have needed, if it was TOO_LONG; or 0

cdef struct notes:             # owner: read_set
    bint noting                # each node that a query gets is noted
    bint over                  # some were not: they are too many
    note *items
    uint32_t count
    uint32_t room

cdef struct read_scope:        # owner: moment.  The open read transaction
    bint is_open
    bint settled               # its structures have their states of one moment
    bint locked                # it has acquired the locks of its structures
    int failed                 # status that ended it, for all later calls; or OK
    instance **named           # in the order of their naming entries
    uint32_t count

cdef struct counters:          # no owner: only ever added to
    uint64_t reads
    uint64_t writes
    uint64_t calls
    uint64_t restarts          # of queries
    uint64_t extensions        # of read transactions: they moved on to a later moment
    uint64_t conflicts         # of read transactions
    uint64_t reexecuted        # pending operations of dead writers
    uint64_t passed_over       # the same, of an opcode that their structure's kind does not know

cdef struct frontend:
    link link
    rnvm_geometry g            # owner: remote.  The pool's layout
    session_terms session
    open_instances open
    log_ring[2] log
    log_transport log_io
    doubt in_doubt
    promise promise
    cache cache
    node_memory memory
    changes write_set
    free_space space
    activity activity
    cas_words cas
    call_scope scope
    notes read_set
    read_scope moment
    byte_buffer answer         # owner: structure.  Of the last operation or query
    counters stats


cdef struct kept_version:      # of an open snapshot
    uint64_t version
    uint64_t opened_ns

cdef struct instance:          # an open structure.  Its memory may outlive the object
    frontend *fe
    const kind *kind
    uint32_t id                # its name in logs
    unsigned char[16] uuid     # differs from that of the same name and id in another pool
    uint32_t index             # of its naming entry
    uint64_t slabs             # address of its first node
    uint64_t root              # and of its root node
    bint gone                  # it has no object any more: close it at the end of the present call
    bint replaced              # it was dropped, and a later structure has its naming entry
    # the writer lock
    bint holds
    uint64_t word              # its status line contains this word while we hold the lock
    uint64_t validated_ns      # when the lock was last seen not to be revoked
    uint64_t token             # cas_lock: our last value of its lock word while inside
    uint64_t left              # cas_lock: and after leaving; 0: not known
    bint entered               # the present operation, batch or transaction has acquired it
    uint64_t number            # of its last transaction
    uint64_t operations        # number of its last operation
    uint64_t covered           # operations up to this one are in transactions that were written
    bint touched               # the present transaction changes it
    # a transaction was written since log_writer last polled whether threads wait for changes
    bint unannounced
    # reading
    uint64_t seen              # the sequence for which nodes of this generation are current
    uint64_t applied           # number of a transaction that is known to be applied
    uint32_t generation
    bint fetched               # a node was READ since the operation began
    overlay *pulled            # NULL: no log was ever pulled
    uint64_t steps             # nodes that the present query has read
    # of a multi-version structure
    uint64_t version           # that the present query reads; 0: nodes of any version
    const rnvm_version *at     # the snapshot that it reads; NULL: the newest version
    rnvm_version newest        # that was read last
    uint64_t newest_of         # the sequence of the state that it includes; 0: it is not known
    kept_version *kept         # its open snapshots here
    uint32_t kept_count
    uint32_t kept_room
    uint64_t published_ns      # when the oldest version in use was last published
    uint64_t published         # the word
    uint64_t written           # the version that this front-end wrote last
    uint64_t frozen            # nodes of later versions may be changed by the present operation
    uint64_t retained          # no session uses a version below it
    uint64_t renew_at          # listed nodes at which apply asks for it again
    # the open read transaction that names it
    bint named
    bint lock_kept             # its writer lock was ours at the moment
    uint64_t moment            # its sequence at the moment; 0: there was none yet
    uint64_t found             # the same, while a moment is determined
    uint64_t version_kept      # of a multi-version structure, at the moment; 0: none
    bint answered              # a query has answered at the moment, even if it has read no node
    # the last error
    int error
    uint64_t fault_at
    const char *fault
    # the structure's own
    void *own
    # of a mapping with partitions: which one it is, and how many there are; 0: it has none
    uint32_t partition
    uint32_t partitions

cdef struct kind:
    uint32_t number
    uint32_t format
    uint32_t root
    int (*apply)(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
    int (*walk)(instance *s,
                int (*visit)(void *context, uint64_t address, uint32_t length) noexcept nogil,
                void *context) noexcept nogil
    # Of a multi-version structure, else NULL: frees listed nodes that no reader uses, as many as
    # one record takes.  Above 0: more are left.
    int (*collect)(instance *s) noexcept nogil
    # With collect: whether so many blocks in a row, of so many bytes, may be among listed nodes.
    bint (*lists_row)(instance *s, uint64_t count, uint64_t block) noexcept nogil

# A front-end as plain C: what all its modules work on.  Private memory; one thread at a time uses it.
#
# _answers      what functions answer
# _remote       READs and WRITEs, calls of the back-end
# _journal      its two logs: append, wait until durable
# _cache        local copies of nodes
# _changes      what the present transaction changes: undo, commit
# _slabs        space for nodes
# _line         a structure's live words
# _swap_lock    its lock by compare-and-swap
# _writer_lock  its lock: wait for it, keep it, give it back
# _transaction  operations on the nodes here, and the record that says what they have changed
# _orphans      operations that dead writers have left
# _turns        the lock for what follows, and first what was left to do
# _operations   an operation, from the lock to the logs
# _overlay      what is logged and not applied, laid over what is READ
# _queries      a query, on a state that is whole
# _structure    the base class of structures
# _attachment   the class that owns all of it: the session, connecting again, how calls begin and end
# _batch        batches and transactions
# _frontend     the class that users have: what is open in a session

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport local_region, remote_region
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena
from rnvm.format.layout cimport rnvm_geometry

cdef enum:
    WATCH = 10000000           # ns between two looks whether the back-end lives

cdef struct journal:           # one ring of the session, as its writer sees it; positions are LSNs
    uint64_t at                # offset in the pool
    uint64_t offset            # in the region that may be written
    uint64_t staging           # where in front.buffer its records are made; their first byte is aligned to 64
    uint64_t size
    uint32_t seed
    uint64_t head              # space before it may be reused; what was last heard
    uint64_t tail              # where the next record goes
    uint64_t durable           # all before it is

cdef struct node:              # a local copy; its bytes follow
    node *next                 # in its bucket
    node *later                # in the list of those that the transaction changes
    instance *owner
    uint64_t address
    uint32_t length
    uint32_t generation        # right as long as it is the owner's
    uint64_t pinned            # number of the transaction that wrote it: kept until that was applied
    uint64_t used              # when it was last asked for
    uint64_t changed           # granules that the present transaction has changed: bit by bit
    uint32_t slot              # place in front.nodes
    uint64_t born              # number of the operation that allocated it here
    bint listed                # is in the list
    bint freed                 # is no more; kept until that cannot be taken back

cdef struct undo:              # how to take one step of an operation back
    uint32_t what
    instance *owner
    node *subject
    uint64_t first             # offset of old bytes; block
    uint64_t count             # of them
    uint64_t bytes             # where in front.before the old ones stand
    uint64_t mask              # what was changed before
    uint64_t volume

cdef struct patch:             # bytes that a transaction writes into one page of the pool
    uint64_t offset            # in the pool
    uint32_t length
    uint32_t bytes             # where in overlay.log
    uint32_t next              # in the list of its page

cdef struct overlay:           # of a structure: what stands in its writer's log and is, perhaps, not applied
    uint64_t word              # of the lock whose holder wrote it; 0: nothing
    uint64_t first             # LSNs in the holder's memory log, from ... to
    uint64_t upto
    uint64_t number            # of the structure's last transaction in there, 0: none
    char *log                  # all records of it
    uint64_t log_room
    patch *patches
    uint32_t count
    uint32_t patch_room
    uint32_t[128] heads        # lists of patches, by page
    uint32_t[128] tails

cdef struct run:               # consecutive blocks
    instance *owner
    uint64_t first             # block
    uint64_t count

cdef struct runs:
    run *items
    uint64_t count
    uint64_t room

cdef struct doubt:             # records that were written, and of which it is not known yet whether they count
    bint any
    bint[2] written            # to the log of operations, to the memory log
    uint64_t[2] lsn

cdef struct frontend:
    # the connection
    client_ring *ring
    remote_arena *arena        # all of the pool, to read: attached in parts where it is far
    remote_region *pool        # its first part: all of it where it is near
    remote_region *logs        # this session's two rings, to write
    remote_region *desk        # of the back-end's: a word for each naming entry, odd while we are inside it
    uint64_t turns             # makes each of those another one
    local_region *buffer       # registered memory of our own: records in the making, then what READs bring
    uint64_t landing           # offset there where READs land
    uint64_t landing_length
    rnvm_geometry g
    uint32_t session
    uint64_t epoch
    bint near                  # the pool's memory itself is mapped here, and no network is emulated: loads instead of READs
    bint watches               # nothing that it reads shows that the back-end is dead, so it looks now and then
    uint64_t alive             # when it was last known to be, ns
    bint direct                # our own stores become durable without the back-end
    bint flushed               # when cache lines are flushed
    int trouble                # LOST or FENCED: everything answers that until the session is made anew; 0: all is well
    uint32_t refusal           # status of the last call (messages.h)
    void *owner                # the FrontEnd
    uint64_t deadline          # of the present call, ns
    # what was agreed
    bint persistent
    bint oplog
    uint64_t lease             # ns that a lock is still ours after it was asked back
    bint sticky                # locks are kept until others ask
    remote_region *words       # one for each structure, to compare and swap; NULL: the back-end grants locks one by one
    uint64_t swaps             # counts them, and makes each of ours another one
    bint applied               # a call returns only when what it did is applied, so that nothing of it need be remembered here
    uint64_t budget            # bytes of the cache
    uint64_t futile            # within a batch or transaction no node is evicted before the cache has so many bytes
    # logs
    journal operations
    journal memory
    uint64_t linger            # ns that the back-end is given to make a record durable before it is asked, over a network
    int looks                  # at the durable positions that are worth while before the back-end is asked to make them so
    # the cache
    node **buckets
    uint64_t bucket_count      # a power of two
    node **nodes               # all of them, in no order: what evictions sample from
    uint64_t node_count
    uint64_t node_room
    uint64_t bytes
    uint64_t clock
    uint64_t random
    uint64_t hits
    uint64_t misses
    uint64_t evictions
    # the present transaction
    uint64_t operation         # counts operations here
    node *changed              # list
    node *released             # nodes that are to be forgotten when nobody can point to them any more
    uint64_t volume            # bytes that its record takes, at most
    uint32_t touched           # structures that it changes: parts of its record
    undo *undone
    uint64_t undo_count
    uint64_t undo_room
    char *before               # old bytes
    uint64_t before_length
    uint64_t before_room
    runs taken                 # of the granted blocks, for its structures
    runs returned
    bint batching
    bint transacting
    # space
    runs granted               # blocks that nobody uses yet
    uint64_t lacking           # blocks in a row that the pool did not have when it was last FULL
    # what the present call has written and does not know the outcome of
    int result                 # what apply answered
    doubt doubt
    # the answer of the last operation
    char *answer
    uint64_t answer_length
    uint64_t answer_room
    # structures that are open here
    instance **instances
    uint32_t instance_count
    uint32_t gone              # how many of them are
    # figures
    uint64_t reads
    uint64_t writes
    uint64_t calls
    uint64_t restarts
    uint64_t commits
    uint64_t executed_again
    uint64_t passed_over       # operations of dead writers that their structure's kind does not know

cdef struct instance:          # a structure that is open at a front-end; in memory of its own: it may outlive the object
    frontend *fe
    const kind *kind
    uint32_t id                # its name in logs
    unsigned char[16] uuid     # of the structure, also where another pool has one with this name and id
    uint32_t index             # of its naming entry
    uint64_t slabs             # address of its first node
    uint64_t root              # and of the one that it knows
    bint gone                  # the object is no more: to be forgotten at the end of the call that is under way
    # the writer lock
    bint holds
    uint64_t word              # that says so in its line
    uint64_t looked            # when that was last looked at, ns
    uint64_t token             # what we have written into its word, where locks are settled by compare-and-swap
    uint64_t left              # and left there; 0: nothing that is known
    bint entered               # the operation, batch or transaction under way has asked for it
    uint64_t number            # of its last transaction
    uint64_t operations        # number of its last operation
    uint64_t covered           # operations up to this one are in transactions that were written
    bint touched               # the present transaction changes it
    # reading
    uint64_t seen              # sequence for which nodes of this generation are right
    uint64_t applied           # number of a transaction that is applied, as far as we have heard
    uint32_t generation
    bint fetched               # since the operation began
    overlay *pulled            # NULL: nothing was ever pulled
    uint64_t steps             # nodes that it has read
    # what went wrong
    int error
    uint64_t fault_at
    const char *fault
    # the structure's own
    void *own

cdef struct kind:
    uint32_t number
    uint32_t format
    uint32_t root
    int (*apply)(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
    int (*walk)(instance *s, int (*visit)(void *context, uint64_t address, uint32_t length) noexcept nogil,
                void *context) noexcept nogil

# The fabric: one contract, several providers (shm, verbs; reorder).  docs/fabric.md explains it.
#
# Everything above cimports this and nothing of a provider.  The structs are plain C so that the hot path runs without the
# GIL; the classes own them and are the cold path.  The fabric knows no message.
#
# Never assumed above: that one READ sees several cache lines in order (ask reads_ordered), that a completed WRITE is
# durable, that the peer is honest.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cpdef enum:                    # rights that a region gives to peers
    REMOTE_READ = 1
    REMOTE_WRITE = 2
    REMOTE_ATOMIC = 4
    CONSTANT = 8               # local_region only: not even work requests of this process may write it (a read-only buffer)

cpdef enum:                    # opcodes of a work request
    READ = 1
    WRITE = 2
    WRITE_NOTIFY = 3           # WRITE, then wake whoever sleeps on the peer's event channel
    COMPARE_SWAP = 4           # the old value lands in local memory
    FETCH_ADD = 5

cpdef enum:                    # flags of a work request
    SIGNALED = 1               # give a completion also on success (errors always give one)

cpdef enum:                    # statuses of a completion
    SUCCESS = 0
    BOUNDS = 1                 # local or remote range outside its region
    RIGHTS = 2                 # the region does not grant this
    PEER_GONE = 3              # the connection is lost; what was posted may or may not have happened
    FLUSHED = 4                # posted to a queue pair that was closed or in error (then never executed), or under way at close()

cdef struct local_region:      # memory of this process that work requests may name
    char *base
    uint64_t length
    uint32_t key
    uint32_t rights

cdef struct remote_region:     # memory of the peer, as its checked descriptor describes it
    char *base                 # shm: where it is mapped here; verbs: the peer's address
    uint64_t length
    uint32_t key
    uint32_t rights

cdef struct work_request:
    uint64_t id                # comes back in the completion
    uint32_t opcode
    uint32_t flags
    uint64_t length
    local_region *local
    uint64_t local_offset
    remote_region *remote
    uint64_t remote_offset
    uint64_t operand           # FETCH_ADD: addend; COMPARE_SWAP: new value
    uint64_t compare

cdef struct completion:
    uint64_t id
    uint32_t opcode
    uint32_t status

cdef struct queue_pair

cdef struct event_channel      # what one thread sleeps on; many queue pairs may share it

cdef struct provider:          # the operations; every one noexcept nogil
    # Posts n work requests in order, with one doorbell.  Returns how many were taken: fewer when the send queue is full.
    # Nothing overtakes a WRITE; READs and atomics keep their order among themselves; but a WRITE may overtake a READ or an
    # atomic that is not yet complete.
    # A request that fails its checks is taken, and completes with BOUNDS or RIGHTS.
    int (*post)(queue_pair *pair, work_request *requests, int n) noexcept nogil
    # Takes up to n completions, in the order of posting.  What nobody polls need not move: a thread polls until what it has
    # posted is complete before it sleeps.
    int (*poll)(queue_pair *pair, completion *completions, int n) noexcept nogil
    # Whether the peer still lives; asks the operating system (about 1 us), so not for every turn of a loop.
    bint (*alive)(queue_pair *pair) noexcept nogil
    # Sleep in three steps: arm; look once more at everything waited for; then sleep at most ns nanoseconds (1: woken,
    # 0: time-out), or disarm.  A notify between arm and sleep makes sleep return at once.
    uint32_t (*prepare_wait)(event_channel *channel) noexcept nogil
    bint (*wait)(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil
    void (*cancel_wait)(event_channel *channel) noexcept nogil
    # Wakes the sleeper of this channel from another thread of this process.
    void (*notify)(event_channel *channel) noexcept nogil
    # Makes room for more notifies (verbs: posts receives anew).  The channel's thread calls it after each turn in which it found
    # work; poll() of a pair and wait() do it too.
    void (*replenish)(event_channel *channel) noexcept nogil

cdef struct queue_pair:        # one end of a connection; what stands here holds from connect() on
    const provider *ops
    bint reads_ordered         # one READ sees the peer's release order: its first word last
    bint needs_registration    # local memory must be a Region's: a local_region made by hand completes with RIGHTS (verbs)
    uint32_t max_outstanding_reads
    uint32_t max_inline        # a WRITE up to this length may reuse its local memory at once, without its completion
    uint32_t depth             # work requests that may be outstanding
    void *state                # the provider's

cdef struct event_channel:
    const provider *ops
    uint32_t *word             # shm: the sleeping word, in memory of the sleeper's that peers may write
    void *state


cdef class Resource:
    """What is open until it is closed: again, in any order, also in a forked child."""
    cpdef close(self)


cdef class Region(Resource):
    """Registered memory of this process."""
    cdef local_region c
    cdef uint64_t within(self, uint64_t offset, uint64_t n) except? 0
    cpdef bytes descriptor(self)       # what a peer needs to attach()
    cpdef int fileno(self) except? -2  # shm: the file descriptor to send along with it; -1 where there is none


cdef class RemoteRegion(Resource):
    """A peer's memory, made only from a checked descriptor."""
    cdef remote_region c


cdef class EventChannel(Resource):
    """What one thread sleeps on."""
    cdef event_channel c


cdef class QueuePair(Resource):
    """One end of a connection."""
    cdef queue_pair c
    cpdef bytes descriptor(self)       # what the peer's connect() needs
    # region: where the peer's sleeping word stands (shm); elsewhere it is not looked at and may be None
    cpdef connect(self, bytes descriptor, RemoteRegion region)


cdef class Fabric(Resource):
    """A provider: makes the four things above."""
    # A protection domain of its own on the same device: what is registered in it only its queue pairs' peers reach, and event
    # channels may be those of another domain.  shm, where who holds a file descriptor has the memory: the fabric itself.
    cpdef Fabric domain(self)
    # memory that peers may use as `rights` says; length is rounded up to whole pages; filled with zeros
    cpdef Region register(self, uint64_t length, uint32_t rights)
    # memory that share() will give to peers, with no more than these rights; nobody reaches it yet (shm: the same as register)
    cpdef Region reserve(self, uint64_t length, uint32_t rights)
    # a region over memory that there is: a part of a region (of this or another domain), or a buffer (which is kept, and whose
    # rights are 0: it is for local use).  Peers get at most share_limit bytes with one; on shm the whole region or none of it.
    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights)
    # a region over `length` bytes that this process has mapped from `offset` of a file (at `base`; keeper keeps them mapped),
    # for peers to use as `rights` says.  Whole pages.  The file is neither sealed nor ours alone: nobody may truncate it
    # meanwhile.  On verbs it need not be a file: what stands at base is registered.
    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights)
    # the same for share() to give to peers part by part, with no more than these rights (shm: the same as share_file)
    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights)
    # a peer's region from its descriptor and, on shm, the file descriptor that came with it (always taken over, also on error)
    cpdef RemoteRegion attach(self, bytes descriptor, int fd=*, bint files=*)
    # sleeps on the word that begins the 64-byte line at offset, in one of our own regions that peers may write: the line belongs
    # to the channel (verbs: a completion channel; region and offset are not looked at, and region may be None)
    cpdef EventChannel event_channel(self, Region region, uint64_t offset)
    # pidfd and control: what alive() watches (-1: nothing); both stay the caller's, who keeps them open as long as the pair
    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control)
    # close() gives the device back as soon as all that was made with it is closed, too; what is open stays usable

# For share() of a buffer: a view of its bytes (WrongBuffer unless they are contiguous), and where they stand.
cdef object buffer_bytes(object buffer)
cdef char *buffer_base(object view) except? NULL

# Copies a descriptor that a peer sent, and checks it; `what` it is, for the message.  Raises HandshakeFailed.
cdef take_descriptor(bytes received, void *copy, size_t size, uint32_t magic, uint16_t provider, str what)

# The fabric: one contract, several providers (shm, verbs; reorder).  docs/fabric.md explains it.
#
# All layers above cimport this file and nothing of a provider.  The structs are plain C so that the
# hot path runs without the GIL; the classes own them and are the cold path.  The fabric interprets
# no message.
#
# The layers above never assume that one READ observes several cache lines in order (check
# reads_ordered), that a completed WRITE is durable, or that the peer is honest.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cpdef enum:                    # rights that a region gives to peers
    REMOTE_READ = 1
    REMOTE_WRITE = 2
    REMOTE_ATOMIC = 4
    # local_region only: not even work requests of this process may write it (a read-only buffer)
    CONSTANT = 8

cdef enum:
    ALL_RIGHTS = REMOTE_READ | REMOTE_WRITE | REMOTE_ATOMIC

cpdef enum:                    # opcodes of a work request
    READ = 1
    WRITE = 2
    WRITE_NOTIFY = 3           # WRITE, then wake the thread that sleeps on the peer's event channel
    COMPARE_SWAP = 4           # stores the old value in local memory
    FETCH_ADD = 5

cpdef enum:                    # flags of a work request
    SIGNALED = 1               # give a completion also on success (an error always gives one)

cpdef enum:                    # statuses of a completion
    SUCCESS = 0
    BOUNDS = 1                 # the local or remote range is outside its region
    RIGHTS = 2                 # the region does not grant the right that the request needs
    PEER_GONE = 3              # the connection is lost; the request may have been executed or not
    # Posted to a queue pair that was closed or in error (then never executed), or under way at
    # close().
    FLUSHED = 4

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
    uint64_t id                # returned in the completion
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

cdef enum:
    QUEUE_DEPTH = 256          # work requests that may be outstanding; a power of two

cdef struct queue_pair

cdef struct event_channel      # an eventcount for one thread; many queue pairs may share it

cdef struct provider:          # the operations; every one noexcept nogil
    # Posts n work requests in order, with one doorbell.  Returns the number accepted: fewer when
    # the send queue is full.
    # Nothing overtakes a WRITE; READs and atomics keep their order among themselves; but a WRITE
    # may overtake a READ or an atomic that is not yet complete.
    # A request that fails its checks is accepted, and completes with BOUNDS or RIGHTS.
    int (*post)(queue_pair *pair, work_request *requests, int n) noexcept nogil
    # Takes up to n completions, in the order of posting.  A provider need not make progress outside
    # poll(): a thread polls until its requests are complete before it sleeps.
    int (*poll)(queue_pair *pair, completion *completions, int n) noexcept nogil
    # Returns whether the peer still runs.  Costs a system call (about 1 us), so not for every
    # iteration of a loop.
    bint (*alive)(queue_pair *pair) noexcept nogil
    # The three steps of an eventcount: prepare_wait; check everything waited for once more; then
    # wait for at most ns nanoseconds (1: woken, 0: time-out), or cancel_wait.  A notify between
    # prepare_wait and wait makes wait return at once.
    uint32_t (*prepare_wait)(event_channel *channel) noexcept nogil
    bint (*wait)(event_channel *channel, uint32_t armed, uint64_t ns) noexcept nogil
    void (*cancel_wait)(event_channel *channel) noexcept nogil
    # Wakes the thread that sleeps on this channel, from another thread of this process.
    void (*notify)(event_channel *channel) noexcept nogil
    # Makes room for more notifies (verbs: posts new receives).  The channel's thread calls it after
    # each iteration that found work; poll() of a pair and wait() do it too.
    void (*replenish)(event_channel *channel) noexcept nogil

cdef struct queue_pair:        # one end of a connection; the fields are valid from connect() on
    const provider *ops
    bint reads_ordered         # one READ observes the peer's release order: its first word last
    # Local memory must belong to a Region: a local_region made by hand completes with RIGHTS
    # (verbs).
    bint needs_registration
    uint32_t max_outstanding_reads
    # A WRITE up to this length may reuse its local memory at once, without its completion.
    uint32_t max_inline
    uint32_t depth             # work requests that may be outstanding
    void *state                # state of the provider

cdef struct event_channel:
    const provider *ops
    uint32_t *word             # shm: the eventcount word, in peer-writable memory of the waiter
    # Becomes readable by a notify after prepare_wait; wait() consumes that.  -1: there is none.
    int fd
    int ended                  # shm: the peer has closed its end of the descriptor
    void *state


cdef class Resource:
    """Base of all objects with close(): safe again, in any order, also in a forked child."""
    cpdef close(self)


cdef class Region(Resource):
    """Registered memory of this process."""
    cdef local_region c
    cdef uint64_t within(self, uint64_t offset, uint64_t n) except? 0
    cpdef bytes descriptor(self)       # the bytes that a peer's attach() needs
    # shm: the file descriptor to send along with the descriptor; -1 for other memory
    cpdef int fileno(self) except? -2


cdef class RemoteRegion(Resource):
    """A peer's memory, made only from a checked descriptor."""
    cdef remote_region c


cdef class EventChannel(Resource):
    """The object on which one thread sleeps (an eventcount)."""
    # shm: takes over this end of a socket pair, whose other end the peer's pairs have (wake_by()).
    # From then on the thread sleeps on this descriptor.  Closed on errors, too.
    cpdef poll_by(self, int fd)
    cdef event_channel c


cdef class QueuePair(Resource):
    """One end of a connection."""
    cdef queue_pair c
    cpdef bytes descriptor(self)       # the bytes that the peer's connect() needs
    # region: the memory that contains the peer's eventcount word (shm); other providers ignore it,
    # and it may be None
    cpdef connect(self, bytes descriptor, RemoteRegion region)
    # shm: sends a byte into this socket to wake a peer that sleeps on the other end.  The caller
    # keeps owning the socket, and keeps it open as long as the pair.
    cpdef wake_by(self, int fd)


cdef class Fabric(Resource):
    """A provider: makes the four things above."""
    # Returns a protection domain of its own on the same device: only peers of its queue pairs reach
    # the memory registered in it; event channels may belong to another domain.  On shm, where the
    # holder of a file descriptor has the memory, it returns the fabric itself.
    cpdef Fabric domain(self)
    # Returns memory that peers may use as `rights` permits; length is rounded up to whole pages;
    # filled with zeros.
    cpdef Region register(self, uint64_t length, uint32_t rights)
    # Returns memory that share() will give to peers, with at most these rights; no peer reaches it
    # yet (shm: the same as register).
    cpdef Region reserve(self, uint64_t length, uint32_t rights)
    # Returns a region over existing memory: a part of a region (of this or another domain), or a
    # buffer (which is kept alive, and whose rights are 0: it is for local use).  Peers get at most
    # share_limit bytes with one; on shm the whole region or none of it.
    cpdef Region share(self, object memory, uint64_t offset, uint64_t length, uint32_t rights)
    # Returns a region over `length` bytes that this process has mapped from `offset` of a file (at
    # `base`; keeper keeps them mapped), for peers to use as `rights` permits.  Whole pages.  The
    # file is neither sealed nor private: no process may truncate it in the meantime.  On verbs it
    # need not be a file: the memory at base is registered.
    cpdef Region share_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                            uint64_t length, uint32_t rights)
    # The same for share() to give to peers part by part, with at most these rights (shm: the same
    # as share_file).
    cpdef Region reserve_file(self, object keeper, uint64_t base, int fd, uint64_t offset,
                              uint64_t length, uint32_t rights)
    # Returns a peer's region from its descriptor and, on shm, the file descriptor that came with it
    # (always taken over, also on error).
    cpdef RemoteRegion attach(self, bytes descriptor, int fd=*, bint files=*)
    # Returns a channel that sleeps on the first word of the 64-byte line at offset, in a region of
    # this process that peers may write: the line belongs to the channel (verbs: a completion
    # channel, which ignores region and offset; region may be None).
    cpdef EventChannel event_channel(self, Region region, uint64_t offset)
    # pidfd and control: the descriptors that alive() watches (-1: nothing); the caller keeps owning
    # both, and keeps them open as long as the pair.
    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control)
    # close() gives the device back as soon as all objects made with it are closed, too; open
    # objects stay usable.

# Returns whether the peer's process (pidfd, if it runs on this host) and the control connection
# exist.
cdef bint peer_exists(int pidfd, int control) noexcept nogil
# Returns the operations of an end that is not connected: before connect(), and after close() and in
# a forked child (alive=NULL: False).  Its requests are flushed, its channel has no events, and it
# touches no memory.
cdef provider disconnected_operations(
    int (*post)(queue_pair *pair, work_request *requests, int n) noexcept nogil,
    int (*poll)(queue_pair *pair, completion *completions, int n) noexcept nogil,
    bint (*alive)(queue_pair *pair) noexcept nogil) noexcept nogil

# For share() of a buffer: a view of its bytes (WrongBuffer unless they are contiguous), and their
# address.
cdef object buffer_bytes(object buffer)
cdef char *buffer_base(object view) except? NULL

# Copies a descriptor that a peer sent, and checks it; `what` names it in the message.  Raises
# HandshakeFailed.
cdef take_descriptor(bytes received, void *copy, size_t size, uint32_t magic, uint16_t provider,
                     str what)

# Mirrors that follow a served pool: their calls, their streams, and the work of each tick.
#
# A place belongs to a mirror's connection, from its first RNVM_MIRROR until the connection has
# ended.  `phase` says which thread uses its memory:
#
#   FREE --service--> RESERVED --control--> GIVEN --service--> RUNNING
#                        |                    |                   |       the connection ended:
#                        +--------------------+-------------------+--service--> ENDED --control-->
#                                                                                          FREE
#
# The control thread allocates the stream and the acknowledgements (GetMemory), and frees them; the
# service's thread never waits for it, and allocates only the replicator's notes, at the first one.
# Both leave RESERVED and GIVEN by compare-and-swap, as a connection may end while its memory is
# being made.  A place that is not used, or whose mirror was removed, ends a while before its
# connection does.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.server.service cimport request, response
from rnvm.backend.events cimport event_queue
from rnvm.format.replication cimport rnvm_ack
from rnvm.media.medium cimport replicated
from rnvm.pool.state cimport pool
from rnvm.replication.replicator cimport replicator

cdef enum:
    MIRROR_PLACES = 8                 # RNVM_MIRRORS_MAX

cdef enum:
    # Of logs that one step of the service collects, or applies, while mirrors follow; the last
    # record, or the last session's rings, may exceed it.
    PORTION_BYTES = 1 << 20

cdef enum:                     # mirror_place.phase
    PLACE_FREE = 0
    PLACE_RESERVED = 1
    PLACE_GIVEN = 2
    PLACE_RUNNING = 3
    PLACE_ENDED = 4

cdef struct mirror_place:
    uint64_t phase
    uint64_t ticket            # even: of the stream; | 1: of the acknowledgements
    uint64_t bytes             # of the stream's ring
    char *stream
    const rnvm_ack *words
    const void *client         # the connection
    uint32_t peer              # number of its process, or 0
    uint32_t state             # of its slot, as it was last reported
    int slot                   # of the replicator; -1: removed
    uint64_t began             # time in ns
    uint64_t removed           # time in ns when it was removed, or 0
    bint waits                 # the service waits for room in its stream also while it copies
    uint32_t reason            # why it was removed
    bint joins                 # it may become a mirror in sync
    uint8_t[32] member         # RNVM_MEMBER_MAX
    uint8_t[16] identity

cdef enum:                     # group_slot.wanted
    WANT_NOTHING = 0
    WANT_REQUIRED = 1          # its acknowledgements count
    WANT_IN_SYNC = 2           # the group's state lists it, too
    WANT_GONE = 3

cdef struct group_slot:
    uint64_t ticket            # of the mirror in this slot; 0: none.  Stored by the service
    uint64_t level             # its copy is complete, and it asks to join
    uint8_t[32] member
    uint8_t[16] identity
    uint64_t wanted_ticket     # stored by the control thread before `asked`
    uint32_t wanted

cdef struct mirror_list:
    replicator r
    replicated numbers         # while the replicator does not stand around the medium
    bint replicating           # the replicator stands around the medium
    pool *p
    event_queue *events
    uint8_t[16] uuid
    uint8_t[16] opening
    uint64_t epoch
    int min_mirrors            # below 0: no mirrors are accepted
    uint64_t patience          # ns
    uint64_t stream            # bytes of a stream's ring unless a mirror requests more
    uint64_t now
    uint64_t closing           # no step waits for room any more; stored by another thread
    mirror_place[8] each       # MIRROR_PLACES
    bint policy                # a group decides which mirrors are required, and which are in sync
    uint8_t[16] group
    group_slot[8] slots        # by the replicator's slot
    uint64_t asked             # serial of the group's last decision: stored by the control thread
    uint64_t done              # that the service has taken over
    uint64_t done_frame        # no frame that was published before that has this number

# uuid: of the pool; group: its id, or NULL.  Returns -1: no memory.
cdef int mirrors_begin(mirror_list *l, pool *p, event_queue *events, const uint8_t *uuid,
                       const uint8_t *opening, uint64_t epoch, int min_mirrors,
                       uint64_t patience, const uint8_t *group) noexcept nogil
# Ends all streams.  No service's thread runs any more.
cdef void mirrors_end(mirror_list *l) noexcept nogil
# Calls; client: the connection.
cdef void call_mirror(mirror_list *l, const request *asked, response *answer, const void *client,
                      uint32_t peer) noexcept nogil
cdef void call_level(mirror_list *l, const request *asked, response *answer,
                     const void *client) noexcept nogil
# A connection has ended.
cdef void mirrors_left(mirror_list *l, const void *client) noexcept nogil
# Each tick, before anything is applied: reads acknowledgements, removes mirrors that are too slow.
cdef void mirrors_tick(mirror_list *l, uint64_t now) noexcept nogil
# Whether the service may publish more: if not, a mirror is behind, and nothing may be written to
# the pool until it has caught up or was removed.
cdef bint mirrors_have_room(const mirror_list *l) noexcept nogil
# Waits until there is room: at most until the mirrors that are behind have lost their patience.
cdef void mirrors_await_room(mirror_list *l) noexcept nogil

# The primary's side of replication: it stands around the medium of a served pool, notes what is
# written, and publishes it at each drain as a frame, in the stream of each mirror.
#
#   write, write64, flush   the medium's own, and a note
#   drain                   a frame with the bytes of all notes (now, from the pool's memory) into
#                           each stream, number + 1; then the medium's own drain, so that the
#                           mirrors work at the same time
#
# Only the thread that writes the pool calls any of this.  A pool without a replicator pays nothing.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.replication cimport rnvm_ack
from rnvm.format.wal cimport rnvm_frame
from rnvm.media.medium cimport medium, medium_operations, replicated
from rnvm.replication.stream cimport stream

cdef enum:
    REPLICA_NOTES = 1024
    MOMENTS_MAX = 64

cdef struct replica_note:      # multiples of 8
    uint64_t begin
    uint64_t end

cdef struct moment:            # frames behind `published` are published after this time
    uint64_t published
    uint64_t time

cdef struct mirror_slot:
    uint32_t state             # RNVM_SLOT_FREE, RNVM_COPYING ...
    uint32_t reason            # RNVM_GONE, RNVM_LEAVING: RNVM_LOST_PATIENCE ...
    bint waited                # while COPYING the service waits for room in its stream, too
    stream s
    const rnvm_ack *words      # the mirror's; copied once, checked
    uint64_t first             # number of the last frame that is not in its stream
    uint64_t acked             # checked copies
    uint64_t received
    uint64_t joined            # published when JOINING began
    # what it acknowledged last was sent after this time (ns; with a policy: of CLOCK_BOOTTIME)
    uint64_t sent
    # patience: it must have acknowledged `target`, which was published at `since`
    uint64_t target
    uint64_t target_tail       # the stream's end then: what it has acknowledged, it has consumed
    uint64_t since

cdef struct replicator:
    replicated numbers         # medium.replication points here
    replicated *before         # where it pointed before: gets the numbers back; or NULL
    medium *m
    const medium_operations *inner
    rnvm_geometry g
    uint32_t seed
    uint8_t[16] opening
    uint8_t[16] group
    uint8_t[16] uuid
    uint32_t live              # slots whose stream has not ended
    uint32_t required          # JOINING, IN_SYNC or LEAVING
    bint policy                # a group moves JOINING -> IN_SYNC and LEAVING -> free
    bint wakes                 # wake mirrors of this host that sleep, at each publication
    uint64_t patience          # ns
    uint64_t empty             # an empty frame after this time without a frame (ns); 0: never
    mirror_slot[8] slots       # RNVM_MIRRORS_MAX
    uint32_t count             # of notes
    replica_note *notes
    rnvm_frame *piece          # RNVM_PIECE_MAX bytes: the piece being built
    uint32_t index             # of the next piece of the frame
    uint64_t noted             # bytes in notes
    uint64_t spoken            # time of the first poll without a new frame
    bint silent                # no frame since then
    uint64_t overruns
    bint changed               # a state, since the last poll
    uint64_t until             # policy: ns of CLOCK_BOOTTIME until which may be answered
    uint64_t clock             # when it was computed
    moment[64] moments         # MOMENTS_MAX, a ring
    uint32_t moment_first
    uint32_t moment_count

# Stands around the medium from now on.  opening: 16 random bytes of this start; group: 16 bytes, or
# NULL.  Goes on with the numbers at medium.replication, if there are some; else the first frame
# that is published has number RNVM_FIRST_FRAME + 1: what came before is the virtual frame
# RNVM_FIRST_FRAME.  Returns 0; -1: no memory.
cdef int replicator_begin(replicator *r, medium *m, const rnvm_geometry *g, uint64_t epoch,
                          const uint8_t *opening, const uint8_t *group,
                          const uint8_t *uuid) noexcept nogil
# Gives the medium back as it was, ends all streams (RNVM_LOST_CLOSED), frees all.  May be called
# after the medium was closed.
cdef void replicator_end(replicator *r) noexcept nogil
# Adds a mirror with state RNVM_COPYING.  memory: zeroed, RNVM_STREAM_RING bytes and a ring of at
# least RNVM_STREAM_MIN; words: one line that the mirror stores.  Drains first, so that its stream
# contains exactly the frames after slots[].first.  Returns its slot; -1: none is free; -2: the
# medium failed.
cdef int replicator_add(replicator *r, char *memory, uint64_t bytes, const rnvm_ack *words,
                        uint64_t now) noexcept nogil
cdef void replicator_set_state(replicator *r, int slot, uint32_t state) noexcept nogil
# Ends its stream.  It stays required, as LEAVING, if it was; else it is GONE.
cdef void replicator_lose(replicator *r, int slot, uint32_t reason) noexcept nogil
# Ends its stream and frees the slot: the memory may go, and acknowledgements do not count any more.
cdef void replicator_remove(replicator *r, int slot, uint32_t reason) noexcept nogil
# Reads the acknowledgements, advances `acked`, ends mirrors that lied or were too slow, publishes
# an empty frame if it is time.  Returns True: something changed (acked, a state).
cdef bint replicator_poll(replicator *r, uint64_t now) noexcept nogil
# The same, with the time of CLOCK_BOOTTIME given (without a policy: `now`).
cdef bint replicator_poll_at(replicator *r, uint64_t now, uint64_t boot) noexcept nogil
# Publishes what is noted, or an empty frame, without a drain.
cdef void replicator_publish(replicator *r) noexcept nogil
# Returns whether every stream has room for what one step of the service may publish.
cdef bint replicator_has_room(const replicator *r) noexcept nogil
# Stores the line for front-ends.  Each drain stores its `published`, and each poll all of it.
cdef void replicator_show(const replicator *r) noexcept nogil

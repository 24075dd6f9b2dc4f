# cython: nonecheck=True
"""One connection of a mirror to its primary: catch-up, then frame by frame.

One thread, M, does everything here; other threads call stop() and read figures alone.

Catch-up
--------
    for each chunk     take all frames published so far; READ the chunk from the primary's pool;
                       write the lines that differ
    then               take all frames published before the end of the last READ; the copy is whole

A frame's bytes are in the primary's pool before the frame is published, so a chunk that is READ
after frame A was applied contains all of A; and what it contains of later frames, whole or in part,
is written again when these frames are applied.

Following
---------
    stream's first line --> new bytes into private memory --> applied, durable --> acknowledged

With nothing new, M polls for a short time, then sleeps: on shm on the futex of the stream's tail,
which the primary wakes if ack.waits is set; over a network for growing pauses, and READs the line
again.  The READ, and the pair's liveness, show a primary that is gone.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.stat cimport fstat, struct_stat
from posix.time cimport nanosleep, timespec

from rfp.core.core cimport (
    rfp_boot_now, rfp_fence_full, rfp_futex_wait, rfp_futex_wake, rfp_load32, rfp_load64,
    rfp_load64_acquire,
    rfp_now, rfp_pause, rfp_store32, rfp_store64,
)
from rfp.fabric.fabric cimport (
    READ, REMOTE_READ, REMOTE_WRITE, WRITE_NOTIFY, Region, RemoteRegion, remote_region,
    work_request,
)
from rfp.fabric.shm.region cimport ShmFabric
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, FETCH, TIMED_OUT, client_ring, client_ring_abandon, client_ring_flush,
    client_ring_payload, client_ring_pop, client_ring_response, client_ring_submit,
)
from rfp.protocol.client.client_wait cimport client_ring_check_alive, client_ring_wait
from rfp.protocol.client.one_sided cimport client_ring_transfers
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, RemoteArena, remote_arena_find,
)
from rfp.protocol.wire cimport RFP_RESPONSE_HEADER, rfp_response_header
from rnvm.format.layout cimport (
    RNVM_HEADERS, RNVM_LINE, RNVM_MAJOR, RNVM_PAGE, RNVM_SUPERBLOCKS, rnvm_geometry,
    rnvm_geometry_of, rnvm_header, rnvm_superblock,
)
from rnvm.format.messages cimport (
    RNVM_BAD_REQUEST, RNVM_GOOD, RNVM_LEVEL, RNVM_MIRROR, RNVM_NOT_ATTACHED, RNVM_NO_SESSION_LEFT,
    RNVM_OTHER_POOL, RNVM_OTHER_VERSION, RNVM_STOPPED,
)
from rnvm.format.replication cimport (
    RNVM_CATCHING_UP, RNVM_IN_SYNC, RNVM_MEMBER_MAX, RNVM_MIRROR_MEMBER, RNVM_MIRROR_WAITS,
    RNVM_REPLICATION, RNVM_STREAM_MAGIC, RNVM_STREAM_MIN, RNVM_STREAM_RING, rnvm_ack, rnvm_identity,
    rnvm_level, rnvm_mirror, rnvm_mirrored, rnvm_replicated, rnvm_stream,
)
from rnvm.format.wal cimport rnvm_frame
from rnvm.media.identity cimport identity_read, identity_write
from rnvm.media.medium cimport Medium, medium, medium_drain, medium_write, raise_failed
from rnvm.media.pool_header cimport header_read, header_write, superblock_read
from rnvm.media.wal cimport wal_format
from rnvm.replication.applier cimport applier, applier_begin, applier_take, applier_trouble
from rnvm.replication.copier cimport copier_begin, copier_chunk, copier_end

import os

from rfp.errors import (
    Closed, ConnectionFailed, DeadlineExceeded, HandshakeFailed, PoolRefused, QuotaExceeded,
    StorageFailed, Unsupported,
)
from rnvm.frontend.session import SAME_RELEASE

cdef enum:
    SPIN_NS = 20000            # of polling before M sleeps
    SPINNERS = 2               # on the primary's host: its thread, and a front-end's
    SLEPT_NS_MAX = 50000000    # on the futex: also the time between two polls for liveness
    REST_NS_MIN = 20000       # between two READs of the stream's first line, over a network
    REST_NS_MAX = 1000000
    TRANSFER_NS_MAX = 10000000000      # for one READ or WRITE
    # Bytes that catch-up may write between two drains.
    DRAIN_BYTES = 8 << 20
    FEW_FRAMES = 16
    FINISH_TRIES = 20
    LANDING = 1 << 18          # CHUNK_MAX: bytes of one READ
    LINE_AT = LANDING          # in the buffer: the stream's first lines; then the acknowledgements
    ACK_AT = LINE_AT + 192
    BUFFER = ACK_AT + 64

cdef enum:                     # results of the steps below 0
    STEP_CLOSED = -1           # stop() was called
    STEP_LOST = -2             # the connection is lost
    STEP_ENDED = -3            # the primary ended the stream
    STEP_BAD = -4              # the primary publishes what cannot be: applier.error
    STEP_FAILED = -5           # the mirror's own medium failed
    STEP_REMOVED = -6          # the copy's file was removed or replaced

ENDINGS = {
    1: "the primary removed this mirror: it did not acknowledge in time",
    2: "the primary removed this mirror: its stream was full",
    3: "the primary removed this mirror: its acknowledgements could not be",
    4: "the primary removed this mirror",
    5: "the primary was closed",
}
PATIENCE, OVERRUN = 1, 2


class StreamEnded(ConnectionFailed):
    """The primary ended the stream; `reason` is its number."""

    def __init__(self, reason):
        super().__init__(ENDINGS.get(reason, "the primary ended the stream"),
                         hint="the mirror connects and compares again")
        self.reason = reason


cdef class Follower:
    """A mirror's connection to its primary.

    Args:
        opener: Makes the connection.
        deadline: Of connecting, ns of the monotonic clock.
        stream: Bytes of the stream that the mirror requests; 0: the primary decides.
        member: The mirror's name in the primary's figures.
        in_group: It is a member of the primary's group.
        waits: The primary waits for room in the stream also while the copy is not whole.
        connected: Called with this object as soon as stop() ends its calls.

    Raises:
        ConnectionFailed, HandshakeFailed, DeadlineExceeded: The primary cannot be reached.
        QuotaExceeded: The primary has as many mirrors as it can have.
        StorageFailed: The primary's medium failed.
    """
    cdef readonly object link
    cdef Channel channel
    cdef client_ring *ring
    cdef RemoteArena arena
    cdef RemoteRegion shown            # the stream
    cdef RemoteRegion words            # the acknowledgements
    cdef Region buffer
    cdef bint mapped
    cdef readonly uint64_t ticket
    cdef uint8_t[32] member            # RNVM_MEMBER_MAX
    cdef bint in_group
    cdef rnvm_header header
    cdef rnvm_superblock superblock
    cdef rnvm_geometry g
    cdef rnvm_mirrored given
    cdef rnvm_stream line              # the first line that was read last, and the constant ones
    cdef rnvm_ack ack                  # as the primary has it
    cdef Medium medium
    cdef applier a
    cdef rnvm_identity identity
    cdef rnvm_identity theirs          # the primary's
    cdef bint marked                   # the copy is durably not whole
    cdef bint applying                 # a is in use
    cdef uint64_t behind               # bytes written by catch-up since the last drain
    cdef uint64_t alive                # time of the last poll for liveness
    cdef uint64_t spin_ns              # of polling before M sleeps
    cdef uint32_t stopping
    cdef int file                          # the copy's, or -1
    cdef readonly uint64_t promised_at  # CLOCK_BOOTTIME, ns, before the last acknowledgement; or 0
    cdef readonly uint64_t copied      # bytes that catch-up has compared
    cdef readonly uint64_t changed     # bytes of them that it has written

    def __cinit__(self, opener, uint64_t deadline, *, uint64_t stream=0, str member="",
                  bint in_group=False, bint waits=False, connected=None):
        cdef rnvm_mirror question
        self.in_group = in_group
        name = member.encode()[:RNVM_MEMBER_MAX]
        try:
            self.link = opener(deadline)
            self.channel = self.link.attach(deadline)
            if connected is not None:
                connected(self)
            self.ring = self.channel.c.rings[0]
            self.ring.paradigm = FETCH
            self.mapped = (type(self.link.fabric) is ShmFabric
                           and not self.channel.rings[0].pair.emulated)
            # Polling on a processor that the primary or its front-end needs would hold them up.
            self.spin_ns = 0 if self.mapped and (os.cpu_count() or 1) <= SPINNERS else SPIN_NS
            self.buffer = self.link.fabric.register(BUFFER, 0)
            self.arena = self.link.arenas[0]
            if self.arena is None:
                raise HandshakeFailed("the back-end shares no pool", hint=SAME_RELEASE)
            self.read_header(deadline)
            memset(&question, 0, sizeof(question))
            question.version = RNVM_REPLICATION
            question.flags = RNVM_MIRROR_MEMBER if in_group else 0
            question.flags |= RNVM_MIRROR_WAITS if waits else 0
            question.stream = stream
            memcpy(question.pool, self.header.uuid, sizeof(question.pool))
            memset(self.member, 0, sizeof(self.member))
            memcpy(self.member, <const char *> name, len(name))
            memcpy(question.member, self.member, sizeof(question.member))
            self.call(RNVM_MIRROR, &question, sizeof(question), &self.given, sizeof(self.given),
                      deadline)
            self.ticket = self.given.ticket
            if self.given.size != self.superblock.size:
                raise HandshakeFailed("invalid response from the back-end to mirror: the pool has "
                                      f"{self.superblock.size} bytes, not {self.given.size}",
                                      hint=SAME_RELEASE)
            self.shown = self.link.memory(self.ticket, REMOTE_READ, deadline)
            self.words = self.link.memory(self.ticket | 1, REMOTE_WRITE, deadline)
            if (self.given.stream < RNVM_STREAM_MIN or self.words.c.length < sizeof(rnvm_ack)
                    or self.shown.c.length < self.given.stream + RNVM_STREAM_RING):
                raise HandshakeFailed("invalid response from the back-end to mirror: "
                                      f"a stream of {self.shown.c.length} bytes",
                                      hint=SAME_RELEASE)
        except BaseException:
            self.close()
            raise

    # The pool's description

    cdef int read_header(self, uint64_t deadline) except -1:
        """Read the primary's header and superblock."""
        cdef medium pages              # the first pages, in the buffer
        self.fetch_pool(0, 4 * RNVM_PAGE, deadline)
        memset(&pages, 0, sizeof(pages))
        pages.base = self.buffer.c.base
        pages.length = 4 * RNVM_PAGE
        if not header_read(&pages, &self.header):
            raise HandshakeFailed("the primary's pool has no whole header", hint=SAME_RELEASE)
        if (not superblock_read(&pages, &self.header, &self.superblock)
                or self.header.major != RNVM_MAJOR
                or not rnvm_geometry_of(&self.header, self.superblock.size, &self.g)
                or self.arena.c.length < self.superblock.size):
            raise HandshakeFailed("the sizes in the header of the primary's pool are impossible",
                                  hint=SAME_RELEASE)
        identity_read(&pages, &self.theirs)
        return 0

    cdef int fetch_pool(self, uint64_t at, uint64_t n, uint64_t deadline) except -1:
        """Read bytes of the primary's pool into the buffer."""
        cdef int step
        self.link.map_chunks(0, at, n, deadline)
        with nogil:
            step = self.read_pool(at, n)
        return self.raise_for(step)

    @property
    def head(self):
        """Return the primary's header and superblock, each as in the first of its copies."""
        cdef char[16384] pages
        memset(pages, 0, sizeof(pages))
        memcpy(pages + RNVM_HEADERS, &self.header, sizeof(self.header))
        memcpy(pages + RNVM_SUPERBLOCKS, &self.superblock, sizeof(self.superblock))
        return (<char *> pages)[:16384]

    @property
    def size(self):
        """Return the size of the primary's pool in bytes."""
        return self.superblock.size

    @property
    def pool(self):
        """Return the UUID of the pool, as bytes."""
        return (<char *> self.header.uuid)[:16]

    @property
    def epoch(self):
        """Return the primary's epoch."""
        return self.given.epoch

    @property
    def group(self):
        """Return the id of the group whose primary this is, as bytes; zeros: of none."""
        return (<char *> self.theirs.group)[:16]

    @property
    def stream_bytes(self):
        """Return the bytes of the stream's ring."""
        return self.given.stream

    # Calls

    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer,
                  uint32_t length, uint64_t deadline) except -1:
        """Call the primary; its answer must have this length.

        The response comes at once: while the call waits, no frame is taken.
        """
        cdef char *payload = client_ring_payload(self.ring)
        cdef const rfp_response_header *header
        cdef int outcome
        cdef uint32_t status, got
        if payload == NULL:
            raise ConnectionFailed("the connection to the primary is lost")
        memcpy(payload, question, n)
        client_ring_submit(self.ring, opcode, 0, 0, n, 0)
        with nogil:
            client_ring_flush(self.ring)
            outcome = client_ring_wait(self.ring, deadline)
        if outcome == TIMED_OUT:
            client_ring_abandon(self.ring)
            raise DeadlineExceeded("timed out waiting for the primary's response")
        if outcome == CLOSED:
            raise Closed("the mirror is closed")
        if outcome != DONE:
            raise ConnectionFailed("the connection to the primary is lost")
        header = client_ring_response(self.ring)
        status = header.status
        got = header.length
        if status == RNVM_GOOD and got == length and length:
            memcpy(answer, <const char *> header + RFP_RESPONSE_HEADER, length)
        client_ring_pop(self.ring)
        if status == RNVM_STOPPED:
            raise StorageFailed("the primary has stopped: its medium failed or its pool was "
                                "removed", hint="restart the back-end: it recovers the pool")
        if status == RNVM_NO_SESSION_LEFT:
            raise QuotaExceeded("the back-end has as many mirrors as it can have",
                                hint="end one of them")
        if status == RNVM_OTHER_POOL:
            raise PoolRefused("the back-end serves another pool than the one that this copy is of",
                              hint="give another path for the copy")
        if status == RNVM_NOT_ATTACHED:
            raise ConnectionFailed("the primary does not know this mirror any more")
        if status == RNVM_OTHER_VERSION or status == RNVM_BAD_REQUEST:
            raise Unsupported("the back-end does not accept this mirror: it is of another release",
                              hint=SAME_RELEASE)
        if status != RNVM_GOOD or got != length:
            raise HandshakeFailed(f"invalid response from the back-end (status {status}, "
                                  f"{got} bytes)", hint=SAME_RELEASE)
        return 0

    cdef int raise_for(self, int step) except -1:
        """Raise the error of a step below 0."""
        if step >= 0:
            return 0
        if step == STEP_CLOSED:
            raise Closed("the mirror is closed")
        if step == STEP_ENDED:
            raise StreamEnded(self.line.ended)
        if step == STEP_BAD:
            reason = applier_trouble(self.a.error) if self.applying and self.a.error \
                else "impossible positions"
            raise HandshakeFailed(f"the primary's stream is invalid: {reason}", hint=SAME_RELEASE)
        if step == STEP_FAILED:
            raise_failed(&self.medium.c)
        if step == STEP_REMOVED:
            raise StorageFailed("the copy's file was removed or replaced",
                                hint="start a mirror on a new file")
        raise ConnectionFailed("the connection to the primary is lost")

    # READs and WRITEs

    cdef int transfer(self, work_request *work) noexcept nogil:
        cdef int outcome = client_ring_transfers(self.ring, work, 1, rfp_now() + TRANSFER_NS_MAX)
        if rfp_load32(&self.stopping):
            return STEP_CLOSED
        return 0 if outcome == DONE else STEP_LOST

    cdef int fetch(self, remote_region *source, uint64_t offset, uint64_t n,
                   uint64_t to) noexcept nogil:
        """READ into the buffer."""
        cdef work_request work
        work.opcode = READ
        work.local = &self.buffer.c
        work.local_offset = to
        work.remote = source
        work.remote_offset = offset
        work.length = n
        return self.transfer(&work)

    cdef int read_pool(self, uint64_t at, uint64_t n) noexcept nogil:
        """READ from the primary's pool into the buffer; its chunks are attached."""
        cdef remote_region *region = NULL
        cdef uint64_t offset = 0, part = 0, to = 0
        cdef int step
        while n:
            if remote_arena_find(&self.arena.c, at, n, &region, &offset, &part) != ARENA_HERE:
                return STEP_LOST
            step = self.fetch(region, offset, part, to)
            if step:
                return step
            at += part
            to += part
            n -= part
        return 0

    cdef int look(self) noexcept nogil:
        """Read the stream's first line."""
        cdef const rnvm_stream *there
        cdef int step
        if self.mapped:
            there = <const rnvm_stream *> self.shown.c.base
            # The tail last: published and ended belong to it, or are newer.
            self.line.tail = rfp_load64_acquire(&there.tail)
            self.line.published = rfp_load64(&there.published)
            self.line.state = rfp_load64(&there.state)
            self.line.acked = rfp_load64(&there.acked)
            self.line.ended = rfp_load64_acquire(&there.ended)
        else:
            step = self.fetch(&self.shown.c, 0, RNVM_LINE, LINE_AT)
            if step:
                return step
            memcpy(&self.line, self.buffer.c.base + LINE_AT, RNVM_LINE)
        if self.line.tail < self.ack.consumed \
                or self.line.tail - self.ack.consumed > self.given.stream:
            return STEP_ENDED if self.line.ended else STEP_BAD
        return 0

    cdef int acknowledge(self) noexcept nogil:
        """Store the acknowledgements in the primary's memory, and wake it."""
        cdef work_request work
        # The promise of a group's mirror counts from here: later than the frame was received.
        rfp_store64(&self.promised_at, rfp_boot_now())
        memcpy(self.buffer.c.base + ACK_AT, &self.ack, sizeof(self.ack))
        memset(&work, 0, sizeof(work))
        work.opcode = WRITE_NOTIFY
        work.local = &self.buffer.c
        work.local_offset = ACK_AT
        work.remote = &self.words.c
        work.length = sizeof(self.ack)
        return self.transfer(&work)

    # Frames

    cdef int mark(self) noexcept nogil:
        """Mark the copy durably as not whole, before anything is copied over it."""
        if self.marked:
            return 0
        self.marked = True
        return STEP_FAILED if copier_begin(&self.medium.c, &self.header, &self.identity) else 0

    cdef int take(self) noexcept nogil:
        """Apply what look() found, or a part of it; return 1 if there was something."""
        cdef uint64_t at, n, used = 0
        cdef int64_t done
        cdef const rnvm_frame *piece
        cdef int step
        if self.line.tail == self.ack.consumed:
            return STEP_ENDED if self.line.ended else 0
        at = self.ack.consumed % self.given.stream
        n = min(self.line.tail - self.ack.consumed, self.given.stream - at)
        n = min(n, <uint64_t> LANDING)
        step = self.fetch(&self.shown.c, RNVM_STREAM_RING + at, n, 0)
        if step:
            return step
        piece = <const rnvm_frame *> self.buffer.c.base
        if not self.marked and not (n == RNVM_LINE and piece.ranges == 0):
            step = self.mark()
            if step:
                return step
        while used < n:
            done = applier_take(&self.a, self.buffer.c.base + used, n - used)
            if done < 0:
                return STEP_FAILED if self.medium.c.error else STEP_BAD
            if not done:
                break
            used += <uint64_t> done
        if not used:
            # A piece that is not whole: of an overrun stream, or of a faulty primary.
            return STEP_ENDED if self.line.ended else STEP_BAD
        self.ack.consumed = self.ack.consumed + used
        self.ack.received = self.a.received
        self.ack.acked = self.a.applied
        step = self.acknowledge()
        return step if step else 1

    cdef int take_all(self) noexcept nogil:
        """Apply all frames published until now."""
        cdef int step = self.look()
        cdef uint64_t until = self.line.tail
        while not step and self.ack.consumed < until:
            step = self.take()
            if step == 1:
                step = 0
            elif not step:
                return STEP_BAD
        if not step and self.line.ended:
            return STEP_ENDED
        return step

    # Catch-up

    def begin(self, Medium copy not None, uint64_t deadline, int file=-1, *, bint mirrors=True):
        """Make the primary publish frames from now on, for the copy on this medium.

        Args:
            file: Descriptor of the copy's file, which must not be removed; -1: none.
            mirrors: Also refuse to overwrite a pool that was itself served after this primary was
                opened; a backup overwrites one.

        Raises:
            ConnectionFailed, HandshakeFailed, DeadlineExceeded: The primary's answer.
        """
        cdef rnvm_mirror question
        cdef int step
        self.medium = copy
        self.file = file
        copy.check(0, self.superblock.size)
        identity_read(&copy.c, &self.identity)
        self.marked = self.identity.state == RNVM_CATCHING_UP
        memset(&question, 0, sizeof(question))
        question.version = RNVM_REPLICATION
        question.ticket = self.ticket
        memcpy(question.pool, self.header.uuid, sizeof(question.pool))
        self.call(RNVM_MIRROR, &question, sizeof(question), &self.given, sizeof(self.given),
                  deadline)
        with nogil:
            step = self.fetch(&self.shown.c, 0, sizeof(self.line), LINE_AT)
            if not step:
                memcpy(&self.line, self.buffer.c.base + LINE_AT, sizeof(self.line))
        self.raise_for(step)
        if (self.given.ticket != self.ticket or self.line.magic != RNVM_STREAM_MAGIC
                or self.line.version != RNVM_REPLICATION or self.line.size != self.given.stream
                or self.given.stream < RNVM_STREAM_MIN or self.given.stream % RNVM_LINE
                or self.line.epoch != self.given.epoch
                or self.shown.c.length < self.given.stream + RNVM_STREAM_RING
                or memcmp(self.line.uuid, self.header.uuid, sizeof(self.line.uuid))):
            raise HandshakeFailed("the primary's stream is not one that this release understands",
                                  hint=SAME_RELEASE)
        self.refuse_earlier(mirrors)
        if self.in_group:
            self.keep_epoch()
        memcpy(self.theirs.group, self.line.group, sizeof(self.theirs.group))
        memset(&self.ack, 0, sizeof(self.ack))
        self.ack.acked = self.ack.received = self.line.first
        applier_begin(&self.a, &copy.c, &self.g, self.line.epoch, self.line.first,
                      self.line.opening, self.line.group)
        # No order of drains matters before the copy is whole, and a disk that synced each frame
        # would never catch up with a primary in memory.
        self.a.unwhole = True
        self.applying = True
        self.alive = rfp_now()

    cdef int keep_epoch(self) except -1:
        """Let the mark of a copy that is not whole name its group and the highest epoch seen."""
        self.identity.epoch = max(self.identity.epoch, self.line.epoch)
        memcpy(self.identity.group, self.line.group, sizeof(self.identity.group))
        memcpy(self.identity.member, self.member, sizeof(self.member))
        if self.marked and identity_write(&self.medium.c, &self.identity):
            raise_failed(&self.medium.c)
        return 0

    cdef int refuse_earlier(self, bint mirrors) except -1:
        """Raise if the copy has followed, or was, a later primary of the same origin."""
        cdef uint64_t seen = self.identity.epoch
        cdef rnvm_header header
        cdef rnvm_superblock superblock
        # A group counts epochs of its own: those of before, or of another group, say nothing.
        if memcmp(self.identity.group, self.line.group, sizeof(self.line.group)):
            return 0
        if (mirrors and not any_byte(self.line.group, sizeof(self.line.group)) and not self.marked
                and header_read(&self.medium.c, &header)
                and superblock_read(&self.medium.c, &header, &superblock)):
            seen = max(seen, superblock.opened)
        if self.line.epoch < seen:
            raise HandshakeFailed(
                f"the back-end is of epoch {self.line.epoch}, but this copy has followed, or was, "
                f"a primary of epoch {seen}: it may have changes that the back-end lacks",
                hint="connect to the present primary; if that is this back-end, for instance on a "
                     "restored backup, remove the copy, or give another path")
        return 0

    def copy(self, uint64_t at, uint64_t n, uint64_t deadline):
        """Apply all frames published so far, then copy n bytes of the pool, at most a chunk.

        Raises:
            StreamEnded, ConnectionFailed, HandshakeFailed, DeadlineExceeded: The primary.
            StorageFailed: The mirror's own medium.
        """
        cdef int step
        self.link.map_chunks(0, at, n, deadline)
        with nogil:
            step = self.take_all()
            if not step:
                step = self.read_pool(at, n)
            if not step:
                step = self.write_chunk(at, n)
        self.raise_for(step)
        self.copied += n

    cdef int write_chunk(self, uint64_t at, uint64_t n) noexcept nogil:
        cdef int64_t written
        cdef int step
        if not self.marked and self.differs(at, n):
            step = self.mark()
            if step:
                return step
        if not self.marked:
            return 0
        written = copier_chunk(&self.medium.c, &self.g, at, self.buffer.c.base, n)
        self.changed = self.changed + <uint64_t> written
        self.behind = self.behind + <uint64_t> written
        if self.behind >= DRAIN_BYTES:
            self.behind = 0
            if medium_drain(&self.medium.c):
                return STEP_FAILED
        return 0

    cdef bint differs(self, uint64_t at, uint64_t n) noexcept nogil:
        """Return whether a chunk differs from the copy, in any line that is replicated."""
        cdef uint64_t place = max(at, <uint64_t> RNVM_SUPERBLOCKS), stop
        cdef uint64_t end = min(at + n, self.g.size) & ~<uint64_t> (RNVM_LINE - 1)
        while place < end:
            place = rnvm_replicated(&self.g, place, end, &stop)
            if place < stop and memcmp(self.medium.c.base + place,
                                       self.buffer.c.base + (place - at), stop - place):
                return True
            place = stop
        return False

    def finish(self, uint64_t deadline):
        """Apply what was published before the last READ; from now on the copy is whole.

        Raises:
            As copy().
        """
        cdef int step, tries = FINISH_TRIES
        cdef bytes random = os.urandom(sizeof(self.identity.identity))
        cdef const char *fresh = random
        # On one host, READs go on after the primary has died, in memory that the next back-end may
        # change.  An answer after the last READ shows that all of them were of this primary.  The
        # primary may be waiting for room in this stream: it answers only when there is some.
        with nogil:
            step = self.take_all()
        self.raise_for(step)
        self.confirm(deadline)
        with nogil:
            step = self.take_all()
            while not step and tries:
                # Only few frames may be left: from then on each one is made durable by itself.
                tries -= 1
                step = STEP_FAILED if medium_drain(&self.medium.c) else self.look()
                if step or self.line.published - self.a.applied <= FEW_FRAMES:
                    break
                step = self.take_all()
            if not step:
                # Only now: a mark that the copy is not whole erases the identity.
                memcpy(self.identity.identity, fresh, sizeof(self.identity.identity))
                memset(self.identity.group, 0, sizeof(self.identity.group))
                if self.in_group:
                    memcpy(self.identity.group, self.line.group, sizeof(self.identity.group))
                memcpy(self.identity.member, self.member, sizeof(self.member))
                memcpy(self.identity.opening, self.line.opening, sizeof(self.identity.opening))
                self.identity.epoch = self.line.epoch
                if medium_drain(&self.medium.c) or copier_end(&self.medium.c, &self.g,
                                                              &self.header, &self.identity):
                    step = STEP_FAILED
            if not step:
                self.marked = True             # it is whole: frames may be applied now
                self.a.unwhole = False
        self.raise_for(step)

    cdef int confirm(self, uint64_t deadline) except -1:
        """Raise ConnectionFailed unless the primary still publishes frames for this mirror."""
        cdef rnvm_mirror question
        cdef rnvm_mirrored again
        memset(&question, 0, sizeof(question))
        question.version = RNVM_REPLICATION
        question.ticket = self.ticket
        memcpy(question.pool, self.header.uuid, sizeof(question.pool))
        self.call(RNVM_MIRROR, &question, sizeof(question), &again, sizeof(again), deadline)
        if memcmp(again.opening, self.line.opening, sizeof(again.opening)):
            raise ConnectionFailed("another primary answered")
        return 0

    def join(self, uint64_t deadline):
        """Tell the primary that the copy is whole: it waits for this mirror from now on.

        Raises:
            As begin().
        """
        cdef rnvm_level question
        memset(&question, 0, sizeof(question))
        question.ticket = self.ticket
        memcpy(question.identity, self.identity.identity, sizeof(question.identity))
        self.call(RNVM_LEVEL, &question, sizeof(question), NULL, 0, deadline)

    # Following

    def follow(self, double seconds):
        """Apply frames for some time; return early when the mirror's state has changed.

        Raises:
            As copy().
        """
        cdef int step
        cdef uint64_t until = rfp_now() + <uint64_t> (seconds * 1e9)
        with nogil:
            step = self.follow_until(until)
        self.raise_for(step)

    cdef int follow_until(self, uint64_t until) noexcept nogil:
        cdef uint64_t now = rfp_now(), idle = now, pause = REST_NS_MIN
        cdef uint64_t state = self.line.state
        cdef struct_stat about
        cdef int step
        while now < until and self.line.state == state:
            if rfp_load32(&self.stopping):
                return STEP_CLOSED
            step = self.look()
            if not step:
                step = self.take()
            if step < 0:
                return step
            now = rfp_now()
            if now - self.alive > SLEPT_NS_MAX:
                self.alive = now
                if not client_ring_check_alive(self.ring, now):
                    return STEP_LOST
                if self.file >= 0 and fstat(self.file, &about) == 0 and about.st_nlink == 0:
                    return STEP_REMOVED
            if step:
                idle = now
                pause = REST_NS_MIN
                continue
            if now - idle < self.spin_ns:
                rfp_pause()
            elif self.mapped:
                self.sleep(until - now)
            else:
                nap(min(pause, until - now))
                pause = min(2 * pause, <uint64_t> REST_NS_MAX)
        return 0

    cdef void sleep(self, uint64_t ns) noexcept nogil:
        """Sleep until the primary publishes something, or has no time to say so."""
        cdef rnvm_ack *words = <rnvm_ack *> self.words.c.base
        cdef const rnvm_stream *there = <const rnvm_stream *> self.shown.c.base
        # One handshake with the primary's store of the tail, fence and load of `waits`: one side
        # observes the other's store.
        rfp_store64(&words.waits, 1)
        rfp_fence_full()
        if rfp_load64(&there.tail) == self.line.tail and not rfp_load64(&there.ended) \
                and not rfp_load32(&self.stopping):
            rfp_futex_wait(&there.tail, <uint32_t> self.line.tail, min(ns, <uint64_t> SLEPT_NS_MAX))
        rfp_store64(&words.waits, 0)

    # For other threads

    def stop(self):
        """Make a call in progress return; safe from any thread, also after close()."""
        cdef RemoteRegion shown = self.shown
        rfp_store32(&self.stopping, 1)
        if self.channel is not None:
            self.channel.interrupt()
        if self.mapped and shown is not None and shown.c.base != NULL:
            rfp_futex_wake(shown.c.base)

    @property
    def applied(self):
        """Return the number of the last frame that is durable here."""
        return self.ack.acked

    @property
    def published(self):
        """Return the number of the last frame that the primary was seen to have published."""
        return self.line.published

    @property
    def behind_bytes(self):
        """Return the bytes of the stream that were seen and not applied yet."""
        return self.line.tail - self.ack.consumed if self.line.tail > self.ack.consumed else 0

    @property
    def in_sync(self):
        """Return whether the primary waits for this mirror's acknowledgements."""
        return self.line.state == RNVM_IN_SYNC

    @property
    def identity_bytes(self):
        """Return the copy's identity; zeros while it has none."""
        return (<char *> self.identity.identity)[:16]

    def forked(self):
        """Forget the connection in the child of a fork: it is the parent's."""
        self.link.forked()

    def close(self):
        """Close the connection; may be called again.  No call may be in progress."""
        self.medium = None
        self.applying = False
        if self.link is not None:
            self.link.close()
        if self.buffer is not None:
            self.buffer.close()


cdef bint any_byte(const uint8_t *bytes, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if bytes[i]:
            return True
    return False


cdef void nap(uint64_t ns) noexcept nogil:
    cdef timespec wanted
    wanted.tv_sec = 0
    wanted.tv_nsec = <long> ns
    nanosleep(&wanted, NULL)


def put_head(Medium copy not None, bytes head not None):
    """Prepare the medium of a new copy: mark it as not whole, then write header and superblock.

    The medium must be opened again then: it uses the header's write-ahead area.

    Raises:
        StorageFailed: The medium failed.
    """
    cdef rnvm_identity identity
    cdef rnvm_header header
    cdef rnvm_superblock superblock
    cdef rnvm_geometry g
    cdef const char *pages = head
    cdef int failed, which
    copy.check(0, 4 * RNVM_PAGE)
    if len(head) != 4 * RNVM_PAGE:
        raise ValueError("head must have 4 pages")
    memcpy(&header, pages + RNVM_HEADERS, sizeof(header))
    memcpy(&superblock, pages + RNVM_SUPERBLOCKS, sizeof(superblock))
    if not rnvm_geometry_of(&header, superblock.size, &g) or copy.c.length < superblock.size:
        raise HandshakeFailed("the sizes in the header of the primary's pool are impossible",
                              hint=SAME_RELEASE)
    identity_read(&copy.c, &identity)
    with nogil:
        failed = copier_begin(&copy.c, &header, &identity) < 0
        for which in range(2):
            medium_write(&copy.c, RNVM_SUPERBLOCKS + which * RNVM_PAGE, &superblock,
                         sizeof(superblock))
        if not failed:
            wal_format(&copy.c, &g, header.uuid)
        failed = failed or medium_drain(&copy.c) or header_write(&copy.c, &header)
    if failed:
        raise_failed(&copy.c)


def has_header(Medium copy not None):
    """Return whether a copy of the header is whole, of whatever pool."""
    cdef rnvm_header header
    copy.check(0, 4 * RNVM_PAGE)
    return header_read(&copy.c, &header) != 0

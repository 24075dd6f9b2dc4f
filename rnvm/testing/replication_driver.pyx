# cython: boundscheck=True, wraparound=True, cdivision=False
"""Drives primary and mirrors step by step in one process, for tests.

A Replication is the primary's replicator on an open pool, a Link the memory that primary and mirror
share, a Follower the mirror's applier and copier.  Nothing happens between two calls, so a test
decides the interleaving.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from rfp.core.core cimport rfp_copy_in, rfp_load64, rfp_load64_acquire, rfp_now, rfp_store64_release
from rfp.core.system cimport aligned_alloc
from rnvm.format.layout cimport (
    RNVM_LINE, RNVM_NAME_LIVE, RNVM_PAGE, rnvm_geometry, rnvm_geometry_of, rnvm_header,
    rnvm_name_at,
)
from rnvm.format.messages cimport RNVM_LIVE_FRAME, RNVM_STATUS_SPARE
from rnvm.format.replication cimport (
    RNVM_COPYING, RNVM_GONE, RNVM_IN_SYNC, RNVM_JOINING, RNVM_LEAVING, RNVM_LOST_CLOSED,
    RNVM_LOST_LIE, RNVM_LOST_OVERRUN, RNVM_LOST_PATIENCE, RNVM_LOST_REMOVED, RNVM_PIECE_MAX,
    RNVM_SLOT_FREE, RNVM_STREAM_MIN, RNVM_STREAM_RING, rnvm_ack, rnvm_identity,
    rnvm_piece_crc, rnvm_piece_room, rnvm_replicated, rnvm_replicated_line, rnvm_stream,
    rnvm_stream_seed,
)
from rnvm.format.wal cimport rnvm_frame, rnvm_range
from rnvm.media.medium cimport Medium, medium, medium_drain, medium_write, raise_failed
from rnvm.pool.frame_words cimport frame_words_begin, frame_words_end, frame_words_sweep
from rnvm.pool.pool cimport Pool
from rnvm.replication.applier cimport (
    applier, applier_begin, applier_take, applier_trouble,
)
from rnvm.replication.copier cimport copier_begin, copier_chunk, copier_end
from rnvm.replication.replicator cimport (
    replicator, replicator_add, replicator_begin, replicator_end, replicator_has_room,
    replicator_poll, replicator_poll_at, replicator_publish, replicator_remove,
    replicator_set_state,
)

from rfp.errors import InvalidArgument

SLOT_STATES = {RNVM_SLOT_FREE: "free", RNVM_COPYING: "copying", RNVM_JOINING: "joining",
               RNVM_IN_SYNC: "in sync", RNVM_LEAVING: "leaving", RNVM_GONE: "gone"}
REASONS = {0: "", RNVM_LOST_PATIENCE: "patience", RNVM_LOST_OVERRUN: "overrun",
           RNVM_LOST_LIE: "lie", RNVM_LOST_REMOVED: "removed", RNVM_LOST_CLOSED: "closed"}
STREAM_MIN, PIECE_MAX = RNVM_STREAM_MIN, RNVM_PIECE_MAX


class Refused(Exception):
    """The applier refused a piece."""


cdef class Geometry:
    """The parts of a pool, from its header.

    Args:
        header: Its first 256 bytes.
        size: Bytes of the pool.
    """
    cdef rnvm_geometry g
    cdef rnvm_header header

    def __init__(self, bytes header not None, uint64_t size):
        if len(header) < <Py_ssize_t> sizeof(rnvm_header):
            raise InvalidArgument("a header has 256 bytes")
        memcpy(&self.header, PyBytes_AS_STRING(header), sizeof(rnvm_header))
        if not rnvm_geometry_of(&self.header, size, &self.g):
            raise InvalidArgument("impossible geometry")

    def replicated(self, uint64_t at, uint64_t end):
        """Return the ranges between two offsets that are replicated."""
        cdef uint64_t stop
        found = []
        while at < end:
            at = rnvm_replicated(&self.g, at, end, &stop)
            if at < end:
                found.append((at, stop))
            at = stop
        return found

    def line(self, uint64_t offset):
        """Return whether this line is replicated."""
        return bool(rnvm_replicated_line(&self.g, offset))


cdef class Link:
    """A stream and its acknowledgements, in memory of this process."""
    cdef char *memory
    cdef rnvm_ack *words
    cdef readonly uint64_t size
    cdef public int slot

    def __cinit__(self, uint64_t ring=RNVM_STREAM_MIN):
        self.size = ring
        self.slot = -1
        self.memory = <char *> aligned_alloc(RNVM_PAGE, RNVM_STREAM_RING + ring)
        self.words = <rnvm_ack *> aligned_alloc(RNVM_LINE, sizeof(rnvm_ack))
        if self.memory == NULL or self.words == NULL:
            raise MemoryError()
        memset(self.memory, 0, RNVM_STREAM_RING + ring)
        memset(self.words, 0, sizeof(rnvm_ack))

    def __dealloc__(self):
        free(self.memory)
        free(self.words)

    cdef rnvm_stream *shown(self) noexcept:
        return <rnvm_stream *> self.memory

    @property
    def line(self):
        """Return the stream's own words."""
        cdef rnvm_stream s
        rfp_copy_in(&s, self.memory, sizeof(rnvm_stream))
        return {"tail": s.tail, "published": s.published, "ended": REASONS[s.ended],
                "state": SLOT_STATES[s.state], "acked": s.acked, "epoch": s.epoch, "first": s.first,
                "opening": bytes(s.opening[:16]), "size": s.size}

    def read(self, uint64_t at, uint64_t most=RNVM_PIECE_MAX):
        """Return published bytes from this position on, up to the ring's end."""
        cdef uint64_t tail = rfp_load64_acquire(&self.shown().tail)
        cdef uint64_t n = min(min(tail - at, most), self.size - at % self.size)
        data = PyBytes_FromStringAndSize(NULL, n)
        rfp_copy_in(PyBytes_AS_STRING(data), self.memory + RNVM_STREAM_RING + at % self.size, n)
        return data

    def acknowledge(self, uint64_t acked, uint64_t received, uint64_t consumed, uint64_t waits=0):
        """Store the mirror's words."""
        rfp_store64_release(&self.words.waits, waits)
        rfp_store64_release(&self.words.consumed, consumed)
        rfp_store64_release(&self.words.received, received)
        rfp_store64_release(&self.words.acked, acked)


cdef class Replication:
    """The replicator of an open pool.

    Args:
        opening, group: 16 bytes.
        policy: The test moves joining and leaving mirrors, as a group does.
        patience, empty: ns.
    """
    cdef replicator r
    cdef Pool pool
    cdef list links

    def __cinit__(self, Pool pool not None, *, uint64_t epoch=1, bytes opening=None,
                  bytes group=bytes(16), uint32_t min_mirrors=0, bint policy=False,
                  uint64_t patience=1_000_000_000, uint64_t empty=0):
        cdef bytes start = opening or os.urandom(16)
        if replicator_begin(&self.r, pool.c.m, &pool.c.g, epoch, <const uint8_t *> <char *> start,
                            <const uint8_t *> <char *> group,
                            (<rnvm_header *> pool.c.m.base).uuid):
            raise MemoryError()
        self.pool = pool
        if not frame_words_begin(&pool.c):
            raise MemoryError()
        self.links = []
        self.r.numbers.min_mirrors = min_mirrors
        self.r.policy = policy
        self.r.patience = patience
        self.r.empty = empty

    def __dealloc__(self):
        self.end()

    def end(self):
        """Give the medium back."""
        if self.pool is not None:
            replicator_end(&self.r)
            frame_words_end(&self.pool.c)

    def add(self, Link link=None, uint64_t now=0):
        """Add a mirror; return its link."""
        cdef Link made = link or Link()
        made.slot = replicator_add(&self.r, made.memory, RNVM_STREAM_RING + made.size, made.words,
                                   now)
        if made.slot == -2:
            raise_failed(self.r.m)
        if made.slot >= 0:
            self.links.append(made)
        return made

    def poll(self, uint64_t now=0, *, boot=None):
        """Read acknowledgements; return whether something changed.

        Args:
            boot: The time of CLOCK_BOOTTIME in ns; default: the real one.
        """
        cdef bint changed
        if boot is None:
            changed = replicator_poll(&self.r, now)
        else:
            changed = replicator_poll_at(&self.r, now, boot)
        if self.r.m.base != NULL:
            frame_words_sweep(&self.pool.c, self.pool.c.g.names)
        return bool(changed)

    def frame_word(self, bytes name not None):
        """Return the frame that a reader of a structure has to wait for; 0: none."""
        return rfp_load64(self.pool.c.m.base
                          + rnvm_name_at(&self.pool.c.g, <uint32_t> self.pool.names[name])
                          + RNVM_NAME_LIVE + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_FRAME))

    def publish(self):
        """Publish an empty frame."""
        replicator_publish(&self.r)

    def set_state(self, int slot, str state not None):
        """Move a mirror to another state."""
        number = next(number for number, text in SLOT_STATES.items() if text == state)
        replicator_set_state(&self.r, slot, number)

    def wait_for(self, int slot):
        """Wait for room in the stream of a mirror that copies, too."""
        self.r.slots[slot].waited = True

    def remove(self, int slot):
        """Remove a mirror."""
        replicator_remove(&self.r, slot, RNVM_LOST_REMOVED)

    def slot(self, int slot):
        """Return what the primary knows about a mirror."""
        return {"state": SLOT_STATES[self.r.slots[slot].state],
                "reason": REASONS[self.r.slots[slot].reason], "acked": self.r.slots[slot].acked,
                "joined": self.r.slots[slot].joined, "sent": self.r.slots[slot].sent,
                "consumed": self.r.slots[slot].s.consumed, "first": self.r.slots[slot].first}

    @property
    def published(self):
        """Return the number of the last frame."""
        return self.r.numbers.published

    @property
    def acked(self):
        """Return up to which frame all required mirrors have acknowledged."""
        return self.r.numbers.acked

    @property
    def until(self):
        """Return until when may be answered, in ns of CLOCK_BOOTTIME."""
        return self.r.until

    @property
    def in_sync(self):
        """Return the number of mirrors in sync."""
        return self.r.numbers.in_sync

    @property
    def overruns(self):
        """Return how many mirrors were lost because their stream was full."""
        return self.r.overruns

    @property
    def has_room(self):
        """Return whether all streams have room."""
        return bool(replicator_has_room(&self.r))

    def drain_cost(self, uint64_t offset, uint32_t writes, uint32_t length, uint32_t rounds):
        """Return the ns of a drain with this many writes before it; mirrors consume all at once.

        Without a replicator (after end()): of the pool's medium alone.
        """
        cdef medium *m = self.pool.c.m
        cdef uint64_t began, i, each
        cdef Link link
        cdef char *data = <char *> calloc(1, length + 8)
        if data == NULL:
            raise MemoryError()
        began = rfp_now()
        for i in range(rounds):
            for each in range(writes):
                medium_write(m, offset + each * (length + 64), data, length)
            medium_drain(m)
            if i % 8 == 0 and self.r.m != NULL:
                for link in self.links:
                    link.words.consumed = link.shown().tail
                replicator_poll(&self.r, 0)
        began = rfp_now() - began
        free(data)
        return began / rounds


cdef class Follower:
    """A mirror: applies what its link contains to its medium.

    Args:
        first: Number of the last frame that the medium has; default: what its stream begins with.
    """
    cdef readonly Medium medium
    cdef readonly Link link
    cdef Geometry parts
    cdef applier a
    cdef rnvm_identity identity
    cdef readonly uint64_t consumed

    def __cinit__(self, Medium on not None, Link link not None, Geometry parts not None, *,
                  first=None, epoch=None):
        cdef rnvm_stream *shown = link.shown()
        self.medium = on
        self.link = link
        self.parts = parts
        applier_begin(&self.a, &on.c, &parts.g, shown.epoch if epoch is None else epoch,
                      shown.first if first is None else first, shown.opening, shown.group)

    def step(self, uint64_t most=1):
        """Apply at most this many frames; return how many.

        Raises:
            Refused: A piece is wrong.
        """
        cdef int64_t used
        cdef uint64_t before, frames = 0
        while frames < most:
            data = self.link.read(self.consumed, 2 * RNVM_PIECE_MAX)
            before = self.a.received
            used = applier_take(&self.a, PyBytes_AS_STRING(data), len(data))
            if used < 0:
                raise Refused(applier_trouble(<int> used))
            if not used:
                break
            self.consumed += <uint64_t> used
            frames += self.a.received - before
        return frames

    def take(self, bytes pieces not None):
        """Apply these bytes instead of those in the stream; return how many were used.

        Raises:
            Refused: A piece is wrong.
        """
        cdef int64_t used = applier_take(&self.a, PyBytes_AS_STRING(pieces), len(pieces))
        if used < 0:
            raise Refused(applier_trouble(<int> used))
        return used

    def acknowledge(self):
        """Store the acknowledgement of what is durable."""
        self.link.acknowledge(self.a.applied, self.a.received, self.consumed)

    @property
    def applied(self):
        """Return the number of the last frame that is durable."""
        return self.a.applied

    @property
    def received(self):
        """Return the number of the last frame that was received."""
        return self.a.received

    def begin_copy(self, uint64_t epoch=0):
        """Mark the medium as not whole; return True: it must be opened again."""
        cdef int found
        memset(&self.identity, 0, sizeof(rnvm_identity))
        self.identity.epoch = epoch
        found = copier_begin(self.a.m, &self.parts.header, &self.identity)
        if found < 0:
            raise_failed(self.a.m)
        return bool(found)

    def copy(self, bytes chunk not None, uint64_t at):
        """Copy a chunk of the primary's pool; return the bytes that differed."""
        return copier_chunk(self.a.m, &self.parts.g, at, PyBytes_AS_STRING(chunk), len(chunk))

    def end_copy(self, bytes identity not None):
        """Mark the medium as whole, with this identity."""
        memcpy(self.identity.identity, <const char *> identity, 16)
        memcpy(self.identity.opening, self.link.shown().opening, 16)
        if copier_end(self.a.m, &self.parts.g, &self.parts.header, &self.identity):
            raise_failed(self.a.m)


def piece(bytes opening not None, Geometry parts not None, *, uint64_t epoch, uint64_t number,
          ranges, uint32_t flags=0, uint32_t index=0, count=None, bint seal=True):
    """Return a piece as a primary could forge it, whole in its stream.

    Args:
        ranges: Pairs of an offset and bytes.
        seal: Give it a right checksum.
    """
    cdef rnvm_frame frame
    cdef rnvm_range one
    cdef uint8_t[16] none
    memset(none, 0, sizeof(none))
    body = b""
    for at, data in ranges:
        one.offset = at
        one.length = len(data)
        body += (<char *> &one)[:sizeof(rnvm_range)] + data
    memset(&frame, 0, sizeof(frame))
    frame.length = <uint32_t> (sizeof(rnvm_frame) + len(body))
    frame.generation = epoch
    frame.sequence = number
    frame.ranges = len(ranges) if count is None else count
    frame.reserved = flags | index << 8
    whole = bytearray((<char *> &frame)[:sizeof(rnvm_frame)] + body)
    whole += bytes(rnvm_piece_room(frame.length) - len(whole))
    data = bytes(whole)
    if seal:
        seed = rnvm_stream_seed(parts.g.seed, <const uint8_t *> <char *> opening, none)
        whole[:4] = (<uint32_t> rnvm_piece_crc(
            seed, <const rnvm_frame *> PyBytes_AS_STRING(data))).to_bytes(4, "little")
    return bytes(whole)

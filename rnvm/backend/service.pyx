"""The service of a pool: RFP's rings carry the calls that messages.h defines."""

import os
import threading
from time import sleep

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.stat cimport fstat, struct_stat

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t most)

from rfp.core.core cimport (
    rfp_boot_now, rfp_compare_swap64, rfp_copy_out, rfp_load64, rfp_load64_acquire, rfp_store64,
    rfp_store64_release,
)
from rfp.core.limits cimport system_page
from rfp.fabric.fabric cimport REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, Region
from rfp.protocol.server.service cimport Service, request, response
from rnvm.backend.connections cimport (
    client, client_attach, client_began, client_detach, client_ended, client_present, clients_sweep,
)
from rnvm.backend.events cimport (
    EVENT_ATTACHED, EVENT_FENCED, EVENT_MIRROR_BEGAN, EVENT_MIRROR_JOINED, EVENT_MIRROR_LEFT,
    EVENT_REFUSED, EVENT_STOPPED, FENCE_DETACHED, FENCE_DISCONNECTED, FENCE_EARLIER, FENCE_INVALID,
    FENCE_LEASE, FENCE_RETURNED, FENCE_STOPPED, event, event_put, event_take,
)
from rnvm.backend.lock_manager cimport (
    LOCK_GRANTED, UNNAMED, client_session, lock, lock_leave, lock_manager, lock_manager_begin,
    lock_manager_catch_up,
    lock_manager_end, lock_request, locks_publish, waiter,
)
from rnvm.backend.mirrors cimport (
    MIRROR_PLACES, PLACE_ENDED, PLACE_FREE, PLACE_GIVEN, PLACE_RESERVED, PLACE_RUNNING,
    PORTION_BYTES, WANT_GONE, WANT_IN_SYNC, WANT_NOTHING, WANT_REQUIRED, call_level, call_mirror,
    group_slot, mirror_place, mirrors_await_room, mirrors_begin, mirrors_end, mirrors_have_room,
    mirrors_tick,
)
from rnvm.backend.promises cimport (
    call_serving, promises_begin, promises_end, promises_hold, promises_put_off, promises_refuse,
    promises_repeated, promises_tick,
)
from rnvm.backend.rpc_handlers cimport (
    call_acquire, call_close, call_grant, call_leave, call_outcome, call_pending, call_share,
    call_watch,
)
from rnvm.backend.openings cimport openings_add, openings_free, openings_hold, openings_refresh
from rnvm.backend.retained cimport call_moment, call_retained
from rnvm.backend.state cimport (
    backend, backend_checkpoint, backend_locks, fail, reply, version_use,
)
from rnvm.backend.watches cimport watch, watches_clear, watches_end, watches_report
from rnvm.format.layout cimport (
    RNVM_ATTACHED, RNVM_CODEC_MAX, RNVM_FENCED, RNVM_HEADERS, RNVM_PAGE, rnvm_header, rnvm_name,
    rnvm_name_at, rnvm_operation_ring_at, rnvm_superblock, rnvm_up,
)
from rnvm.format.messages cimport *
from rnvm.format.replication cimport (
    RNVM_COPYING, RNVM_GONE, RNVM_IN_SYNC, RNVM_JOINING, RNVM_LEAVING, RNVM_LOST_CLOSED,
    RNVM_LOST_LIE, RNVM_LOST_OVERRUN, RNVM_LOST_PATIENCE, RNVM_LOST_REMOVED, RNVM_MEMBER_MAX,
    RNVM_STREAM_RING, rnvm_ack,
)
from rnvm.media.medium cimport replicated
from rnvm.media.pool_header cimport header_whole, superblock_read
from rnvm.pool.frame_words cimport frame_words_apply
from rnvm.replication.replicator cimport mirror_slot
from rnvm.pool.replay cimport (
    pool_collect_portion, pool_replay, pool_replay_portion, pool_settled,
)
from rnvm.pool.state cimport pool

from rfp.core.log import Log
from rfp.core.process import number_of
from rfp.errors import ConnectionFailed, InvalidArgument, OutOfMemory, RfpError, Unsupported
from rnvm.format import partitions

log = Log("rnvm")

# Texts and levels of EVENT_FENCED in the log.
ENDED = {
    FENCE_DETACHED: (log.info, "%s: session %d (epoch %d, %s) ended: its front-end closed it"),
    FENCE_DISCONNECTED: (
        log.info, "%s: session %d (epoch %d, %s) ended: its front-end disconnected"),
    FENCE_RETURNED: (log.info, "%s: session %d (epoch %d, %s) ended: its front-end attached again"),
    FENCE_LEASE: (
        log.warning, "%s: fenced session %d (epoch %d, %s): it kept a lock that others wait for"),
    FENCE_INVALID: (
        log.error, "%s: fenced session %d (epoch %d, %s): its logs contain an invalid record"),
    FENCE_EARLIER: (log.info, "%s: session %d (epoch %d, %s) ended: it was an earlier back-end's"),
    FENCE_STOPPED: (log.info, "%s: session %d (epoch %d, %s) ended: the back-end stopped"),
}
MIRROR_STATES = {
    RNVM_COPYING: "copying", RNVM_JOINING: "joining", RNVM_IN_SYNC: "in sync",
    RNVM_LEAVING: "leaving",
}
# Why a mirror left.
DEPARTURES = {
    RNVM_LOST_PATIENCE: "it did not acknowledge in time",
    RNVM_LOST_OVERRUN: "its stream was full",
    RNVM_LOST_LIE: "its acknowledgements could not be",
    RNVM_LOST_REMOVED: "its connection ended",
    RNVM_LOST_CLOSED: "the pool was closed",
}
REFUSALS = {
    RNVM_OTHER_VERSION: "it speaks another version of the protocol",
    RNVM_OTHER_POOL: "it was attached to another pool",
    RNVM_NO_SESSION_LEFT: "all sessions are in use",
    RNVM_TOO_MANY: "its process has too many sessions",
    RNVM_FEW_MIRRORS: "fewer mirrors are in sync than min_mirrors requires",
}

cdef enum:
    TRANSACTIONS_PER_TICK = 256  # transactions applied in one go, before calls get their turn
    # of a new structure's first nodes: one call must not publish more than a stream has room for
    ROOT_BYTES = 65536
    # ns after which applied transactions are checkpointed even if the logs still have room
    CHECKPOINT_NS = 20000000
    # ns between two polls of whether the holder of a contended lock is outside
    LOCK_POLL_NS = 50000
    SWEEP_NS = 100000000       # ns between two sweeps of sessions that have ended
    # frames that no mirror has acknowledged, from which on new records share one, for so long
    FRAMES_UNDER_WAY = 2
    SHARE_FRAME_NS = 100000
    # ns that the worker sleeps at most while mirrors follow: for their patience, and empty frames
    MIRROR_POLL_NS = 20000000
    # ns between two polls while a mirror's stream has no room
    ROOM_POLL_NS = 200000


cdef class PoolService(Service):
    """Serve a pool.

    Args:
        lease: Seconds after which a session that keeps a contended lock is fenced.
        snapshot_lifetime: Seconds for which the memory of an open snapshot is kept.
        flushed: Stores persist on the pool's medium when their cache lines are flushed.
        forgetful: The medium does not survive the machine.
        revoking: Memory that a front-end writes can be taken away from it.
        file: Descriptor of the pool's file, which remains the caller's, to stop when the file is
            removed; -1: none.
        min_mirrors: With fewer mirrors in sync, changes of sessions of promise `replicated` are
            refused; -1: no mirror may follow, and there are no such sessions.
        mirror_patience: Seconds after which a mirror that does not acknowledge is removed.
        copied: A mirror made the pool, and no front-end has mapped it yet.
    """

    def __cinit__(self, Pool opened not None, double lease, double snapshot_lifetime=60.0, *,
                  bint flushed=False, bint forgetful=False, bint revoking=False, int file=-1,
                  int min_mirrors=0, double mirror_patience=1.0, uint64_t epoch=0,
                  bytes group=None, bint copied=False):
        cdef const rnvm_header *header
        cdef rnvm_superblock superblock
        cdef bytes opening = os.urandom(16)
        opened.check()
        opened.medium.check_unserved()              # by another back-end
        header = <const rnvm_header *> (opened.c.m.base + RNVM_HEADERS)
        self.pool = opened
        self.giving = threading.Lock()
        self.rings = {}
        self.streams = {}
        memset(&self.b, 0, sizeof(self.b))
        self.b.g.events.wake = -1
        self.title = "a pool"
        self.b.g.p = &opened.c
        self.b.g.lease = <uint64_t> (lease * 1e9)
        self.b.g.each = <client_session *> calloc(opened.c.g.sessions, sizeof(client_session))
        self.b.g.locks = <lock *> calloc(opened.c.g.names, sizeof(lock))
        self.b.g.waiters = <waiter *> calloc(opened.c.g.sessions + 1, sizeof(waiter))
        self.b.uses = <version_use **> calloc(opened.c.g.names, sizeof(version_use *))
        self.b.opened = <uint64_t **> calloc(opened.c.g.names, sizeof(uint64_t *))
        self.b.snapshot_ns = <uint64_t> (snapshot_lifetime * 1e9)
        self.b.watched.items = <watch *> calloc(opened.c.g.names, sizeof(watch))
        if (self.b.g.each == NULL or self.b.g.locks == NULL or self.b.g.waiters == NULL
                or self.b.uses == NULL or self.b.opened == NULL
                or self.b.watched.items == NULL):
            raise MemoryError()
        self.entries = opened.c.g.names
        self.b.flags = RNVM_DIRECT if opened.medium.direct else 0
        self.b.flags |= RNVM_FLUSHED if flushed else 0
        self.b.flags |= RNVM_FORGETFUL if forgetful else 0
        self.b.owner = self.b.g.owner = <void *> self
        # The processes of a copy's sessions are another host's, and have never mapped it.
        self.b.g.lasting = opened.medium.direct and not revoking and not copied
        if not header_whole(header):
            header = <const rnvm_header *> (opened.c.m.base + RNVM_HEADERS + RNVM_PAGE)
        memcpy(self.b.uuid, header.uuid, sizeof(self.b.uuid))
        self.b.file = file
        memset(&superblock, 0, sizeof(superblock))
        superblock_read(opened.c.m, header, &superblock)
        if mirrors_begin(&self.b.mirrors, &opened.c, &self.b.g.events, self.b.uuid,
                         <const unsigned char *> PyBytes_AS_STRING(opening),
                         epoch if group is not None else superblock.opened, min_mirrors,
                         <uint64_t> (mirror_patience * 1e9),
                         <const unsigned char *> PyBytes_AS_STRING(group)
                         if group is not None else NULL):
            raise MemoryError()
        if revoking:
            self.b.g.cut_off = cut_off
        if min_mirrors >= 0:
            self.b.g.await_room = await_room
        self.c.context = &self.b
        self.c.opened = client_began
        self.c.closed = client_ended
        self.c.prepare = NULL
        self.c.execute = execute
        self.c.tick = tick
        self.c.polls_when_idle = True
        self.b.max_sleep_ns = &self.c.max_sleep_ns
        self.b.collecting = self.b.replaying = True
        watches_clear(&self.b.g)
        if min_mirrors >= 0 and not promises_begin(&self.b):
            mirrors_end(&self.b.mirrors)
            raise MemoryError()
        if lock_manager_begin(&self.b.g):
            self.b.stopped = True
        opened.medium.served = True

    def stop_waiting(self):
        """From now on no call waits for mirrors: the back-end is closing.  From any thread."""
        rfp_store64(&self.b.mirrors.closing, 1)

    def close(self):
        """Stop using the pool, which may be closed then.  May be called again."""
        if self.pool.medium.served and self.b.g.p.m.base != NULL:
            watches_end(&self.b.watched, &self.b.g)
        promises_end(&self.b)
        mirrors_end(&self.b.mirrors)
        self.reap(True)
        self.pool.medium.served = False

    def __dealloc__(self):
        # Only own memory: the garbage collector may have freed the pool before.
        cdef uint32_t i
        for i in range(self.entries):
            free(self.b.uses[i])
            openings_free(&self.b, i)
        free(self.b.held)
        free(self.b.mirrors.r.notes)
        free(self.b.mirrors.r.piece)
        free(self.b.uses)
        free(self.b.opened)
        free(self.b.g.each)
        free(self.b.g.locks)
        free(self.b.g.waiters)
        free(self.b.watched.items)

    @property
    def names(self):
        """Return how many structures the pool can have."""
        return self.b.g.p.g.names

    def reserve(self, fabric):
        """Return the whole pool as a region that front-ends read."""
        cdef pool *p = self.b.g.p
        self.fabric = fabric
        return fabric.reserve_file(self.pool.medium, <uint64_t> p.m.base, self.pool.medium.fileno(),
                                   0, rnvm_up(p.g.size, system_page), REMOTE_READ)

    def keep_words(self, Region words not None):
        """Set the lock words for compare-and-swap: memory of zeros, 8 bytes for each structure."""
        self.words = words
        self.b.g.words = words.c.base

    def share(self, uint64_t number, fabric):
        """Return a region that a front-end writes.

        Args:
            number: The session's ticket (its rings), or RNVM_LOCK_WORDS (the lock words).

        Raises:
            ConnectionFailed: The ticket is not valid any more.
            Unsupported: The device has no atomic operations.
        """
        cdef pool *p = self.b.g.p
        cdef uint64_t offset
        cdef uint32_t index
        if number == RNVM_LOCK_WORDS and self.words is not None:
            try:
                return fabric.share(self.words, 0, self.words.length, REMOTE_READ | REMOTE_ATOMIC)
            except InvalidArgument as error:
                raise Unsupported("cannot lock by compare-and-swap here: "
                                  f"{Exception.__str__(error)}",
                                  hint='use lock="sticky"') from error
        region = self.mirror_memory(fabric, number)
        if region is not None:
            return region
        with self.giving:  # it must not be cut off while it is given its rings
            for index in range(p.g.sessions):
                if number and rfp_load64(&self.b.g.each[index].ticket) == number:
                    break
            else:
                raise ConnectionFailed("the session does not exist or has ended")
            offset = rnvm_operation_ring_at(&p.g, index)
            region = fabric.share_file(self.pool.medium, <uint64_t> (p.m.base + offset),
                                       self.pool.medium.fileno(), offset, p.g.rings, REMOTE_WRITE)
            if self.b.g.cut_off != NULL:
                self.rings.setdefault(index, []).append(region)
            return region

    cdef mirror_memory(self, fabric, uint64_t number):
        """Return a mirror's stream or acknowledgements, made now; None: the ticket is not its."""
        cdef mirror_place *place = NULL
        cdef Region stream, words
        cdef uint64_t phase, reserved = PLACE_RESERVED
        cdef uint32_t i
        with self.giving:
            self.reap(False)
            for i in range(MIRROR_PLACES):
                place = &self.b.mirrors.each[i]
                phase = rfp_load64_acquire(&place.phase)
                if (phase == PLACE_RESERVED or phase == PLACE_GIVEN) \
                        and place.ticket == number & ~<uint64_t> 1:
                    break
            else:
                return None
            if phase == PLACE_RESERVED:
                stream = self.fabric.reserve(RNVM_STREAM_RING + place.bytes, REMOTE_READ)
                try:
                    words = self.fabric.reserve(RNVM_PAGE, REMOTE_WRITE)
                except BaseException:
                    stream.close()
                    raise
                place.stream = stream.c.base
                place.words = <const rnvm_ack *> words.c.base
                self.streams[i] = [words, stream]
                if not rfp_compare_swap64(&place.phase, &reserved, PLACE_GIVEN):
                    self.reap(False)   # its connection has ended
                    raise ConnectionFailed("the mirror's connection has ended")
            words, stream = self.streams[i][:2]
            region = fabric.share(words if number & 1 else stream, 0,
                                  (words if number & 1 else stream).length,
                                  REMOTE_WRITE if number & 1 else REMOTE_READ)
            self.streams[i].append(region)
            return region

    cdef reap(self, bint all):
        """Free the memory of mirrors whose connections have ended."""
        cdef mirror_place *place
        cdef uint32_t i
        for i in range(MIRROR_PLACES):
            place = &self.b.mirrors.each[i]
            if all or rfp_load64_acquire(&place.phase) == PLACE_ENDED:
                for region in reversed(self.streams.pop(i, ())):
                    region.close()
                rfp_store64_release(&place.phase, PLACE_FREE)

    cdef void take_back(self, uint32_t index) noexcept:
        with self.giving:
            for region in self.rings.pop(index, ()):
                region.close()

    @property
    def failed(self):
        """Return whether the pool's medium has failed or its file was removed; nothing is answered
        from then on, or from the next turn of the worker on."""
        return bool(self.b.stopped or removed(&self.b))

    @property
    def removed(self):
        """Return whether the pool's file was removed or replaced by another one."""
        return bool(self.b.removed or removed(&self.b))

    @property
    def counters(self):
        """Return the service's counters as a dict."""
        cdef uint32_t i
        states = [self.b.g.p.sessions[i].state for i in range(self.b.g.p.g.sessions)]
        return {"transactions": self.b.transactions, "collected": self.b.g.p.collected,
                "checkpoints": self.b.checkpoints, "granted": self.b.g.granted,
                "stolen": self.b.g.stolen, "fenced": self.b.g.fenced, "waiting": self.b.g.waiting,
                "attached": states.count(RNVM_ATTACHED), "ending": states.count(RNVM_FENCED),
                "free_blocks": self.b.g.p.free, "blocks": self.b.g.p.g.blocks,
                "replication": self.replication}

    @property
    def replication(self):
        """Return what is replicated, as a dict; None: no mirror can follow."""
        cdef const replicated *numbers = self.b.g.p.m.replication
        if numbers == NULL:
            return None
        return {"epoch": rfp_load64(&numbers.epoch), "published": rfp_load64(&numbers.published),
                "acked": rfp_load64(&numbers.acked), "in_sync": rfp_load64(&numbers.in_sync),
                "min_mirrors": rfp_load64(&numbers.min_mirrors),
                "waiting": self.b.g.p.frames.count}

    @property
    def mirrors(self):
        """Return the mirrors that are connected, a dict each."""
        cdef const mirror_place *place
        cdef const mirror_slot *slot
        cdef const replicated *numbers = self.b.g.p.m.replication
        cdef uint64_t published = 0 if numbers == NULL else rfp_load64(&numbers.published)
        cdef uint32_t i
        cdef int number
        mirrors = []
        for i in range(MIRROR_PLACES):
            place = &self.b.mirrors.each[i]
            if rfp_load64_acquire(&place.phase) != PLACE_RUNNING:
                continue
            about = {"member": member_of(place.member), "pid": place.peer,
                     "seconds": max(0, <int64_t> (self.b.g.now - place.began)) / 1e9}
            number = place.slot
            if number < 0:
                about["state"] = "removed: " + DEPARTURES.get(place.reason, "")
            else:
                slot = &self.b.mirrors.r.slots[number]
                about["state"] = MIRROR_STATES.get(slot.state, "removed")
                about["acked"] = slot.acked
                about["lag_frames"] = max(0, <int64_t> (published - slot.acked))
                about["lag_bytes"] = max(0, <int64_t> (slot.s.tail - slot.s.consumed))
            mirrors.append(about)
        return mirrors

    # Reports to a Host: logs the events of the worker's thread

    def wake_by(self, int descriptor):
        """Set the eventfd to write when there is something to report; -1: none.

        Only while no worker runs.
        """
        self.b.g.events.wake = descriptor

    def report(self):
        """Log the events since the last call."""
        cdef event happened
        cdef uint64_t lost
        while event_take(&self.b.g.events, &happened):
            if happened.kind == EVENT_ATTACHED:
                log.info("%s: session %d (epoch %d, %s) began", self.title, happened.session,
                         happened.epoch, process_of(happened.process))
            elif happened.kind == EVENT_REFUSED:
                log.warning("%s: refused a session to %s: %s", self.title,
                            process_of(happened.process),
                            REFUSALS.get(happened.detail, f"status {happened.detail}"))
            elif happened.kind == EVENT_FENCED:
                say, text = ENDED[happened.detail]
                say(text, self.title, happened.session, happened.epoch,
                    process_of(happened.process))
            elif happened.kind == EVENT_MIRROR_BEGAN:
                log.info("%s: mirror %s (%s, epoch %d) began to copy it", self.title,
                         member_of(happened.member),
                         process_number(happened.process), happened.epoch)
            elif happened.kind == EVENT_MIRROR_JOINED:
                log.info("%s: mirror %s is in sync", self.title,
                         member_of(happened.member))
            elif happened.kind == EVENT_MIRROR_LEFT:
                if happened.detail:
                    log.warning("%s: mirror %s left: %s", self.title,
                                member_of(happened.member),
                                DEPARTURES.get(happened.detail, "for an unknown reason"))
            elif self.b.removed:
                log.error("%s was removed, or replaced, while it was served: "
                          "nothing is answered any more", self.title)
            else:
                log.error("%s: its medium failed: drain: %s (errno %d): "
                          "nothing is answered any more", self.title,
                          os.strerror(<int> happened.detail), happened.detail)
        with self.giving:
            self.reap(False)
        lost, self.b.g.events.lost = self.b.g.events.lost, 0
        if lost:
            log.warning("%s: %d events of sessions were not logged", self.title, lost)

    def _go_slow(self, *, bint collecting=False, bint replaying=False):
        """From now on collect or apply logs only on request.  For tests alone."""
        self.b.collecting = collecting
        self.b.replaying = replaying

    # A group's decisions: the control thread of a member calls these

    def group_slots(self):
        """Return the mirrors in the replicator's slots, as dicts."""
        cdef const group_slot *each
        cdef uint64_t ticket
        cdef uint32_t i, state
        found = []
        for i in range(MIRROR_PLACES):
            each = &self.b.mirrors.slots[i]
            ticket = rfp_load64_acquire(&each.ticket)
            if not ticket:
                continue
            state = self.b.mirrors.r.slots[i].state
            found.append({
                "slot": i, "ticket": ticket, "level": bool(rfp_load64_acquire(&each.level)),
                "lost": state == RNVM_LEAVING or state == RNVM_GONE,
                "acked": self.b.mirrors.r.slots[i].acked,
                "member": (<const char *> each.member)[:sizeof(each.member)].split(b"\0")[0]
                .decode(errors="replace"),
                "identity": (<const char *> each.identity)[:sizeof(each.identity)].hex()})
        return found

    def group_decide(self, uint64_t serial, dict wanted):
        """Make the service take a decision over, at its next turn.

        Only one thread calls it, and not again before `group_done` is the last serial.

        Args:
            wanted: ticket -> "required", "in sync" or "gone"; the others stay as they are.
        """
        cdef group_slot *each
        cdef uint32_t i
        names = {"required": WANT_REQUIRED, "in sync": WANT_IN_SYNC, "gone": WANT_GONE}
        for i in range(MIRROR_PLACES):
            each = &self.b.mirrors.slots[i]
            each.wanted_ticket = rfp_load64_acquire(&each.ticket)
            each.wanted = names.get(wanted.get(each.wanted_ticket), WANT_NOTHING)
        rfp_store64_release(&self.b.mirrors.asked, serial)

    @property
    def group_done(self):
        """Return the serial of the decision that was taken over, and the next frame's number."""
        cdef uint64_t done = rfp_load64_acquire(&self.b.mirrors.done)
        return done, self.b.mirrors.done_frame

    def _hold_replication(self):
        """From now on each drain publishes a frame, and nothing is replicated by itself.

        Before front-ends attach.  For tests alone.
        """
        promises_hold(&self.b)

    def _set_replication(self, *, acked=None, in_sync=None, min_mirrors=None):
        """Set the numbers that mirrors would set.  For tests alone."""
        cdef replicated *numbers = self.b.g.p.m.replication
        if in_sync is not None:
            rfp_store64(&numbers.in_sync, in_sync)
        if min_mirrors is not None:
            rfp_store64(&numbers.min_mirrors, min_mirrors)
        if acked is not None:
            rfp_store64(&numbers.acked, max(numbers.acked, min(acked, numbers.published)))

    def _freeze_serving(self, seconds=None):
        """In a group: from now on `until` is now + seconds, and remains that.  For tests alone.

        Args:
            seconds: None: it is extended again.
        """
        cdef uint64_t until = 0
        if seconds is not None:
            until = <uint64_t> (<int64_t> rfp_boot_now() + <int64_t> (seconds * 1e9))
        rfp_store64_release(&self.b.frozen_until, until)
        for _ in range(10000):
            if self.b.mirrors.r.policy == (seconds is None) \
                    and (not until or self.b.mirrors.r.until == until):
                break
            sleep(0.001)

    # Cold calls, with the GIL

    cdef int open(self, const request *asked, response *answer, int64_t user) except -1:
        cdef rnvm_open question
        cdef rnvm_opened found
        cdef const rnvm_name *entry
        cdef uint32_t index
        if asked.length <= sizeof(question):
            answer.status = RNVM_BAD_REQUEST
            return 0
        memcpy(&question, asked.payload, sizeof(question))
        if question.root > ROOT_BYTES:
            answer.status = RNVM_BAD_REQUEST
            return 0
        name = PyBytes_FromStringAndSize(asked.payload + sizeof(question),
                                         asked.length - sizeof(question))
        codec = PyBytes_FromStringAndSize(question.codec, strnlen(question.codec, RNVM_CODEC_MAX))
        base, place, number = partitions.parsed(name)
        fresh = name not in self.pool.names
        if place and partitions.entry_name(base, 0, number) not in self.pool.names \
                and not self.other_partitions(name):
            # Its mapping was dropped, perhaps while the front-end opened the partitions before.
            answer.status = RNVM_ABSENT
            return 0
        if name not in self.pool.names:
            others = self.other_partitions(name)
            if others:
                answer.status = RNVM_OTHER_PARTITIONS
                answer.length = len(others)
                rfp_copy_out(answer.payload, PyBytes_AS_STRING(others), len(others))
                return 0
            if not question.flags & RNVM_CREATE:
                answer.status = RNVM_ABSENT
                return 0
            if self.few_mirrors(asked, answer):
                return 0
            try:
                # What an interrupted drop has left would become a part of the new mapping.
                left = [] if place else partitions.entries_of(self.pool.names, base)
                if left and not self.drop_all(left, answer, user):
                    return 0
                made = self.make(name, &question, codec)
                if not made and not self.catch_up() and not backend_checkpoint(&self.b):
                    # The same as for blocks that a front-end requests: returned blocks may be free
                    # after a checkpoint.
                    made = self.make(name, &question, codec)
            except InvalidArgument:
                answer.status = RNVM_BAD_REQUEST
                return 0
            if not made:
                answer.status = RNVM_NO_SPACE
                return 0
        index = self.pool.names[name]
        entry = <const rnvm_name *> (self.b.g.p.m.base + rnvm_name_at(&self.b.g.p.g, index))
        # Only this thread changes an entry.
        if question.kind and (entry.kind != question.kind or entry.format != question.format):
            answer.status = RNVM_OTHER_KIND
            answer.result = <uint64_t> entry.kind << 32 | entry.format
            return 0
        theirs = PyBytes_FromStringAndSize(entry.codec, strnlen(entry.codec, RNVM_CODEC_MAX))
        if question.kind and theirs != codec:
            answer.status = RNVM_OTHER_CODEC
            answer.length = len(theirs)
            rfp_copy_out(answer.payload, PyBytes_AS_STRING(theirs), len(theirs))
            return 0
        openings_add(&self.b, index, user, fresh, question.flags & RNVM_VERSIONED != 0)
        found.structure = self.b.g.p.structures[index].id
        found.kind = entry.kind
        found.root = entry.root
        found.blocks = entry.root_blocks
        found.number = self.b.g.p.structures[index].number
        memcpy(found.uuid, entry.uuid, sizeof(found.uuid))
        reply(answer, &found, sizeof(found))
        return 0

    cdef bytes other_partitions(self, bytes name):
        """Return the number of partitions that the name has instead, as text; None: it is free."""
        wanted, _, number = partitions.parsed(name)
        for each in self.pool.names:
            if each.startswith(wanted):
                found, place, others = partitions.parsed(each)
                if found == wanted and others != number and not place:
                    return b"%d" % others
        return None

    cdef bint make(self, bytes name, const rnvm_open *question, bytes codec) except -1:
        """Create a structure; return whether there was room for it."""
        try:
            self.pool.create(name, question.kind, question.format, codec,
                             (question.root + self.b.g.p.g.block - 1) // self.b.g.p.g.block)
        except OutOfMemory:
            return False
        frame_words_apply(self.b.g.p, <uint32_t> self.pool.names[name])
        return True

    cdef int drop(self, const request *asked, response *answer, int64_t user) except -1:
        name = PyBytes_FromStringAndSize(asked.payload, asked.length)
        # Partition 0 first: without it the mapping does not exist, whatever is left of it.
        entries = [name] if name in self.pool.names \
            else partitions.entries_of(self.pool.names, name)
        if not entries:
            answer.status = RNVM_ABSENT
            return 0
        if self.few_mirrors(asked, answer):
            return 0
        self.drop_all(entries, answer, user)
        return 0

    cdef int catch_up(self) except? -1:
        """lock_manager_catch_up() without the GIL: it may wait for mirrors."""
        cdef lock_manager *g = &self.b.g
        with nogil:
            return lock_manager_catch_up(g)

    cdef bint few_mirrors(self, const request *asked, response *answer) noexcept:
        return promises_refuse(&self.b, <client *> asked.session.state, answer)

    cdef bint drop_all(self, list entries, response *answer, int64_t user) except -1:
        """Drop these structures.  False: not one of them, and the answer has the reason."""
        cdef lock_manager *g = &self.b.g
        cdef uint32_t wanted
        cdef bint granted, failed
        for each in entries:
            wanted = self.pool.names[each]
            with nogil:                         # they may wait for mirrors
                granted = lock_request(g, wanted, <uint32_t> user, False) == LOCK_GRANTED
                failed = lock_leave(g, wanted, <uint32_t> user) != 0
            if not granted:
                answer.status = RNVM_IN_USE
                return False
            if failed:
                fail(&self.b, answer)
                return False
        for each in entries:
            index = self.pool.names[each]
            self.pool.drop(each)
            self.b.g.locks[index].orphans = 0
        locks_publish(&self.b.g)
        return True

    cdef int list(self, const request *asked, response *answer) except -1:
        cdef rnvm_listed item
        cdef const rnvm_name *entry
        cdef uint64_t first = 0, room
        cdef char[8] zeros
        memset(zeros, 0, sizeof(zeros))
        if asked.length == sizeof(first):
            memcpy(&first, asked.payload, sizeof(first))
        for index in sorted(self.pool.names.values()):
            if index < first:
                continue
            entry = <const rnvm_name *> (self.b.g.p.m.base + rnvm_name_at(&self.b.g.p.g, index))
            room = rnvm_up(entry.name_length, 8)
            if answer.length + sizeof(item) + room > answer.capacity:
                answer.result = index
                return 0
            item.structure = self.b.g.p.structures[<uint32_t> index].id
            item.kind = entry.kind
            item.format = entry.format
            item.name_length = entry.name_length
            item.created = entry.created
            memcpy(item.uuid, entry.uuid, 16)
            memcpy(item.codec, entry.codec, RNVM_CODEC_MAX)
            rfp_copy_out(answer.payload + answer.length, &item, sizeof(item))
            rfp_copy_out(answer.payload + answer.length + sizeof(item), entry.name,
                         entry.name_length)
            rfp_copy_out(answer.payload + answer.length + sizeof(item) + entry.name_length, zeros,
                         room - entry.name_length)
            answer.length += sizeof(item) + room
        return 0


cdef str process_of(uint64_t process):
    if not process or process == UNNAMED:
        return "a process that is not known"
    return f"process {number_of(process)}"


cdef str process_number(uint64_t number):
    return f"process {number}" if number else "on another host"


cdef str member_of(const uint8_t *member):
    name = (<const char *> member)[:RNVM_MEMBER_MAX].split(b"\0")[0]
    return name.decode(errors="replace") if name else "without a name"


cdef void cold(backend *s, const request *asked, response *answer, int64_t user) noexcept with gil:
    try:
        if asked.opcode == RNVM_FIND:
            (<PoolService> s.owner).open(asked, answer, user)
        elif asked.opcode == RNVM_DROP:
            (<PoolService> s.owner).drop(asked, answer, user)
        else:
            (<PoolService> s.owner).list(asked, answer)
    except RfpError:
        fail(s, answer)


cdef void cut_off(void *owner, uint32_t index) noexcept with gil:
    (<PoolService> owner).take_back(index)


cdef void execute(void *context, request *asked, response *answer) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> asked.session.state
    if s.stopped or c == NULL:
        answer.status = RNVM_STOPPED
        return
    if asked.opcode == RNVM_MIRROR:
        call_mirror(&s.mirrors, asked, answer, c, c.peer)
        return
    if asked.opcode == RNVM_LEVEL:
        call_level(&s.mirrors, asked, answer, c)
        return
    if promises_repeated(s, c, answer):
        return
    if not mirrors_have_room(&s.mirrors) and writes_pool(asked.opcode):
        answer.retry_later = True
        return
    execute_once(s, c, asked, answer)
    if not s.stopped and (
            asked.opcode == RNVM_ATTACH or asked.opcode == RNVM_FIND or asked.opcode == RNVM_DROP
            or asked.opcode == RNVM_LIST or asked.opcode == RNVM_GRANT
            or asked.opcode == RNVM_OUTCOME or asked.opcode == RNVM_SYNC and number_asked(asked)):
        promises_put_off(s, c, asked.opcode, answer)


cdef inline uint64_t number_asked(const request *asked) noexcept nogil:
    cdef uint64_t number = 0
    if asked.length == sizeof(number):
        memcpy(&number, asked.payload, sizeof(number))
    return number


cdef void execute_once(backend *s, client *c, const request *asked,
                       response *answer) noexcept nogil:
    cdef uint64_t number = 0
    cdef bint waited
    if asked.opcode == RNVM_ATTACH:
        client_attach(s, asked, answer, c)
        if answer.status:
            event_put(&s.g.events, EVENT_REFUSED, 0, 0, c.peer, answer.status)
        else:
            event_put(&s.g.events, EVENT_ATTACHED, <uint32_t> c.session, c.epoch,
                      s.g.each[c.session].process, 0)
        return
    if asked.opcode == RNVM_OUTCOME:
        call_outcome(s, asked, answer)
        return
    if asked.opcode == RNVM_DETACH:
        client_detach(s, answer, c)
        return
    c.used = True
    if not client_present(s, c):
        answer.status = RNVM_NOT_ATTACHED
        return
    if asked.opcode == RNVM_FIND or asked.opcode == RNVM_DROP or asked.opcode == RNVM_LIST:
        waited = asked.opcode == RNVM_FIND and c.leaving_until != 0
        if waited and openings_hold(s, c):
            answer.retry_later = True
            return
        cold(s, asked, answer, c.session)
        if asked.opcode == RNVM_FIND and not waited and not answer.status and not s.stopped:
            answer.retry_later = s.opened_by_another and openings_hold(s, c)
        return
    if asked.opcode == RNVM_PENDING:
        call_pending(s, asked, answer)
        return
    if (asked.opcode == RNVM_GRANT or asked.opcode == RNVM_ACQUIRE or asked.opcode == RNVM_LEAVE
            or asked.opcode == RNVM_WATCH or asked.opcode == RNVM_CLOSE):
        if asked.length != sizeof(number):
            answer.status = RNVM_BAD_REQUEST
            return
        memcpy(&number, asked.payload, sizeof(number))
        if asked.opcode == RNVM_GRANT:
            if not promises_refuse(s, c, answer):
                call_grant(s, number, answer, c)
        elif asked.opcode == RNVM_ACQUIRE:
            call_acquire(s, number, answer, c)
        elif asked.opcode == RNVM_WATCH:
            call_watch(s, number, answer)
        elif asked.opcode == RNVM_CLOSE:
            call_close(s, number, c)
        else:
            call_leave(s, number, answer, c)
    elif asked.opcode == RNVM_RETAINED:
        call_retained(s, asked, answer)
    elif asked.opcode == RNVM_MOMENT:
        call_moment(s, asked, answer)
    elif asked.opcode == RNVM_SHARE:
        call_share(s, asked, answer, c)
    elif asked.opcode == RNVM_SERVING:
        call_serving(s, answer)
    elif asked.opcode == RNVM_SYNC:
        # A call that waited for the last sync is answered before the next one, which serves all
        # records written by then.
        answer.retry_later = not pool_settled(s.g.p, <uint32_t> c.session)
        s.asked |= answer.retry_later
    elif asked.opcode == RNVM_APPLY or asked.opcode == RNVM_ROOM:
        if lock_manager_catch_up(&s.g) or asked.opcode == RNVM_ROOM and backend_checkpoint(s):
            fail(s, answer)
    else:
        answer.status = RNVM_BAD_REQUEST
    if not s.stopped and not client_present(s, c):
        answer.status = RNVM_NOT_ATTACHED          # fenced in the meantime
        answer.length = 0


cdef bint writes_pool(uint8_t opcode) noexcept nogil:
    """Return whether a call may write to the pool."""
    return (opcode != RNVM_OUTCOME and opcode != RNVM_LIST and opcode != RNVM_PENDING
            and opcode != RNVM_WATCH and opcode != RNVM_RETAINED and opcode != RNVM_CLOSE
            and opcode != RNVM_SERVING)


cdef bint crowded(const pool *p) noexcept nogil:
    """Return whether a ring has used half of its space."""
    cdef uint32_t i
    for i in range(p.g.sessions):
        if (p.operations[i].tail - p.operations[i].head) * 2 > p.operations[i].size:
            return True
        if (p.memory[i].tail - p.memory[i].head) * 2 > p.memory[i].size:
            return True
    return False


cdef bint removed(const backend *s) noexcept nogil:
    cdef struct_stat about
    return s.file >= 0 and fstat(s.file, &about) == 0 and about.st_nlink == 0


cdef bint tick(void *context, uint64_t now) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef bint busy = work(s, now)
    if s.watched.count:
        watches_report(&s.watched, &s.g)
    if s.stopped and not s.stop_reported:
        s.stop_reported = True
        watches_end(&s.watched, &s.g)
        event_put(&s.g.events, EVENT_STOPPED, 0, 0, 0, <uint64_t> s.g.p.m.error)
    return busy


cdef uint64_t await_room(lock_manager *g) noexcept nogil:
    cdef backend *s = <backend *> g        # its first field
    if not s.mirrors.replicating:
        return 0
    mirrors_await_room(&s.mirrors)
    return PORTION_BYTES if s.mirrors.replicating else 0


cdef int64_t replay(backend *s) noexcept nogil:
    """Apply transactions, as far as mirrors have room for them; return their number."""
    cdef int64_t applied = 0, more
    if not s.mirrors.replicating:
        return pool_replay(s.g.p, TRANSACTIONS_PER_TICK)
    while applied < TRANSACTIONS_PER_TICK and mirrors_have_room(&s.mirrors):
        more = pool_replay_portion(s.g.p, TRANSACTIONS_PER_TICK - applied, PORTION_BYTES)
        if not more:
            break
        applied += more
    return applied


cdef inline bint mirrors_lag(const backend *s) noexcept nogil:
    """Return whether new records should wait for a moment, to share one frame.

    A frame for each record costs the mirrors more than the record.
    """
    cdef const replicated *r = s.g.p.m.replication
    return (s.mirrors.replicating and r.in_sync and r.published - r.acked >= FRAMES_UNDER_WAY
            and s.g.now - s.collected_ns < SHARE_FRAME_NS)


cdef bint work(backend *s, uint64_t now) noexcept nogil:
    cdef int64_t bytes, applied
    s.g.now = now
    if s.stopped:
        return False
    mirrors_tick(&s.mirrors, now)
    promises_tick(s)
    if not mirrors_have_room(&s.mirrors):
        # A mirror is behind.  Front-ends wait, at most until it has lost the service's patience.
        s.max_sleep_ns[0] = ROOM_POLL_NS
        return False
    applied = replay(s) if s.replaying else 0
    if applied:
        s.applied += <uint64_t> applied
        s.transactions += <uint64_t> applied
        locks_publish(&s.g)
    backend_locks(s)
    openings_refresh(s)
    if (s.stopped or s.applied and (now - s.checkpointed > CHECKPOINT_NS or crowded(s.g.p))
            and backend_checkpoint(s)):
        return False
    if now - s.swept > SWEEP_NS:
        clients_sweep(s)
        if removed(s):
            # Stores from now on are lost with this process, so nothing may be acknowledged as kept.
            s.removed = s.stopped = True
            lock_manager_end(&s.g)
            return False
    # Last, so that waiting calls are answered at once; front-ends answered earlier may have written
    # again by now and share the sync.
    bytes = 0
    if not s.asked and mirrors_lag(s):
        return True
    if (s.collecting or s.asked) and mirrors_have_room(&s.mirrors):
        bytes = pool_collect_portion(s.g.p, PORTION_BYTES if s.mirrors.replicating else 0)
    s.asked = False
    if bytes < 0:
        s.stopped = True
        return False
    if bytes:
        s.collected_ns = now
    # A holder does not notify when it leaves: while others wait, poll for it.
    s.max_sleep_ns[0] = LOCK_POLL_NS if s.g.waiting \
        else MIRROR_POLL_NS if s.mirrors.replicating else 0
    return bytes != 0 or applied != 0

"""Note what is written, publish frames, count acknowledgements.

Why a mirror can never hold less than what was acknowledged:

- The bytes of a note are copied at the drain, or before it if there are many notes; a range that
  changes later is noted again, and belongs to a later piece.  So after frame N a mirror has every
  word that was written before the drain that published N.
- `acked` is the least acknowledgement of all required mirrors, and never falls.  A mirror is
  required from the moment when anybody may begin to count it (JOINING), until nobody can any more
  (GONE): a change of the set whose outcome is not known leaves it required.
- The acknowledgements are in memory that the mirror writes: each word is copied once.  One that
  falls, or is ahead of what was published, ends this mirror.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from rfp.core.core cimport (
    RFP_ASSERT, rfp_boot_now, rfp_copy_in, rfp_fence_full, rfp_futex_wake, rfp_load64,
    rfp_load64_acquire,
    rfp_store64, rfp_store64_release,
)
from rnvm.format.layout cimport RNVM_LINE, rnvm_geometry, rnvm_up
from rnvm.format.replication cimport (
    RNVM_COPYING, RNVM_FIRST_FRAME, RNVM_GONE, RNVM_IN_SYNC, RNVM_JOINING, RNVM_LEAVING,
    RNVM_LOST_CLOSED, RNVM_LOST_LIE, RNVM_LOST_OVERRUN, RNVM_LOST_PATIENCE, RNVM_MIRRORS_MAX,
    RNVM_PIECE_INDEX, RNVM_PIECE_MAX, RNVM_PIECE_MORE, RNVM_REPLICATION, RNVM_REPLICATION_LINE,
    RNVM_SLOT_FREE,
    RNVM_STREAM_MAGIC, RNVM_STREAM_MIN, RNVM_STREAM_RING, rnvm_ack, rnvm_piece_crc,
    rnvm_replicated, rnvm_replication_line, rnvm_stream, rnvm_stream_seed,
)
from rnvm.format.wal cimport rnvm_frame, rnvm_range
from rnvm.media.medium cimport medium, medium_drain, medium_operations
from rnvm.replication.planted cimport (
    FORGET_JOINING, ONE_PROMISE, REPLICATE_OWN_PARTS, replication_bugs,
)
from rnvm.replication.stream cimport stream_append, stream_begin, stream_publish, stream_room

cdef enum:
    # Notes of more bytes are published before the drain, as the first pieces of its frame.
    EARLY_BYTES = 1 << 18

# A mirror promises with each acknowledgement not to open its pool for a second after it has
# received the frame.  Two clocks differ in rate by a thousandth at most.  rnvm/group/serving.py
# has the proof.
cdef uint64_t TRUSTED = 999_000_000    # ns
cdef uint64_t MOMENT = 20_000_000      # ns between two moments
cdef uint64_t ONE_SECOND = 1_000_000_000


cdef inline replicator *of(medium *m) noexcept nogil:
    return <replicator *> m.replication    # its first field


cdef inline rnvm_replication_line *line_of(const replicator *r) noexcept nogil:
    return <rnvm_replication_line *> (r.m.base + RNVM_REPLICATION_LINE)


# Notes


cdef void take_down(replicator *r, uint64_t begin, uint64_t end) noexcept nogil:
    cdef replica_note *last
    cdef uint64_t was
    if begin >= end:
        return
    if not r.live:
        r.noted = 1            # a frame that nobody gets, but whose number counts
        return
    last = &r.notes[r.count - 1] if r.count else NULL
    if last != NULL and begin <= last.end and end >= last.begin:
        was = last.end - last.begin
        last.begin = min(last.begin, begin)
        last.end = max(last.end, end)
        r.noted += last.end - last.begin - was
    else:
        if r.count == REPLICA_NOTES:
            publish_early(r)
        r.notes[r.count].begin = begin
        r.notes[r.count].end = end
        r.count += 1
        r.noted += end - begin
    if r.noted > EARLY_BYTES:
        publish_early(r)


cdef void note(replicator *r, uint64_t offset, uint64_t n) noexcept nogil:
    cdef uint64_t at = offset & ~<uint64_t> 7
    cdef uint64_t end = min(rnvm_up(offset + n, 8), r.g.size), stop
    if at >= r.g.groups_at or replication_bugs() & REPLICATE_OWN_PARTS:
        take_down(r, at, end)
        return
    while at < end:
        at = rnvm_replicated(&r.g, at, end, &stop)
        take_down(r, at, stop)
        at = stop


# Frames


cdef void lose(replicator *r, mirror_slot *slot, uint32_t reason) noexcept nogil:
    """End a mirror's stream.  One that is required stays so until its removal is certain."""
    slot.reason = reason
    if slot.s.shown != NULL:
        rfp_store64(&slot.s.shown.ended, reason)
        wake(r, slot)
        slot.s.shown = NULL
        r.live -= 1
    slot.state = RNVM_LEAVING if slot.state in (RNVM_JOINING, RNVM_IN_SYNC, RNVM_LEAVING) \
        else RNVM_GONE
    count_slots(r)
    r.changed = True


cdef inline void wake(replicator *r, mirror_slot *slot) noexcept nogil:
    if not r.wakes:
        return
    # The mirror sets the word, then reads the tail once more before it sleeps.
    rfp_fence_full()
    if rfp_load64(&slot.words.waits) == 1:
        rfp_futex_wake(&slot.s.shown.tail)


cdef void publish_piece(replicator *r, uint32_t length, uint32_t ranges,
                        uint32_t flags) noexcept nogil:
    """Append the piece that was built to all streams; nothing is published yet."""
    cdef rnvm_frame *piece = r.piece
    cdef uint32_t i
    piece.length = length
    piece.generation = r.numbers.epoch
    piece.sequence = r.numbers.published + 1
    piece.ranges = ranges
    piece.reserved = flags | r.index << RNVM_PIECE_INDEX
    piece.crc = rnvm_piece_crc(r.seed, piece)
    r.index += 1
    for i in range(RNVM_MIRRORS_MAX):
        if r.slots[i].s.shown != NULL and not stream_append(&r.slots[i].s, piece, r.seed):
            r.overruns += 1
            lose(r, &r.slots[i], RNVM_LOST_OVERRUN)


cdef void publish_notes(replicator *r, bint last) noexcept nogil:
    """Make pieces of all notes; the last one ends the frame."""
    cdef rnvm_range *range_
    cdef uint32_t length = sizeof(rnvm_frame), ranges = 0, i
    cdef uint64_t at, n
    for i in range(r.count):
        at = r.notes[i].begin
        while at < r.notes[i].end:
            if length + sizeof(rnvm_range) + RNVM_LINE > RNVM_PIECE_MAX:
                publish_piece(r, length, ranges, RNVM_PIECE_MORE)
                length = sizeof(rnvm_frame)
                ranges = 0
            n = min(r.notes[i].end - at, RNVM_PIECE_MAX - length - sizeof(rnvm_range))
            range_ = <rnvm_range *> (<char *> r.piece + length)
            range_.offset = at
            range_.length = n
            # Peers may store there during this copy: each word is the old or the new one, and both
            # are right.
            rfp_copy_in(range_ + 1, r.m.base + at, n)
            length += <uint32_t> (sizeof(rnvm_range) + n)
            ranges += 1
            at += n
    r.count = 0
    r.noted = 0
    if ranges or last:
        publish_piece(r, length, ranges, 0 if last else RNVM_PIECE_MORE)


cdef void show_tails(replicator *r) noexcept nogil:
    cdef uint32_t i
    for i in range(RNVM_MIRRORS_MAX):
        if r.slots[i].s.shown != NULL:
            stream_publish(&r.slots[i].s, r.numbers.published)
            wake(r, &r.slots[i])


cdef void publish_early(replicator *r) noexcept nogil:
    publish_notes(r, False)
    show_tails(r)
    r.noted = 1                # the frame is not complete


cdef void publish_frame(replicator *r) noexcept nogil:
    if r.live:
        publish_notes(r, True)
    r.noted = 0
    r.count = 0
    r.index = 0
    r.numbers.published += 1
    r.silent = False
    if r.live:
        show_tails(r)
    # Before the drain returns, and before anybody can be told of what it made durable.
    if r.m.base != NULL:
        rfp_store64_release(&line_of(r).published, r.numbers.published)


# The verbs


cdef void replicating_write(medium *m, uint64_t offset, const void *source,
                            uint64_t n) noexcept nogil:
    of(m).inner.write(m, offset, source, n)
    note(of(m), offset, n)


cdef void replicating_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    of(m).inner.write64(m, offset, value)
    note(of(m), offset, sizeof(value))


cdef void replicating_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    of(m).inner.flush(m, offset, n)
    note(of(m), offset, n)


cdef int replicating_drain(medium *m) noexcept nogil:
    if m.error:
        return -1
    # Published first: the mirrors work while the medium does.
    if of(m).noted:
        publish_frame(of(m))
    if of(m).inner.drain(m):
        return -1
    if not of(m).required and not of(m).numbers.min_mirrors:
        # Nobody has to acknowledge it: no reader waits for the next poll.
        of(m).numbers.acked = of(m).numbers.published
        rfp_store64_release(&line_of(of(m)).acked, of(m).numbers.acked)
    return 0


cdef medium_operations replicating_operations = medium_operations(
    replicating_write, replicating_write64, replicating_flush, replicating_drain)


# Beginning and end


cdef int replicator_begin(replicator *r, medium *m, const rnvm_geometry *g, uint64_t epoch,
                          const uint8_t *opening, const uint8_t *group,
                          const uint8_t *uuid) noexcept nogil:
    memset(r, 0, sizeof(replicator))
    r.notes = <replica_note *> calloc(REPLICA_NOTES, sizeof(replica_note))
    r.piece = <rnvm_frame *> calloc(1, RNVM_PIECE_MAX)
    if r.notes == NULL or r.piece == NULL:
        free(r.notes)
        free(r.piece)
        r.notes = NULL
        r.piece = NULL
        return -1
    r.m = m
    r.inner = m.ops
    r.g = g[0]
    memcpy(r.opening, opening, sizeof(r.opening))
    if group != NULL:
        memcpy(r.group, group, sizeof(r.group))
    memcpy(r.uuid, uuid, sizeof(r.uuid))
    r.seed = rnvm_stream_seed(g.seed, r.opening, r.group)
    r.before = m.replication
    r.numbers.published = RNVM_FIRST_FRAME
    if r.before != NULL:
        r.numbers = r.before[0]
    r.numbers.epoch = epoch
    r.patience = ONE_SECOND
    r.empty = ONE_SECOND // 10
    m.replication = &r.numbers
    m.ops = &replicating_operations
    return 0


cdef void replicator_end(replicator *r) noexcept nogil:
    cdef int i
    if r.m == NULL:
        return
    for i in range(RNVM_MIRRORS_MAX):
        replicator_remove(r, i, RNVM_LOST_CLOSED)
    # A medium that was closed in the meantime keeps the verbs that do nothing.
    if r.m.ops == &replicating_operations:
        r.m.ops = r.inner
    if r.before != NULL:
        r.before[0] = r.numbers
    r.m.replication = r.before
    r.m = NULL
    free(r.notes)
    free(r.piece)
    r.notes = NULL
    r.piece = NULL


# Mirrors


cdef void count_slots(replicator *r) noexcept nogil:
    cdef uint32_t i, state
    r.required = r.numbers.in_sync = 0
    for i in range(RNVM_MIRRORS_MAX):
        state = r.slots[i].state
        if state == RNVM_IN_SYNC:
            r.numbers.in_sync += 1
        if state in (RNVM_JOINING, RNVM_IN_SYNC, RNVM_LEAVING):
            r.required += 1


cdef int replicator_add(replicator *r, char *memory, uint64_t bytes, const rnvm_ack *words,
                        uint64_t now) noexcept nogil:
    cdef mirror_slot *slot
    cdef rnvm_stream *shown = <rnvm_stream *> memory
    cdef uint64_t size = bytes - RNVM_STREAM_RING
    cdef uint32_t i, free_ = RNVM_MIRRORS_MAX
    RFP_ASSERT(bytes >= RNVM_STREAM_RING + <uint64_t> RNVM_STREAM_MIN)
    for i in range(RNVM_MIRRORS_MAX):
        if r.slots[i].state == RNVM_SLOT_FREE:
            free_ = i
            break
    if free_ == RNVM_MIRRORS_MAX:
        return -1
    # What was written and not drained yet is in no frame of this stream.
    if medium_drain(r.m):
        return -2
    slot = &r.slots[free_]
    memset(slot, 0, sizeof(mirror_slot))
    stream_begin(&slot.s, memory, size // RNVM_LINE * RNVM_LINE)
    slot.words = words
    slot.first = slot.acked = slot.received = slot.target = r.numbers.published
    slot.since = now
    slot.state = RNVM_COPYING
    shown.slot = free_
    shown.size = slot.s.size
    shown.epoch = r.numbers.epoch
    shown.first = slot.first
    shown.published = r.numbers.published
    shown.state = RNVM_COPYING
    shown.version = RNVM_REPLICATION
    memcpy(shown.opening, r.opening, sizeof(r.opening))
    memcpy(shown.group, r.group, sizeof(r.group))
    memcpy(shown.uuid, r.uuid, sizeof(r.uuid))
    rfp_store64_release(&shown.magic, RNVM_STREAM_MAGIC)
    r.live += 1
    return <int> free_


cdef void replicator_set_state(replicator *r, int slot, uint32_t state) noexcept nogil:
    cdef mirror_slot *each = &r.slots[slot]
    if each.state in (RNVM_SLOT_FREE, RNVM_GONE):
        return
    if state == RNVM_JOINING and each.state == RNVM_COPYING:
        each.joined = r.numbers.published
    each.state = state
    if each.s.shown != NULL:
        rfp_store64(&each.s.shown.state, state)
    count_slots(r)


cdef void replicator_lose(replicator *r, int slot, uint32_t reason) noexcept nogil:
    if r.slots[slot].s.shown != NULL:
        lose(r, &r.slots[slot], reason)


cdef void replicator_remove(replicator *r, int slot, uint32_t reason) noexcept nogil:
    cdef mirror_slot *each = &r.slots[slot]
    if each.state == RNVM_SLOT_FREE:
        return
    if each.s.shown != NULL:
        lose(r, each, reason)
    memset(each, 0, sizeof(mirror_slot))
    count_slots(r)


# Acknowledgements


cdef bint believe(replicator *r, mirror_slot *slot) noexcept nogil:
    """Copy the mirror's words; return False if they cannot be."""
    cdef uint64_t acked = rfp_load64_acquire(&slot.words.acked)
    cdef uint64_t received = rfp_load64_acquire(&slot.words.received)
    cdef uint64_t consumed = rfp_load64_acquire(&slot.words.consumed)
    # Zeros until the mirror has stored something.
    if not acked and slot.acked == slot.first:
        acked = slot.first
    if not received and slot.received == slot.first:
        received = slot.first
    if (acked < slot.acked or acked > r.numbers.published
            or received < slot.received or received > r.numbers.published
            or consumed < slot.s.consumed or consumed > slot.s.tail):
        return False
    slot.received = received
    slot.s.consumed = consumed
    if acked != slot.acked:
        slot.acked = acked
        slot.sent = max(slot.sent, sent_after(r, acked))
    return True


cdef void keep_moment(replicator *r, uint64_t now) noexcept nogil:
    cdef moment *last
    if r.moment_count:
        last = &r.moments[(r.moment_first + r.moment_count - 1) % MOMENTS_MAX]
        if last.published == r.numbers.published:
            last.time = max(last.time, now)
            return
        if now - last.time < MOMENT:
            return
    if r.moment_count == MOMENTS_MAX:
        r.moment_first = (r.moment_first + 1) % MOMENTS_MAX
        r.moment_count -= 1
    last = &r.moments[(r.moment_first + r.moment_count) % MOMENTS_MAX]
    last.published = r.numbers.published
    last.time = now
    r.moment_count += 1


cdef void extend(replicator *r, uint64_t boot) noexcept nogil:
    """Compute until when may be answered; it never falls, as a reader may keep what it has read."""
    cdef uint64_t sent = boot, last = 0
    cdef uint32_t i
    r.clock = boot
    for i in range(RNVM_MIRRORS_MAX):
        if r.slots[i].state in (RNVM_JOINING, RNVM_IN_SYNC, RNVM_LEAVING):
            sent = min(sent, r.slots[i].sent)
            last = max(last, r.slots[i].sent)
    if last and replication_bugs() & ONE_PROMISE:
        sent = last
    r.until = max(r.until, sent + TRUSTED)


cdef uint64_t sent_after(const replicator *r, uint64_t number) noexcept nogil:
    """Return a time before which this frame was not published."""
    cdef uint32_t i = r.moment_count
    cdef const moment *each
    while i:
        i -= 1
        each = &r.moments[(r.moment_first + i) % MOMENTS_MAX]
        if each.published < number:
            return each.time
    return 0


cdef bint late(replicator *r, mirror_slot *slot, uint64_t now) noexcept nogil:
    """Return whether a mirror has not done for too long what it has to do."""
    if slot.state == RNVM_COPYING:
        # It may take its time, unless the service waits for room in its stream.  That it takes
        # a little is not enough: the service would wait for as long as the mirror likes.
        if not slot.waited or has_room(slot):
            slot.since = now
    elif slot.acked >= slot.target and slot.s.consumed >= slot.target_tail:
        slot.target = r.numbers.published
        slot.target_tail = slot.s.tail
        slot.since = now
    return now > slot.since and now - slot.since > r.patience


cdef inline bint has_room(const mirror_slot *slot) noexcept nogil:
    return stream_room(&slot.s) >= slot.s.size // 2


cdef bint advance(replicator *r) noexcept nogil:
    cdef uint64_t least = r.numbers.published
    cdef uint32_t i, state
    if r.numbers.in_sync < r.numbers.min_mirrors:
        return False
    for i in range(RNVM_MIRRORS_MAX):
        state = r.slots[i].state
        if state == RNVM_JOINING and replication_bugs() & FORGET_JOINING:
            continue
        if state in (RNVM_JOINING, RNVM_IN_SYNC, RNVM_LEAVING):
            least = min(least, r.slots[i].acked)
    if least <= r.numbers.acked:
        return False
    r.numbers.acked = least
    return True


cdef bint replicator_poll(replicator *r, uint64_t now) noexcept nogil:
    return replicator_poll_at(r, now, rfp_boot_now() if r.policy else now)


cdef bint replicator_poll_at(replicator *r, uint64_t now, uint64_t boot) noexcept nogil:
    cdef mirror_slot *slot
    cdef uint32_t i
    cdef bint changed = r.changed
    r.changed = False
    if r.live and r.empty and not r.silent:
        r.spoken = now
        r.silent = True
    elif r.live and r.empty and now > r.spoken and now - r.spoken >= r.empty:
        publish_frame(r)
    for i in range(RNVM_MIRRORS_MAX):
        slot = &r.slots[i]
        if slot.state == RNVM_SLOT_FREE:
            continue
        if slot.s.shown != NULL:
            if not believe(r, slot):
                lose(r, slot, RNVM_LOST_LIE)
                changed = True
            elif slot.state != RNVM_LEAVING and late(r, slot, now):
                # In a group it goes on until its removal is certain.
                if r.policy and slot.state != RNVM_COPYING:
                    replicator_set_state(r, i, RNVM_LEAVING)
                    slot.reason = RNVM_LOST_PATIENCE
                else:
                    lose(r, slot, RNVM_LOST_PATIENCE)
                changed = True
        if not r.policy:
            if slot.state == RNVM_JOINING and slot.acked >= slot.joined:
                replicator_set_state(r, i, RNVM_IN_SYNC)
                changed = True
            elif slot.state == RNVM_LEAVING:
                if slot.s.shown != NULL:
                    lose(r, slot, RNVM_LOST_PATIENCE)
                slot.state = RNVM_GONE
                changed = True
        if slot.s.shown != NULL:
            rfp_store64(&slot.s.shown.acked, r.numbers.acked)
    if changed:
        count_slots(r)
    keep_moment(r, boot)
    changed |= advance(r)
    if r.policy:
        extend(r, boot)
    replicator_show(r)
    return changed


cdef void replicator_publish(replicator *r) noexcept nogil:
    publish_frame(r)


cdef bint replicator_has_room(const replicator *r) noexcept nogil:
    cdef uint32_t i
    for i in range(RNVM_MIRRORS_MAX):
        # A stream that is not required yet must not hold up front-ends: it may be overrun.
        if (r.slots[i].s.shown != NULL and r.slots[i].state != RNVM_LEAVING
                and (r.slots[i].state != RNVM_COPYING or r.slots[i].waited)
                and not has_room(&r.slots[i])):
            return False
    return True


cdef void replicator_show(const replicator *r) noexcept nogil:
    cdef rnvm_replication_line *line = line_of(r)
    if r.m.base == NULL:
        return
    rfp_store64(&line.published, r.numbers.published)
    rfp_store64(&line.in_sync, r.numbers.in_sync)
    rfp_store64(&line.min_mirrors, r.numbers.min_mirrors)
    rfp_store64(&line.epoch, r.numbers.epoch)
    if r.policy:
        rfp_store64_release(&line.until, r.until)
        rfp_store64_release(&line.clock, r.clock)
    rfp_store64_release(&line.acked, r.numbers.acked)

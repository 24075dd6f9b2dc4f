"""Mirrors of a served pool, on the service's thread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport nanosleep, timespec

from rfp.core.core cimport (
    rfp_compare_swap64, rfp_copy_out, rfp_load64_acquire, rfp_now, rfp_store64_release,
)
from rfp.core.system cimport getrandom
from rnvm.backend.events cimport (
    EVENT_MIRROR_BEGAN, EVENT_MIRROR_JOINED, EVENT_MIRROR_LEFT, event, event_store,
)
from rnvm.format.layout cimport rnvm_up
from rnvm.format.messages cimport (
    RNVM_BAD_REQUEST, RNVM_LOCK_WORDS, RNVM_NOT_ATTACHED, RNVM_NO_SESSION_LEFT, RNVM_OTHER_POOL,
    RNVM_OTHER_VERSION, RNVM_STOPPED,
)
from rnvm.format.replication cimport (
    RNVM_COPYING, RNVM_FIRST_FRAME, RNVM_GONE, RNVM_IN_SYNC, RNVM_JOINING, RNVM_LEAVING,
    RNVM_LOST_REMOVED, RNVM_MIRROR_MEMBER, RNVM_MIRROR_WAITS,
    RNVM_MIRRORS_MAX, RNVM_REPLICATION, RNVM_SLOT_FREE, RNVM_STREAM_MIN, RNVM_STREAM_RING,
    rnvm_level, rnvm_mirror, rnvm_mirrored,
)
from rnvm.replication.replicator cimport (
    replicator_add, replicator_begin, replicator_end, replicator_has_room, replicator_lose,
    replicator_poll, replicator_remove, replicator_set_state,
)

cdef enum:
    STREAM_BYTES = 8 << 20         # of a stream's ring, beside what two rings take
    STREAM_BYTES_MAX = 256 << 20
    STREAM_STEP = 65536
    # frames that a mirror has not acknowledged, beyond which nothing is published
    OUTSTANDING_MAX = 64
    EMPTY_NS = 100000000       # an empty frame after this time without a frame
    ROOM_NAP_NS = 100000      # between two polls for room
    # after which a place ends: of a mirror that was removed, and does not end its connection; of
    # one that does not begin (it may have to allocate a file first)
    REMOVED_NS = 5000000000
    UNUSED_NS = 300000000000


# The replicator


cdef int begin(mirror_list *l) noexcept nogil:
    """Stand around the medium; the numbers go on."""
    # Everything written before is one more virtual frame.
    l.numbers.published += 1
    if not l.numbers.min_mirrors:
        l.numbers.acked = l.numbers.published
    if replicator_begin(&l.r, l.p.m, &l.p.g, l.epoch, l.opening,
                        l.group if l.policy else NULL, l.uuid):
        return -1
    l.r.policy = l.policy
    l.r.patience = l.patience
    l.r.empty = EMPTY_NS
    l.r.wakes = True
    l.replicating = True
    return 0


cdef void end(mirror_list *l) noexcept nogil:
    """Give the medium back; the numbers remain."""
    replicator_end(&l.r)
    l.replicating = False
    l.numbers.in_sync = 0
    if not l.numbers.min_mirrors and not l.policy:
        l.numbers.acked = l.numbers.published


cdef int mirrors_begin(mirror_list *l, pool *p, event_queue *events, const uint8_t *uuid,
                       const uint8_t *opening, uint64_t epoch, int min_mirrors,
                       uint64_t patience, const uint8_t *group) noexcept nogil:
    memset(l, 0, sizeof(mirror_list))
    l.policy = group != NULL
    if l.policy:
        memcpy(l.group, group, sizeof(l.group))
    l.p = p
    l.events = events
    memcpy(l.uuid, uuid, sizeof(l.uuid))
    memcpy(l.opening, opening, sizeof(l.opening))
    l.epoch = epoch
    l.min_mirrors = min_mirrors
    l.patience = patience
    # One step publishes at most half a stream: a portion, and the two rings of one more session,
    # or one more record.
    l.stream = STREAM_BYTES + 2 * (p.g.memory_ring + p.g.operation_ring)
    l.stream = min(rnvm_up(l.stream, STREAM_STEP), <uint64_t> STREAM_BYTES_MAX)
    if min_mirrors < 0:
        return 0
    l.numbers.epoch = epoch
    l.numbers.min_mirrors = <uint64_t> min_mirrors
    p.m.replication = &l.numbers
    if min_mirrors or l.policy:
        # Changes have numbers also while no mirror follows: they are not replicated.
        if begin(l):
            p.m.replication = NULL
            return -1
        return 0
    l.numbers.published = l.numbers.acked = RNVM_FIRST_FRAME
    return 0


cdef void mirrors_end(mirror_list *l) noexcept nogil:
    if l.replicating:
        end(l)
    if l.p != NULL and l.p.m.replication == &l.numbers:
        l.p.m.replication = NULL


# Calls


cdef mirror_place *place_of(mirror_list *l, uint64_t ticket, const void *client) noexcept nogil:
    cdef uint32_t i
    for i in range(MIRROR_PLACES):
        if (l.each[i].client == client and l.each[i].ticket == ticket and ticket
                and rfp_load64_acquire(&l.each[i].phase) != PLACE_FREE):
            return &l.each[i]
    return NULL


cdef mirror_place *reserve(mirror_list *l, const rnvm_mirror *question, const void *client,
                           uint32_t peer) noexcept nogil:
    """Return a new place of this connection; NULL: none is free, or it has one."""
    cdef mirror_place *free = NULL
    cdef uint64_t phase, ticket = 0
    cdef uint32_t i, peers = 0
    for i in range(MIRROR_PLACES):
        phase = rfp_load64_acquire(&l.each[i].phase)
        if phase == PLACE_FREE:
            free = &l.each[i]
        elif l.each[i].client == client:
            return NULL
        else:
            peers += peer != 0 and l.each[i].peer == peer
    # One process must not keep all other mirrors out.
    if free == NULL or peers >= MIRROR_PLACES // 2:
        return NULL
    while getrandom(&ticket, sizeof(ticket), 0) != sizeof(ticket) or ticket <= RNVM_LOCK_WORDS + 1:
        pass
    free.ticket = ticket & ~<uint64_t> 1
    free.bytes = max(l.stream, min(question.stream, <uint64_t> STREAM_BYTES_MAX))
    free.bytes = rnvm_up(max(free.bytes, <uint64_t> RNVM_STREAM_MIN), STREAM_STEP)
    free.stream = NULL
    free.words = NULL
    free.client = client
    free.peer = peer
    free.state = RNVM_SLOT_FREE
    free.slot = -1
    free.began = rfp_now()     # the last tick may be long ago
    free.removed = 0
    free.reason = 0
    free.joins = not l.policy or question.flags & RNVM_MIRROR_MEMBER != 0
    free.waits = question.flags & RNVM_MIRROR_WAITS != 0
    memcpy(free.member, question.member, sizeof(free.member))
    memset(free.identity, 0, sizeof(free.identity))
    rfp_store64_release(&free.phase, PLACE_RESERVED)
    return free


cdef bint run(mirror_list *l, mirror_place *place, response *answer) noexcept nogil:
    """Publish frames in the place's stream from now on."""
    cdef uint64_t given = PLACE_GIVEN
    if place.slot >= 0 or not rfp_compare_swap64(&place.phase, &given, PLACE_RUNNING):
        answer.status = RNVM_NOT_ATTACHED
        return False
    place.removed = rfp_now()  # unless it succeeds
    if not l.replicating and begin(l):
        answer.status = RNVM_NO_SESSION_LEFT
        return False
    place.slot = replicator_add(&l.r, place.stream, RNVM_STREAM_RING + place.bytes, place.words,
                                l.now)
    if place.slot < 0:
        answer.status = RNVM_STOPPED if l.p.m.error else RNVM_NO_SESSION_LEFT
        return False
    place.removed = 0
    place.state = RNVM_COPYING
    l.r.slots[place.slot].waited = place.waits
    take_slot(l, place)
    put_event(l, place, EVENT_MIRROR_BEGAN, 0)
    return True


cdef void take_slot(mirror_list *l, const mirror_place *place) noexcept nogil:
    """Store the member and the identity of this place for the group's control thread."""
    cdef group_slot *slot = &l.slots[place.slot]
    slot.level = 0
    memcpy(slot.member, place.member, sizeof(slot.member))
    memset(slot.identity, 0, sizeof(slot.identity))
    rfp_store64_release(&slot.ticket, place.ticket)


cdef void put_event(mirror_list *l, const mirror_place *place, uint32_t kind,
                    uint32_t reason) noexcept nogil:
    cdef event happened
    memset(&happened, 0, sizeof(happened))
    happened.kind = kind
    happened.epoch = l.epoch
    happened.process = place.peer
    happened.detail = reason
    memcpy(happened.member, place.member, sizeof(place.member))
    event_store(l.events, &happened)


cdef void call_mirror(mirror_list *l, const request *asked, response *answer, const void *client,
                      uint32_t peer) noexcept nogil:
    cdef rnvm_mirror question
    cdef rnvm_mirrored done
    cdef mirror_place *place
    if asked.length != sizeof(question) or l.min_mirrors < 0:
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if question.version != RNVM_REPLICATION:
        answer.status = RNVM_OTHER_VERSION
        answer.result = RNVM_REPLICATION
        return
    if memcmp(question.pool, l.uuid, sizeof(l.uuid)):
        answer.status = RNVM_OTHER_POOL
        return
    if question.ticket:
        place = place_of(l, question.ticket, client)
        if place == NULL:
            answer.status = RNVM_NOT_ATTACHED
            return
        # A mirror asks again before its copy counts as whole: whether this is still its primary.
        if place.slot < 0 and not run(l, place, answer):
            return
    else:
        place = reserve(l, &question, client, peer)
        if place == NULL:
            answer.status = RNVM_NO_SESSION_LEFT
            return
    memset(&done, 0, sizeof(done))
    done.ticket = place.ticket
    done.stream = place.bytes
    done.epoch = l.epoch
    done.published = l.p.m.replication.published
    done.size = l.p.g.size
    memcpy(done.opening, l.opening, sizeof(done.opening))
    rfp_copy_out(answer.payload, &done, sizeof(done))
    answer.length = sizeof(done)


cdef void call_level(mirror_list *l, const request *asked, response *answer,
                     const void *client) noexcept nogil:
    cdef rnvm_level question
    cdef mirror_place *place
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    place = place_of(l, question.ticket, client)
    if place == NULL or place.slot < 0 or l.r.slots[place.slot].state != RNVM_COPYING:
        answer.status = RNVM_NOT_ATTACHED
        return
    if not place.joins:
        answer.status = RNVM_OTHER_POOL
        return
    if l.policy and rfp_load64_acquire(&l.slots[place.slot].level):
        # The group's control thread may be reading its identity.
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(place.identity, question.identity, sizeof(place.identity))
    if l.policy:
        # The group joins it; the mirror reads its state in the stream.
        memcpy(l.slots[place.slot].identity, question.identity, sizeof(place.identity))
        rfp_store64_release(&l.slots[place.slot].level, 1)
        return
    replicator_set_state(&l.r, place.slot, RNVM_JOINING)


# The end of a mirror


cdef void remove(mirror_list *l, mirror_place *place, uint32_t reason) noexcept nogil:
    cdef uint32_t state
    if place.slot < 0:
        return
    state = l.r.slots[place.slot].state
    if l.policy and (state == RNVM_JOINING or state == RNVM_IN_SYNC or state == RNVM_LEAVING):
        # It stays required until the group's state does not list it: nothing may be acknowledged
        # without it before.
        replicator_lose(&l.r, place.slot, reason)
    else:
        free_slot(l, place.slot, reason)
    place.slot = -1
    place.removed = l.now
    place.reason = reason
    place.state = RNVM_GONE
    put_event(l, place, EVENT_MIRROR_LEFT, reason)


cdef void free_slot(mirror_list *l, int slot, uint32_t reason) noexcept nogil:
    rfp_store64_release(&l.slots[slot].ticket, 0)
    replicator_remove(&l.r, slot, reason)


cdef mirror_place *place_in(mirror_list *l, int slot) noexcept nogil:
    cdef uint32_t i
    for i in range(MIRROR_PLACES):
        if rfp_load64_acquire(&l.each[i].phase) == PLACE_RUNNING and l.each[i].slot == slot:
            return &l.each[i]
    return NULL


cdef void take_over(mirror_list *l) noexcept nogil:
    """Take over what the group has decided."""
    cdef uint64_t asked = rfp_load64_acquire(&l.asked)
    cdef mirror_place *place
    cdef uint32_t state, wanted
    cdef int i
    if asked == l.done:
        return
    for i in range(MIRROR_PLACES):
        state = l.r.slots[i].state
        wanted = l.slots[i].wanted
        if (state == RNVM_SLOT_FREE or l.slots[i].wanted_ticket != l.slots[i].ticket
                or wanted == WANT_NOTHING):
            continue
        if wanted == WANT_GONE:
            place = place_in(l, i)
            if place != NULL:
                place.slot = -1
                place.removed = l.now
                place.reason = RNVM_LOST_REMOVED
                place.state = RNVM_GONE
            free_slot(l, i, RNVM_LOST_REMOVED)
        elif wanted == WANT_REQUIRED and state == RNVM_COPYING:
            replicator_set_state(&l.r, i, RNVM_JOINING)
        elif wanted == WANT_IN_SYNC and state == RNVM_JOINING:
            replicator_set_state(&l.r, i, RNVM_IN_SYNC)
        elif wanted == WANT_REQUIRED and state == RNVM_IN_SYNC:
            replicator_lose(&l.r, i, RNVM_LOST_REMOVED)
    l.done_frame = l.r.numbers.published + 1
    rfp_store64_release(&l.done, asked)


cdef void mirrors_left(mirror_list *l, const void *client) noexcept nogil:
    cdef uint64_t phase
    cdef uint32_t i
    cdef mirror_place *place
    for i in range(MIRROR_PLACES):
        place = &l.each[i]
        phase = rfp_load64_acquire(&place.phase)
        if phase != PLACE_FREE and phase != PLACE_ENDED and place.client == client:
            end_place(l, place, phase)


cdef void end_place(mirror_list *l, mirror_place *place, uint64_t phase) noexcept nogil:
    remove(l, place, RNVM_LOST_REMOVED)
    place.client = NULL
    # The control thread may be making its memory: it finds the phase changed, and frees that.
    while not rfp_compare_swap64(&place.phase, &phase, PLACE_ENDED):
        pass
    put_event(l, place, EVENT_MIRROR_LEFT, 0)


cdef void end_idle(mirror_list *l, uint64_t now) noexcept nogil:
    """End places that nobody uses, although their connections go on."""
    cdef mirror_place *place
    cdef uint64_t phase
    cdef uint32_t i
    for i in range(MIRROR_PLACES):
        place = &l.each[i]
        phase = rfp_load64_acquire(&place.phase)
        if phase == PLACE_RUNNING:
            if place.slot < 0 and place.removed and now > place.removed + REMOVED_NS:
                end_place(l, place, phase)
        elif phase == PLACE_RESERVED or phase == PLACE_GIVEN:
            if now > place.began + UNUSED_NS:
                end_place(l, place, phase)


# The tick


cdef void mirrors_tick(mirror_list *l, uint64_t now) noexcept nogil:
    cdef mirror_place *place
    cdef uint32_t i, state
    cdef bint followed = False
    l.now = now
    end_idle(l, now)
    if not l.replicating:
        return
    if l.policy:
        take_over(l)
    replicator_poll(&l.r, now)
    for i in range(MIRROR_PLACES):
        place = &l.each[i]
        if rfp_load64_acquire(&place.phase) != PLACE_RUNNING or place.slot < 0:
            continue
        state = l.r.slots[place.slot].state
        if state == RNVM_GONE:
            remove(l, place, l.r.slots[place.slot].reason)
            continue
        followed = True
        if state == RNVM_IN_SYNC and place.state != RNVM_IN_SYNC:
            put_event(l, place, EVENT_MIRROR_JOINED, 0)
        place.state = state
    if not followed and not l.min_mirrors and not l.policy:
        end(l)                 # nothing is noted any more


cdef bint mirrors_have_room(const mirror_list *l) noexcept nogil:
    cdef uint32_t i, state
    if not l.replicating:
        return True
    for i in range(RNVM_MIRRORS_MAX):
        state = l.r.slots[i].state
        # What comes while a mirror syncs its disk becomes one frame, and not one for each tick:
        # else a slow mirror of a fast primary would fall behind until its patience is over.
        if ((state == RNVM_IN_SYNC or state == RNVM_JOINING)
                and l.r.numbers.published - l.r.slots[i].acked > OUTSTANDING_MAX):
            return False
    return replicator_has_room(&l.r)


cdef void mirrors_await_room(mirror_list *l) noexcept nogil:
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = ROOM_NAP_NS
    while not l.p.m.error and not mirrors_have_room(l) and not rfp_load64_acquire(&l.closing):
        nanosleep(&pause, NULL)
        mirrors_tick(l, rfp_now())

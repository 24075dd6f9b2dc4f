"""Put, get, reserve, acknowledge and give back: the operations of a queue."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport ALIEN, FULL, OK, answer_put
from structures.layout cimport (
    LEASE_NEVER, SLOT_AT, SLOT_INSIDE, SLOT_LENGTH, VALUE_MAX, queue_root, queue_slot,
)
from structures.queue_reservations cimport (
    NO_QUEUE_SLOT, give_back, lease_end, next_ended_slot, reclaim, reservations_provide, search,
    search_ended, slot_change, slot_find, slot_new, slot_note, slot_read, slot_vacate,
)
from structures.queue_segments cimport (
    EMPTY, change_root, entry_bytes, entry_hold, root_of, segments_count, segments_put,
    segments_take, taken,
)
from structures.values cimport value_bytes, value_free, value_new


# The next entry


cdef int find_next(instance *s, const queue_root *root, uint64_t now,
                   upcoming *next) noexcept nogil:
    cdef const queue_slot *slot
    cdef search f
    cdef uint64_t waiting
    cdef int outcome
    memset(next, 0, sizeof(next[0]))
    if root.first:
        slot = slot_read(s, root, root.first - 1)
        if slot == NULL:
            return s.error
        next.number = slot.ticket
        next.slot = root.first
        return OK
    search_ended(&f, now)
    outcome = next_ended_slot(s, root, &f)
    if outcome == OK:
        next.number = f.slot.ticket
        next.slot = f.slot_number + 1
        return OK
    if outcome < OK:
        return outcome
    if segments_count(s, root, &waiting) != OK:
        return s.error
    next.number = root.dequeued
    return OK if waiting else EMPTY


cdef int take(instance *s, uint64_t now, const meant *only, uint64_t most,
              taken *t) noexcept nogil:
    """Take out the next entry; EMPTY: there is none.  An entry with a slot keeps it.

    only: the entry that is expected, or NULL.  most: deliveries of an entry, 0: no limit.
    """
    cdef const queue_root *seen = root_of(s)
    cdef queue_root *root
    cdef queue_slot *slot
    cdef upcoming next
    cdef int outcome
    if seen == NULL:
        return s.error
    if seen.reserved and seen.earliest <= now:
        root = change_root(s)
        if root == NULL:
            return s.error
        outcome = reclaim(s, root, now)
        if outcome != OK:
            return outcome
        seen = root
    if only != NULL:
        outcome = find_next(s, seen, now, &next)
        if outcome != OK:
            return outcome
        if next.number != only.next.number or next.slot != only.next.slot:
            return OTHER_ENTRY
    if not seen.first:
        return segments_take(s, t)
    root = change_root(s)
    if root == NULL:
        return s.error
    slot = slot_read(s, root, root.first - 1)
    if slot == NULL:
        return s.error
    if most and slot.deliveries >= most:
        next.number = slot.ticket
        next.slot = root.first
        return EXHAUSTED if answer_put(s, &next, sizeof(next)) == OK else s.error
    t.slot = root.first
    t.length = SLOT_LENGTH(slot.length)
    t.value = slot.value
    t.at = SLOT_AT(slot.length)
    root.first = slot.next
    if not root.first:
        root.last = 0
    root.requeued -= 1
    return OK


# Operations


cdef const char *taken_bytes(instance *s, const taken *t) noexcept nogil:
    return entry_bytes(s, t.value, t.at, t.length) if t.at else value_bytes(s, t.value, t.length)


cdef int get(instance *s, uint64_t now, const meant *only) noexcept nogil:
    cdef taken t
    cdef queue_root *root
    cdef queue_slot *slot
    cdef const char *bytes
    cdef int outcome = take(s, now, only, 0, &t)
    if outcome != OK:
        return outcome
    bytes = taken_bytes(s, &t)
    if bytes == NULL or answer_put(s, bytes, t.length) != OK:
        return s.error
    if t.slot:
        root = change_root(s)
        slot = NULL if root == NULL else slot_change(s, root, t.slot - 1)
        return s.error if slot == NULL else slot_vacate(s, root, slot, t.slot - 1)
    return OK if t.at else value_free(s, t.value, t.length)


cdef void slot_lease(queue_root *root, queue_slot *slot, uint64_t salt,
                     uint64_t deadline) noexcept nogil:
    """Begin a lease in a slot, with a ticket of its own."""
    root.tickets += 1
    slot.ticket = root.tickets << TICKET_BITS | (salt & ((1 << TICKET_BITS) - 1))
    slot.deadline = deadline
    slot.next = 0
    root.reserved += 1


cdef int reserve(instance *s, const moment *when) noexcept nogil:
    cdef taken t
    cdef ticket given
    cdef queue_root *root
    cdef queue_slot *slot
    cdef const char *bytes
    cdef uint64_t own
    cdef uint32_t number = 0
    cdef int outcome = take(s, when.now, NULL, when.most, &t)
    if outcome != OK:
        return outcome
    root = change_root(s)
    if root == NULL:
        return s.error
    bytes = taken_bytes(s, &t)
    if bytes == NULL:
        return s.error
    if t.slot:
        number = t.slot - 1
        slot = slot_change(s, root, number)
    else:
        slot = slot_new(s, root, &number)
    if slot == NULL:
        return s.error
    if t.at and not t.slot:
        # A value in a node of its own keeps no segment from being freed.  In a full pool it stays
        # in its segment: consumers must be able to continue.
        own = value_new(s, bytes, t.length)
        if own:
            t.value = own
            t.at = 0
        elif s.error != FULL or entry_hold(s, t.value, t.at) != OK:
            return s.error
    slot_lease(root, slot, when.salt, when.deadline)
    slot.value = t.value
    slot.length = SLOT_INSIDE(t.length, t.at)
    slot.deliveries += 1
    given.number = slot.ticket
    given.slot = number
    if answer_put(s, &given, sizeof(given)) != OK:
        return s.error
    bytes = taken_bytes(s, &t)
    if bytes == NULL or answer_put(s, bytes, t.length) != OK:
        return s.error
    return slot_note(s, root, number)


cdef int leased(instance *s, const ticket *t) noexcept nogil:
    """Return OK if the ticket's slot is under its lease, else NOT_YOURS."""
    cdef queue_root *root = <queue_root *> root_of(s)
    cdef queue_slot *slot = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = slot_find(s, root, t.slot, &slot)
    if outcome < OK:
        return outcome
    if outcome == NO_QUEUE_SLOT or not t.number or slot.ticket != t.number or not slot.deadline:
        return NOT_YOURS
    return OK


cdef int ack(instance *s, const ticket *t) noexcept nogil:
    cdef queue_root *root
    cdef queue_slot *slot
    cdef int outcome = leased(s, t)
    if outcome != OK:
        return outcome
    root = change_root(s)
    slot = NULL if root == NULL else slot_change(s, root, t.slot)
    if slot == NULL:
        return s.error
    lease_end(root, slot)
    return slot_vacate(s, root, slot, <uint32_t> t.slot)


cdef int nack(instance *s, const ticket *t, uint64_t most) noexcept nogil:
    cdef queue_root *root
    cdef queue_slot *slot
    cdef int outcome = leased(s, t)
    if outcome != OK:
        return outcome
    if most:
        slot = slot_read(s, root_of(s), t.slot)
        if slot == NULL:
            return s.error
        if slot.deliveries >= most:
            return EXHAUSTED
    root = change_root(s)
    slot = NULL if root == NULL else slot_change(s, root, t.slot)
    if slot == NULL or give_back(s, root, slot, <uint32_t> t.slot) != OK:
        return s.error
    return slot_note(s, root, t.slot)


cdef int extend(instance *s, const ticket *t, uint64_t deadline) noexcept nogil:
    cdef queue_root *root
    cdef queue_slot *slot
    cdef int outcome = leased(s, t)
    if outcome != OK:
        return outcome
    root = change_root(s)
    slot = NULL if root == NULL else slot_change(s, root, t.slot)
    if slot == NULL:
        return s.error
    slot.deadline = deadline
    return slot_note(s, root, t.slot)


cdef int put(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef bint grown = False
    cdef int outcome = segments_put(s, bytes, length, &grown)
    return reservations_provide(s) if outcome == OK and grown else outcome


cdef int put_many(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef uint32_t at = 0, each = 0
    cdef int outcome
    while at < length:                         # all of it is valid, or nothing is put
        if length - at < 4:
            return ALIEN
        memcpy(&each, bytes + at, 4)
        at += 4
        if each > VALUE_MAX or each > length - at:
            return ALIEN
        at += each
    at = 0
    while at < length:
        memcpy(&each, bytes + at, 4)
        outcome = put(s, bytes + at + 4, each)
        if outcome != OK:
            return outcome
        at += 4 + each
    return OK


cdef int put_later(instance *s, const later *when, const char *bytes,
                   uint32_t length) noexcept nogil:
    cdef queue_root *root = change_root(s)
    cdef queue_slot *slot
    cdef uint64_t value
    cdef uint32_t number = 0
    if root == NULL:
        return s.error
    value = value_new(s, bytes, length)
    slot = NULL if not value else slot_new(s, root, &number)
    if slot == NULL:
        return s.error
    slot_lease(root, slot, when.salt, when.due)
    slot.value = value
    slot.length = SLOT_INSIDE(length, 0)
    slot.deliveries = 0
    root.delayed += 1
    if slot_note(s, root, number) != OK:
        return s.error
    return reservations_provide(s)


cdef int queue_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef moment when
    cdef later put_at
    cdef meant only
    cdef ticket t
    cdef nack_bytes returned
    cdef extend_bytes extended
    if code == PUT and length <= VALUE_MAX:
        return put(s, bytes, length)
    if code == PUT_MANY:
        return put_many(s, bytes, length)
    if code == PUT_LATER and sizeof(put_at) <= length <= sizeof(put_at) + VALUE_MAX:
        memcpy(&put_at, bytes, sizeof(put_at))
        if 0 < put_at.due < LEASE_NEVER:
            return put_later(s, &put_at, bytes + sizeof(put_at),
                             length - <uint32_t> sizeof(put_at))
    if code == GET and length == 8:
        memcpy(&when.now, bytes, 8)
        return get(s, when.now, NULL)
    if code == GET and length == sizeof(only):
        memcpy(&only, bytes, sizeof(only))
        return get(s, only.now, &only)
    if code == RESERVE and length == sizeof(when):
        memcpy(&when, bytes, sizeof(when))
        return reserve(s, &when)
    if code == ACK and length == sizeof(t):
        memcpy(&t, bytes, sizeof(t))
        return ack(s, &t)
    if code == NACK and length == sizeof(returned):
        memcpy(&returned, bytes, sizeof(returned))
        return nack(s, &returned.t, returned.most)
    if code == EXTEND and length == sizeof(extended):
        memcpy(&extended, bytes, sizeof(extended))
        if 0 < extended.deadline < LEASE_NEVER:
            return extend(s, &extended.t, extended.deadline)
    return ALIEN

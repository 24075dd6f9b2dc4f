"""Pins: grant, release and time-out; the sessions and accounts that hold them."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from rfp.core.core cimport rfp_store64
from rfp.store.layout cimport KV_STATE_PIN, KV_STATE_PINS, kv_record
from rfp.store.messages cimport KV_C_PINS, KV_C_UNKNOWN_PINS
from rfp.store.server.arena cimport arena_size
from rfp.store.server.records cimport (
    MAX_PINS, account, link, list_append, list_unlink, partition, pin, record_unpin,
    session_resources,
)


cdef account *account_open(partition *p, uint64_t peer) noexcept nogil:
    cdef account *a = p.accounts if peer else NULL
    while a != NULL and a.peer != peer:
        a = a.next
    if a == NULL:
        a = <account *> calloc(1, sizeof(account))
        if a == NULL:
            return NULL
        a.peer = peer
        a.next = p.accounts
        p.accounts = a
    a.sessions += 1
    return a


cdef void account_close(partition *p, account *a) noexcept nogil:
    cdef account **place = &p.accounts
    a.sessions -= 1
    if a.sessions:
        return
    while place[0] != a:
        place = &place[0].next
    place[0] = a.next
    free(a)


cdef session_resources *session_resources_open(partition *p, uint64_t peer) noexcept nogil:
    cdef session_resources *h = <session_resources *> calloc(1, sizeof(session_resources))
    cdef int i
    if h == NULL:
        return NULL
    h.account = account_open(p, peer)
    if h.account == NULL:
        free(h)
        return NULL
    for i in range(MAX_PINS - 1):
        h.pins[i].links.next = &h.pins[i + 1].links
    h.unused = &h.pins[0]
    list_append(&p.sessions, &h.links)
    return h


cdef void session_resources_close(partition *p, session_resources *h) noexcept nogil:
    cdef int i
    for i in range(MAX_PINS):
        if h.pins[i].id:
            drop(p, &h.pins[i])
    list_unlink(&p.sessions, &h.links)
    account_close(p, h.account)
    free(h)


cdef pin *pin_grant(partition *p, session_resources *h, kv_record *record) noexcept nogil:
    cdef uint64_t block = <uint64_t> (<char *> record - p.memory.base)
    cdef uint64_t bytes = arena_size(&p.memory, block)
    cdef pin *x
    if h == NULL or h.unused == NULL or bytes > p.quota - h.bytes \
            or (record.state & KV_STATE_PINS) == KV_STATE_PINS:
        return NULL
    x = h.unused
    h.unused = <pin *> x.links.next
    p.serial += 1
    x.id = p.serial * MAX_PINS + <uint64_t> (x - h.pins)
    x.record = block
    x.bytes = bytes
    x.deadline = 0
    x.owner = h
    list_append(&p.pins, &x.links)
    if p.new_pin == NULL:
        p.new_pin = x
    h.bytes += bytes
    rfp_store64(&record.state, record.state + KV_STATE_PIN)
    p.counters[KV_C_PINS] += 1
    return x


cdef void drop(partition *p, pin *x) noexcept nogil:
    if p.new_pin == x:
        p.new_pin = <pin *> x.links.next
    list_unlink(&p.pins, &x.links)
    x.id = 0
    x.owner.bytes -= x.bytes
    x.links.next = <link *> x.owner.unused
    x.owner.unused = x
    p.counters[KV_C_PINS] -= 1
    record_unpin(p, x.record)


cdef void pin_release(partition *p, session_resources *h, uint64_t id) noexcept nogil:
    cdef pin *x = &h.pins[id % MAX_PINS] if h != NULL else NULL
    if x != NULL and id and x.id == id:
        drop(p, x)
    else:
        p.counters[KV_C_UNKNOWN_PINS] += 1


cdef void pins_tick(partition *p) noexcept nogil:
    cdef pin *first = <pin *> p.pins.first
    while first != NULL and first.deadline and first.deadline <= p.now:
        drop(p, first)
        first = <pin *> p.pins.first
    while p.new_pin != NULL:
        p.new_pin.deadline = p.now + p.lease + p.lease // 4
        p.new_pin = <pin *> p.new_pin.links.next

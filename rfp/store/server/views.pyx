"""Pins of views: grant, end when no view holds them, end of a client process."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from rfp.core.core cimport (
    rfp_add64, rfp_compare_swap64, rfp_load32_acquire, rfp_load64, rfp_load64_acquire,
    rfp_random_mix, rfp_store32_release, rfp_store64,
)
from rfp.store.layout cimport (
    KV_BLOCK_ORPHAN, KV_BLOCK_RECORD, KV_STATE_KEY, KV_STATE_PIN, KV_STATE_PINS, kv_record,
    kv_value_offset,
)
from rfp.store.messages cimport KV_C_VIEWS, KV_C_VIEW_BYTES, KV_OK, KV_QUOTA, KV_UNSUPPORTED
from rfp.store.server.arena cimport arena_allocate_low, arena_become, arena_kind, arena_size
from rfp.store.server.eviction cimport eviction_make_low_room
from rfp.store.server.index cimport index_move
from rfp.store.server.records cimport (
    EVICT_CLOCK, VIEWED_BUCKETS, partition, record_at, record_unpin, view_holder, view_pin,
)
from rfp.store.view_table cimport (
    KV_VIEW_PINS, KV_VIEW_USES_MAX, kv_view_grant, kv_view_grant_again, kv_view_reap,
)

cdef enum:
    # Examined by one request that finds no quota, or nothing more to evict.
    GRANT_PINS = 4096
    # Viewed records that may stay above the lowest quarter of the arena, where each of them stops
    # the sweep, and one at the end the growth of the index.
    HIGH_VIEWS_MAX = 32
    REAP_NS = 1000000              # between two passes for requests that need memory or quota
    # Longest record that is moved for a view, in bytes: the worker serves no other client
    # meanwhile.
    VIEW_MOVED_MAX = 8 << 20
    PASS_NS = 50000000             # between the beginnings of two passes over all pins
    # A pin that no view has held since its grant: its response may still be on the way.
    UNHELD_NS = 1000000000


cdef inline view_pin **chain_of(partition *p, uint64_t block) noexcept nogil:
    return &p.viewed[rfp_random_mix(block) & (VIEWED_BUCKETS - 1)]


# Holders


cdef view_holder *holders_open(partition *p, uint64_t peer, uint64_t *words) noexcept nogil:
    cdef view_holder *h = <view_holder *> calloc(1, sizeof(view_holder))
    cdef uint64_t first
    if h == NULL:
        return NULL
    h.peer = peer
    h.words = words
    first = rfp_load64(&p.handed)
    while True:
        h.next = <view_holder *> first
        if rfp_compare_swap64(&p.handed, &first, <uint64_t> h):
            return h


cdef void holders_end(partition *p, view_holder *h) noexcept nogil:
    rfp_store32_release(&h.ending, 1)
    rfp_add64(&p.endings, 1)


cdef bint holders_ended(view_holder *h) noexcept nogil:
    return rfp_load32_acquire(&h.ended) != 0


cdef void adopt(partition *p) noexcept nogil:
    cdef uint64_t first = rfp_load64_acquire(&p.handed)
    cdef view_holder *h
    cdef view_holder *next
    if not first:
        return
    while not rfp_compare_swap64(&p.handed, &first, 0):
        pass
    h = <view_holder *> first
    while h != NULL:
        next = h.next
        h.next = p.holders
        p.holders = h
        h = next


cdef view_holder *holder_of(partition *p, uint64_t peer) noexcept nogil:
    """Returns the holder of a client process, or NULL."""
    cdef view_holder *h
    adopt(p)
    h = p.holders
    while h != NULL and (h.peer != peer or rfp_load32_acquire(&h.ending)):
        h = h.next
    return h


cdef bint end_holder(partition *p) noexcept nogil:
    """Drops the pins of one process that has ended; returns whether there may be another."""
    cdef view_holder **place = &p.holders
    cdef view_holder *h
    cdef uint32_t i
    adopt(p)
    while place[0] != NULL and not rfp_load32_acquire(&place[0].ending):
        place = &place[0].next
    h = place[0]
    if h == NULL:
        return False
    for i in range(h.fresh):
        if h.pins[i].record:
            drop(p, &h.pins[i])
    place[0] = h.next
    p.scanning = NULL
    rfp_add64(&p.endings, <uint64_t> -1)
    rfp_store32_release(&h.ended, 1)       # from here on the control thread may free it
    return True


# Pins


cdef void drop(partition *p, view_pin *x) noexcept nogil:
    cdef view_pin **place = chain_of(p, x.record)
    cdef view_pin *other
    cdef uint64_t block = x.record
    while place[0] != x:
        place = &place[0].next
    place[0] = x.next
    other = chain_of(p, block)[0]
    while other != NULL and other.record != block:
        other = other.next
    if other == NULL:
        p.counters[KV_C_VIEW_BYTES] -= x.bytes
        p.high_views -= x.high
    x.owner.bytes -= x.bytes
    x.owner.count -= 1
    p.counters[KV_C_VIEWS] -= 1
    x.record = 0
    x.next = x.owner.unused
    x.owner.unused = x
    record_unpin(p, block)


cdef bint reap(partition *p, view_holder *h, uint32_t i, bint orphans) noexcept nogil:
    """Drops a pin that no view holds.  orphans: only if that frees memory at once."""
    cdef view_pin *x = &h.pins[i]
    # Most words are left as they are, without a write to a line that the client uses.
    if rfp_load64(h.words + i) & KV_VIEW_USES_MAX or not x.record:
        return False
    if orphans and arena_kind(&p.memory, x.record) != KV_BLOCK_ORPHAN:
        return False
    if not kv_view_reap(h.words + i, x.generation, p.now - x.granted > UNHELD_NS):
        return False
    x.generation += 1
    drop(p, x)
    return True


cdef bint reap_some(partition *p, uint32_t budget, bint orphans) noexcept nogil:
    """Goes on with the pass over all pins."""
    cdef bint found = False
    if p.scanning == NULL:
        p.scanning = p.holders
        p.scanned = 0
    while p.scanning != NULL and budget:
        if not p.scanning.count or p.scanned >= p.scanning.fresh:
            p.scanning = p.scanning.next
            p.scanned = 0
        else:
            found |= reap(p, p.scanning, p.scanned, orphans)
            p.scanned += 1
        budget -= 1
    return found


cdef bint views_reap(partition *p, bint last_chance) noexcept nogil:
    if not p.counters[KV_C_VIEWS] or (p.now < p.next_reap and not last_chance):
        return False
    p.next_reap = p.now + REAP_NS
    return reap_some(p, GRANT_PINS if last_chance else TICK_PINS, True)


cdef bint views_tick(partition *p) noexcept nogil:
    cdef bint more = False
    if rfp_load64(&p.endings):
        more = end_holder(p)
    if not p.counters[KV_C_VIEWS]:
        return more
    if p.scanning == NULL:
        if p.now < p.next_pass:
            return more
        p.next_pass = p.now + PASS_NS
    reap_some(p, TICK_PINS, False)
    return more or p.scanning != NULL


cdef bint fits(partition *p, view_holder *h, uint64_t bytes, bint viewed) noexcept nogil:
    """Returns whether quotas and table allow one more pin of a process."""
    cdef uint64_t most = p.process_view_quota, more = 0 if viewed else bytes
    return bytes <= most and h.bytes <= most - bytes and more <= p.view_quota and \
        p.counters[KV_C_VIEW_BYTES] <= p.view_quota - more and \
        (h.unused != NULL or h.fresh < KV_VIEW_PINS)


cdef bint make_fit(partition *p, view_holder *h, uint64_t block, bint *viewed) noexcept nogil:
    """Drops pins that no view holds until one more fits; sets *viewed (as find_pin), which no later
    step changes."""
    cdef uint64_t bytes = arena_size(&p.memory, block)
    cdef uint32_t i
    find_pin(p, h, block, viewed)
    if fits(p, h, bytes, viewed[0]):
        return True
    for i in range(h.fresh):
        reap(p, h, i, False)
    find_pin(p, h, block, viewed)
    if not fits(p, h, bytes, viewed[0]) and p.now >= p.next_reap:
        p.next_reap = p.now + REAP_NS
        reap_some(p, GRANT_PINS, False)
        reap_some(p, GRANT_PINS, False)        # a pass may have begun in the middle
        find_pin(p, h, block, viewed)
    return fits(p, h, bytes, viewed[0])


cdef uint64_t place_low(partition *p, uint64_t old, bint *high) noexcept nogil:
    """Moves a record that gets its first view to the lowest quarter of the arena, and returns its
    place, or 0.

    There it keeps neither the sweep nor the index from their work.  A few may stay where they are
    (*high) if there is no room; for others, records in that quarter are evicted.
    """
    cdef kv_record *record = record_at(p, old)
    cdef uint64_t size = arena_size(&p.memory, old), whole = p.memory.end - p.memory.start
    cdef uint64_t low = p.memory.start + whole // 4, block
    high[0] = old >= low
    if not high[0]:
        return old
    if size <= VIEW_MOVED_MAX and not record.state & KV_STATE_PINS:
        block = arena_allocate_low(&p.memory, size, KV_BLOCK_RECORD, low)
        if not block and p.policy == EVICT_CLOCK and \
                (p.high_views >= HIGH_VIEWS_MAX or old + size > p.memory.end - whole // 16):
            block = eviction_make_low_room(p, size, low, old)
            if block:
                arena_become(&p.memory, block, KV_BLOCK_RECORD)
        if block:
            high[0] = False
            index_move(&p.index, old, block)
            return block
    if p.policy == EVICT_CLOCK and p.high_views >= HIGH_VIEWS_MAX:
        return 0
    return old


cdef view_pin *find_pin(partition *p, view_holder *h, uint64_t block,
                        bint *viewed) noexcept nogil:
    """Returns this process's pin of a record, or NULL; *viewed: whether any process has one."""
    cdef view_pin *x = chain_of(p, block)[0]
    viewed[0] = False
    while x != NULL:
        if x.record == block:
            viewed[0] = True
            if x.owner == h:
                return x
        x = x.next
    return NULL


cdef view_pin *first_pin(partition *p, uint64_t block) noexcept nogil:
    """Returns any pin of a record that has one."""
    cdef view_pin *x = chain_of(p, block)[0]
    while x.record != block:
        x = x.next
    return x


cdef view_pin *add_pin(partition *p, view_holder *h, uint64_t block, bint viewed,
                       bint high) noexcept nogil:
    cdef kv_record *record = record_at(p, block)
    cdef view_pin **chain = chain_of(p, block)
    cdef view_pin *x
    if h.unused != NULL:
        x = h.unused
        h.unused = x.next
    else:
        x = &h.pins[h.fresh]
        h.fresh += 1
    x.record = block
    x.bytes = arena_size(&p.memory, block)
    x.owner = h
    x.high = high
    x.generation += 1
    x.next = chain[0]
    chain[0] = x
    h.bytes += x.bytes
    h.count += 1
    p.counters[KV_C_VIEWS] += 1
    if not viewed:
        p.counters[KV_C_VIEW_BYTES] += x.bytes
        p.high_views += high
    rfp_store64(&record.state, record.state + KV_STATE_PIN)
    return x


cdef uint8_t view_grant(partition *p, uint64_t peer, kv_record *record,
                        kv_viewed *granted) noexcept nogil:
    cdef view_holder *h = holder_of(p, peer) if peer else NULL
    cdef uint64_t block = <uint64_t> (<char *> record - p.memory.base)
    cdef view_pin *x
    cdef bint viewed, high
    if h == NULL:
        return KV_UNSUPPORTED
    x = find_pin(p, h, block, &viewed)
    if x != NULL:
        kv_view_grant_again(h.words + (x - h.pins), x.generation)
    else:
        if not make_fit(p, h, block, &viewed) or \
                (record.state & KV_STATE_PINS) == KV_STATE_PINS:
            return KV_QUOTA
        if viewed:
            high = first_pin(p, block).high
        else:
            block = place_low(p, block, &high)
            if not block:
                return KV_QUOTA
        x = add_pin(p, h, block, viewed, high)
        kv_view_grant(h.words + (x - h.pins), x.generation)
    record = record_at(p, block)
    x.granted = p.now
    granted.offset = block + kv_value_offset(record.state & KV_STATE_KEY)
    granted.length = record.value_length
    granted.record = block
    granted.pin = <uint32_t> (x - h.pins)
    granted.generation = x.generation
    return KV_OK


cdef const char *views_check(partition *p) noexcept nogil:
    cdef view_holder *h = p.holders
    cdef view_pin *x
    cdef uint64_t pins = 0, bytes = 0, of_holder, count
    cdef uint32_t i
    while h != NULL:
        of_holder = 0
        count = 0
        for i in range(h.fresh):
            x = &h.pins[i]
            if not x.record:
                continue
            count += 1
            of_holder += x.bytes
            if x.owner != h:
                return "a pin of a view belongs to another process"
            if not record_at(p, x.record).state & KV_STATE_PINS:
                return "a viewed record has no pin count"
            if arena_size(&p.memory, x.record) != x.bytes:
                return "a pin of a view has another size than its record"
        if count != h.count or of_holder != h.bytes:
            return "a process's pins of views do not match their count"
        pins += count
        h = h.next
    if pins != p.counters[KV_C_VIEWS]:
        return "the count of views does not match the pins found"
    pins = 0
    for i in range(VIEWED_BUCKETS):
        x = p.viewed[i]
        while x != NULL:
            pins += 1
            if chain_of(p, x.record) != &p.viewed[i]:
                return "a pin of a view is in the wrong chain"
            if first_of_record(p, x):
                bytes += x.bytes
            x = x.next
    if pins != p.counters[KV_C_VIEWS] or bytes != p.counters[KV_C_VIEW_BYTES]:
        return "the bytes of views do not match the pins found"
    return NULL


cdef bint first_of_record(partition *p, view_pin *x) noexcept nogil:
    cdef view_pin *other = chain_of(p, x.record)[0]
    while other.record != x.record:
        other = other.next
    return other == x

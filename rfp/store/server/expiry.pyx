"""The sweep for expired records: visits all blocks in address order, a few per tick()."""

from libc.stdint cimport uint64_t
from rfp.core.core cimport rfp_prefetch
from rfp.store.layout cimport KV_BLOCK_END, KV_BLOCK_RECORD, KV_EXPIRY_SHIFT
from rfp.store.server.arena cimport arena, arena_kind, arena_size
from rfp.store.server.records cimport partition, record_at, record_evict, record_expired

cdef enum:
    SWEEP_BLOCKS_MAX = 128     # per call
    # Pause for each block visited, so that sweeping takes one or two percent of the worker, however
    # many records have an expiry.
    SWEEP_REST_NS_PER_BLOCK = 1000


cdef bint expiry_tick(partition *p) noexcept nogil:
    cdef arena *a = &p.memory
    cdef uint64_t at, size, expiry
    cdef int _
    if not p.sweeping:
        if not p.expiring or p.now_ms < p.soonest or p.now < p.rest:
            return False
        p.sweeping = True
        p.upcoming = <uint64_t> -1
        p.walked = 0
        p.moved = p.index.moved
        a.cursors[1] = a.start
    for _ in range(SWEEP_BLOCKS_MAX):
        at = a.cursors[1]
        if arena_kind(a, at) == KV_BLOCK_END or not p.expiring:
            p.sweeping = False
            p.rest = p.now + SWEEP_REST_NS_PER_BLOCK * p.walked
            # Records moved during the sweep may have passed unseen.
            p.soonest = p.upcoming if p.moved == p.index.moved else 0
            return False
        if arena_kind(a, at) == KV_BLOCK_RECORD:
            if record_expired(p, record_at(p, at)):
                record_evict(p, at)
                p.walked += 1
                continue       # its place is an orphan or a free block now, which may begin earlier
            expiry = record_at(p, at).state >> KV_EXPIRY_SHIFT
            if expiry:
                p.upcoming = min(p.upcoming, expiry)
        size = arena_size(a, at)
        rfp_prefetch(a.base + at + 4 * size)
        a.cursors[1] = at + size
        p.walked += 1
    return True

"""Wake threads that wait for a change of a structure."""

from libc.stdint cimport uint32_t, uint64_t

from rfp.core.core cimport rfp_fence_full, rfp_futex_wake, rfp_load64, rfp_store64_release
from rfp.core.futex_wake_some cimport rfp_futex_wake_some
from rnvm.backend.lock_manager cimport lock_manager
from rnvm.format.layout cimport RNVM_NAME_LIVE, rnvm_name_at
from rnvm.format.messages cimport RNVM_ALONE, RNVM_LIVE_FLAGS, RNVM_STATUS_SPARE, RNVM_WATCHED
from rnvm.pool.state cimport structure


cdef inline char *line_of(lock_manager *g, uint32_t index) noexcept nogil:
    return g.p.m.base + rnvm_name_at(&g.p.g, index) + RNVM_NAME_LIVE


cdef inline void show_flag(lock_manager *g, uint32_t index, uint64_t flag,
                           bint shown) noexcept nogil:
    cdef char *word = line_of(g, index) + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_FLAGS)
    rfp_store64_release(word, (rfp_load64(word) & ~flag) | (flag if shown else 0))


cdef inline void show_watched(lock_manager *g, uint32_t index, bint watched) noexcept nogil:
    show_flag(g, index, RNVM_WATCHED, watched)


cdef void show_alone(lock_manager *g, uint32_t index, bint alone) noexcept nogil:
    show_flag(g, index, RNVM_ALONE, alone)


cdef bint report(watch *it, lock_manager *g) noexcept nogil:
    """Report the changes of a structure; return whether threads may still sleep on its sequence."""
    cdef const structure *each = &g.p.structures[it.index]
    cdef uint64_t changes = each.number - it.noted
    if each.id != it.structure:
        rfp_futex_wake(line_of(g, it.index))    # it was dropped
        return False
    if g.locks[it.index].orphans != it.orphans:
        # The sequence does not move: a thread that is about to sleep finds them at its next poll.
        it.orphans = g.locks[it.index].orphans
        rfp_futex_wake(line_of(g, it.index))
    if not changes:
        return True
    it.noted = each.number
    return rfp_futex_wake_some(line_of(g, it.index), changes) > 0


cdef void watches_add(watch_list *w, lock_manager *g, uint32_t index) noexcept nogil:
    cdef watch *it
    cdef uint32_t i = 0
    while i < w.count and w.items[i].index != index:
        i += 1
    it = &w.items[i]
    if i < w.count:
        report(it, g)
    else:
        w.count += 1
        show_watched(g, index, True)
        # Records that a front-end has stored before it could see this are collected before the
        # back-end sleeps.
        rfp_fence_full()
    it[0] = watch(index, g.p.structures[index].id, g.p.structures[index].number,
                  g.locks[index].orphans)


cdef void watches_report(watch_list *w, lock_manager *g) noexcept nogil:
    cdef uint32_t i = 0
    while i < w.count:
        if report(&w.items[i], g):
            i += 1
            continue
        show_watched(g, w.items[i].index, False)
        w.count -= 1
        w.items[i] = w.items[w.count]


cdef void watches_end(watch_list *w, lock_manager *g) noexcept nogil:
    while w.count:
        w.count -= 1
        rfp_futex_wake(line_of(g, w.items[w.count].index))


cdef void watches_clear(lock_manager *g) noexcept nogil:
    cdef uint32_t i
    for i in range(g.p.g.names):
        show_flag(g, i, RNVM_WATCHED | RNVM_ALONE, False)

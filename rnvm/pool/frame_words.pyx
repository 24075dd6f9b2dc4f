"""The frame words of structures and sessions, and the replication line."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from rfp.core.core cimport RFP_ASSERT, rfp_load64, rfp_store64, rfp_store64_release
from rnvm.format.layout cimport (
    RNVM_NAME_LIVE, rnvm_name_at, rnvm_session, rnvm_session_at,
)
from rnvm.format.messages cimport RNVM_LIVE_FRAME, RNVM_STATUS_SPARE
from rnvm.format.replication cimport (
    RNVM_FIRST_FRAME, RNVM_REPLICATION_LINE, rnvm_replication_line,
)
from rnvm.media.medium cimport replicated
from rnvm.pool.state cimport pool


cdef enum:                     # for _plant()
    APPLY_LATE = 1             # a structure's word is stored after its even sequence
    COLLECT_LATE = 2           # a session's word is stored after its durable words
    LATE_SWEEPS = 64           # so many turns later

cdef uint32_t planted = 0


def _plant(uint32_t bugs):
    """Store words too late, for tests only."""
    global planted
    planted = bugs


cdef void store_late(pool *p) noexcept nogil:
    cdef uint32_t i
    p.frames.sweeps += 1
    if p.frames.sweeps % LATE_SWEEPS:
        return
    for i in range(p.g.names):
        if p.frames.shown[i]:
            store_word(p, i, p.frames.shown[i])
    for i in range(p.g.sessions):
        rfp_store64(&(<rnvm_session *> (p.m.base + rnvm_session_at(&p.g, i))).frame,
                    p.m.replication.published)


cdef inline void store_word(pool *p, uint32_t index, uint64_t frame) noexcept nogil:
    rfp_store64(p.m.base + rnvm_name_at(&p.g, index) + RNVM_NAME_LIVE
                + 8 * (RNVM_STATUS_SPARE + RNVM_LIVE_FRAME), frame)


cdef inline rnvm_replication_line *line_of(pool *p) noexcept nogil:
    return <rnvm_replication_line *> (p.m.base + RNVM_REPLICATION_LINE)


cdef inline void set_word(pool *p, uint32_t index, uint64_t frame) noexcept nogil:
    if not p.frames.shown[index]:
        RFP_ASSERT(p.frames.count < p.g.names)
        p.frames.waiting[p.frames.count] = index
        p.frames.count += 1
    p.frames.shown[index] = frame
    if not planted & APPLY_LATE:
        store_word(p, index, frame)


cdef bint frame_words_begin(pool *p) noexcept nogil:
    cdef rnvm_session *session
    cdef uint32_t i
    frame_words_end(p)
    p.frames.next = 0
    p.frames.shown = <uint64_t *> calloc(p.g.names, sizeof(uint64_t))
    p.frames.waiting = <uint32_t *> calloc(p.g.names, sizeof(uint32_t))
    if p.frames.shown == NULL or p.frames.waiting == NULL:
        frame_words_end(p)
        return False
    # Recovery may have kept what no mirror has.
    for i in range(p.g.sessions):
        session = <rnvm_session *> (p.m.base + rnvm_session_at(&p.g, i))
        rfp_store64(&session.frame, RNVM_FIRST_FRAME)
    for i in range(p.g.names):
        store_word(p, i, 0)
        if p.structures[i].id:
            set_word(p, i, RNVM_FIRST_FRAME)
    return True


cdef void frame_words_end(pool *p) noexcept nogil:
    free(p.frames.shown)
    free(p.frames.waiting)
    p.frames.shown = NULL
    p.frames.waiting = NULL
    p.frames.count = 0


cdef void frame_words_apply(pool *p, uint32_t index) noexcept nogil:
    cdef const replicated *r = p.m.replication
    # A word that is left as it is passes: it is not above `published`, and the sweep clears it.
    if r != NULL and r.acked < r.published:
        set_word(p, index, r.published)


cdef void frame_words_collect(pool *p, uint32_t session) noexcept nogil:
    cdef const replicated *r = p.m.replication
    if r == NULL:
        return
    if not planted & COLLECT_LATE:
        rfp_store64(&(<rnvm_session *> (p.m.base + rnvm_session_at(&p.g, session))).frame,
                    r.published)
    # Over a network front-ends READ this one behind the durable words.
    rfp_store64(&line_of(p).published, r.published)


cdef inline void show(uint64_t *word, uint64_t value) noexcept nogil:
    # Unchanged words are not stored: all front-ends have the line in their caches.
    if rfp_load64(word) != value:
        rfp_store64_release(word, value)


cdef void frame_words_sweep(pool *p, uint32_t most) noexcept nogil:
    cdef const replicated *r = p.m.replication
    cdef rnvm_replication_line *line = line_of(p)
    cdef uint32_t i, index
    if r == NULL:
        return
    show(&line.in_sync, r.in_sync)
    show(&line.min_mirrors, r.min_mirrors)
    show(&line.epoch, r.epoch)
    show(&line.published, r.published)
    show(&line.acked, r.acked)
    if planted:
        store_late(p)
    most = min(most, p.frames.count)
    while most and p.frames.count:
        most -= 1
        i = p.frames.next if p.frames.next < p.frames.count else 0
        index = p.frames.waiting[i]
        if p.frames.shown[index] > r.acked:
            p.frames.next = i + 1
            continue
        p.frames.shown[index] = 0
        store_word(p, index, 0)
        p.frames.count -= 1
        p.frames.waiting[i] = p.frames.waiting[p.frames.count]
        p.frames.next = i

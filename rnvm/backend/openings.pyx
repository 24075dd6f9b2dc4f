"""Note which sessions have opened each structure, and show whether it is one alone.

A writer stores its activity word, then loads the flag; the back-end stores the flag, then loads the
activity word; each with a full fence in between.  So either the writer sees that it is not alone,
or the back-end sees it inside, and puts its answer to FIND off until that operation has left.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from rfp.core.core cimport rfp_fence_full, rfp_now
from rnvm.backend.connections cimport client
from rnvm.backend.lock_manager cimport lock_occupied
from rnvm.backend.state cimport backend
from rnvm.backend.watches cimport show_alone
from rnvm.format.layout cimport RNVM_ATTACHED

cdef enum:
    LEAVE_NS = 250000000       # to wait for an operation, a batch or a transaction


cdef inline bint opened(const backend *s, uint32_t index, uint32_t session) noexcept nogil:
    return (s.opened[index][session] != 0
            and s.g.p.sessions[session].epoch == s.opened[index][session]
            and s.g.p.sessions[session].state == RNVM_ATTACHED)


cdef void show(backend *s, uint32_t index) noexcept nogil:
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += opened(s, index, i)
    show_alone(&s.g, index, count == 1)


cdef bint by_another(const backend *s, uint32_t index, int64_t session) noexcept nogil:
    cdef uint32_t i, count = 0
    cdef bint maps = False
    for i in range(s.g.p.g.sessions):
        if i != session and opened(s, index, i):
            count += 1
            maps = s.g.each[i].maps
    return count == 1 and maps


cdef void openings_add(backend *s, uint32_t index, int64_t session, bint made,
                       bint versioned) noexcept nogil:
    s.opened_index = index
    s.opened_by_another = False
    if s.opened[index] == NULL:
        s.opened[index] = <uint64_t *> calloc(s.g.p.g.sessions, sizeof(uint64_t))
    elif made:
        memset(s.opened[index], 0, s.g.p.g.sessions * sizeof(uint64_t))
    if s.opened[index] == NULL:
        show_alone(&s.g, index, False)          # not known: as if there were several
        return
    s.opened_by_another = versioned and by_another(s, index, session)
    s.opened[index][session] = s.g.p.sessions[session].epoch
    show(s, index)


cdef bint openings_hold(backend *s, client *c) noexcept nogil:
    cdef bint began = c.leaving_until != 0
    cdef uint32_t index = c.leaving_index if began else s.opened_index
    cdef uint64_t word = 0, now
    if not began:
        rfp_fence_full()
    if not lock_occupied(&s.g, index, <uint32_t> c.session, &word):
        c.leaving_until = 0
        return False
    now = rfp_now()
    if not began:
        c.leaving_index = index
        c.leaving_word = word
        c.leaving_until = now + LEAVE_NS
        return True
    if word == c.leaving_word and now < c.leaving_until:
        return True
    c.leaving_until = 0
    return False


cdef void openings_refresh(backend *s) noexcept nogil:
    cdef uint32_t i
    if s.opened_as_of == s.g.fenced:
        return
    s.opened_as_of = s.g.fenced
    for i in range(s.g.p.g.names):
        if s.opened[i] != NULL:
            show(s, i)

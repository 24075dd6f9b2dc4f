"""Note which sessions have opened each structure, and show whether it is one alone.

A writer stores its activity word, then loads the flag; the back-end stores the flag, then loads the
activity word; each with a full fence in between.  So either the writer sees that it is not alone,
or the back-end sees it inside, and waits until that operation has left.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from rfp.core.core cimport rfp_fence_full, rfp_now, rfp_pause
from rnvm.backend.lock_manager cimport lock_occupied
from rnvm.backend.state cimport backend
from rnvm.backend.watches cimport show_alone
from rnvm.format.layout cimport RNVM_ATTACHED

cdef enum:
    LEAVE_NS = 500000          # to wait for an operation; a batch or a transaction takes longer


cdef void show(backend *s, uint32_t index) noexcept nogil:
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += (s.opened[index][i] != 0 and s.g.p.sessions[i].epoch == s.opened[index][i]
                  and s.g.p.sessions[i].state == RNVM_ATTACHED)
    show_alone(&s.g, index, count == 1)


cdef void openings_add(backend *s, uint32_t index, int64_t session, bint made) noexcept nogil:
    cdef uint64_t word = 0, began, now = 0
    if s.opened[index] == NULL:
        s.opened[index] = <uint64_t *> calloc(s.g.p.g.sessions, sizeof(uint64_t))
    elif made:
        memset(s.opened[index], 0, s.g.p.g.sessions * sizeof(uint64_t))
    if s.opened[index] == NULL:
        show_alone(&s.g, index, False)          # nobody knows: as if there were several
        return
    s.opened[index][session] = s.g.p.sessions[session].epoch
    show(s, index)
    rfp_fence_full()
    if not lock_occupied(&s.g, index, <uint32_t> session, &word):
        return
    began = rfp_now()
    while now < began + LEAVE_NS and lock_occupied_still(s, index, <uint32_t> session, word):
        rfp_pause()
        now = rfp_now()


cdef inline bint lock_occupied_still(backend *s, uint32_t index, uint32_t session,
                                     uint64_t word) noexcept nogil:
    cdef uint64_t now = 0
    return lock_occupied(&s.g, index, session, &now) and now == word


cdef void openings_refresh(backend *s) noexcept nogil:
    cdef uint32_t i
    if s.opened_as_of == s.g.fenced:
        return
    s.opened_as_of = s.g.fenced
    for i in range(s.g.p.g.names):
        if s.opened[i] != NULL:
            show(s, i)

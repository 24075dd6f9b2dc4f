"""Note which sessions have opened each structure, and show whether it is one alone.

A writer stores its activity word, then loads the flag; the back-end stores the flag, then loads the
activity word; each with a full fence in between.  So either the writer sees that it is not alone,
or the back-end sees it inside, and puts its answer to FIND off until that operation has left.

The time of all FINDs of a front-end is limited together, since it may open many structures that one
batch has entered: a budget, of which a part comes back with time, and all of it with a new session.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from rfp.core.core cimport rfp_fence_full, rfp_now
from rnvm.backend.connections cimport client
from rnvm.backend.lock_manager cimport lock_occupied
from rnvm.backend.state cimport backend
from rnvm.backend.watches cimport show_alone
from rnvm.format.layout cimport RNVM_ATTACHED

cdef enum:
    LEAVE_NS = 250000000       # to wait for operations, batches or transactions: the budget
    LEAVE_SHARE = 8            # of the time that passes, the part that comes back to it

cdef uint64_t NOT_KNOWN = 0    # in place of a structure's openings: there was no memory for them
cdef bint no_memory = False


def _plant_no_memory(bint planted):
    """Find no memory for the openings of a structure, for tests only."""
    global no_memory
    no_memory = planted


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


cdef inline bint is_known(const backend *s, uint32_t index) noexcept nogil:
    """Return whether the openings of a structure are noted."""
    return s.opened[index] != NULL and s.opened[index] != &NOT_KNOWN


cdef void openings_add(backend *s, uint32_t index, int64_t session, bint made,
                       bint versioned) noexcept nogil:
    s.opened_index = index
    s.opened_by_another = False
    if is_known(s, index) and made:
        memset(s.opened[index], 0, s.g.p.g.sessions * sizeof(uint64_t))
    elif s.opened[index] == NULL or made:
        s.opened[index] = NULL if no_memory else <uint64_t *> calloc(
            s.g.p.g.sessions, sizeof(uint64_t))
    if not is_known(s, index):
        # As if there were several; also later, since this session would be missing.
        s.opened[index] = &NOT_KNOWN
        show_alone(&s.g, index, False)
        return
    s.opened_by_another = versioned and by_another(s, index, session)
    s.opened[index][session] = s.g.p.sessions[session].epoch
    show(s, index)


cdef void openings_remove(backend *s, uint32_t index, int64_t session) noexcept nogil:
    if is_known(s, index):
        s.opened[index][session] = 0
        show(s, index)


cdef void openings_free(backend *s, uint32_t index) noexcept nogil:
    if is_known(s, index):
        free(s.opened[index])
    s.opened[index] = NULL


cdef bint openings_hold(backend *s, client *c) noexcept nogil:
    cdef bint began = c.leaving_until != 0
    cdef uint32_t index = c.leaving_index if began else s.opened_index
    cdef uint64_t word = 0, now
    if not began:
        rfp_fence_full()
    if not lock_occupied(&s.g, index, <uint32_t> c.session, &word):
        return end_hold(c)
    now = rfp_now()
    if not began:
        c.leaving_left = min(<uint64_t> LEAVE_NS,
                             c.leaving_left + (now - c.leaving_as_of) // LEAVE_SHARE)
        c.leaving_as_of = now
        if not c.leaving_left:
            return False                        # it may have to begin queries again
        c.leaving_index = index
        c.leaving_word = word
        c.leaving_until = now + c.leaving_left
        return True
    if word == c.leaving_word and now < c.leaving_until:
        return True
    return end_hold(c)


cdef bint end_hold(client *c) noexcept nogil:
    """Charge the time to the budget; return False."""
    cdef uint64_t now
    if c.leaving_until:
        now = rfp_now()
        c.leaving_left -= min(c.leaving_left, now - c.leaving_as_of)
        c.leaving_as_of = now
        c.leaving_until = 0
    return False


cdef void openings_attached(client *c) noexcept nogil:
    c.leaving_until = 0
    c.leaving_left = LEAVE_NS
    c.leaving_as_of = rfp_now()


cdef void openings_refresh(backend *s) noexcept nogil:
    cdef uint32_t i
    if s.opened_as_of == s.g.fenced:
        return
    s.opened_as_of = s.g.fenced
    for i in range(s.g.p.g.names):
        if is_known(s, i):
            show(s, i)

# Which sessions have opened each structure.  A session that alone has opened a multi-version
# structure may change its nodes in place (rnvm/frontend/version_use.pyx has the rule).

from libc.stdint cimport int64_t, uint32_t
from rnvm.backend.connections cimport client
from rnvm.backend.state cimport backend

# A session opens a structure, made: which is new.  The structure's line shows it, and
# s.opened_by_another whether one session that maps the pool had it alone until now.
cdef void openings_add(backend *s, uint32_t index, int64_t session, bint made,
                       bint versioned) noexcept nogil
# A session has closed a structure, and reads no node of it any more.
cdef void openings_remove(backend *s, uint32_t index, int64_t session) noexcept nogil
cdef void openings_free(backend *s, uint32_t index) noexcept nogil
# Whether the answer must be put off, because an operation, batch or transaction that began before
# is under way.  For LEAVE_NS at most, of all structures that the session opens at once: the writer
# may be stopped.  The first call of a FIND is for the structure that was opened last;
# c.leaving_until shows that others follow.
cdef bint openings_hold(backend *s, client *c) noexcept nogil
# The client has a new session.
cdef void openings_attached(client *c) noexcept nogil
# Counts again if sessions have ended since the last call.
cdef void openings_refresh(backend *s) noexcept nogil

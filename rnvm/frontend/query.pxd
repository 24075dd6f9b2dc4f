# Queries of a front-end: on a state that is whole, without the writer lock if possible.  They
# return the result of the structure's function, 0 or more, or a status below 0.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.status_line cimport status_line

cdef enum:
    RESTARTS_MAX = 8           # of a query, before it acquires the lock
    POLLS = 1000               # of an odd sequence, before the next pause

cdef int query_execute(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                       void *context) noexcept nogil
# Under the writer lock.
cdef int query_under_lock(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                          void *context) noexcept nogil

# For the queries of multi-version structures.
#
# *state: the sequence of the state that cached and READ nodes must have.  It includes everything
# that was acknowledged before.  AGAIN: read the line again.
cdef int query_find_state(instance *s, status_line *seen, bint impatient,
                          uint64_t *state) noexcept nogil
# Has the back-end apply the holder's records, if there are any; seen: the line after that.
cdef int query_have_applied(instance *s, status_line *seen) noexcept nogil
cdef int query_run(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                   void *context) noexcept nogil
# Under the lock, which is released again outside a transaction.
cdef int query_run_and_release(instance *s,
                               int (*function)(instance *s, void *context) noexcept nogil,
                               void *context) noexcept nogil

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

# The parts of a query, for queries of multi-version structures and of read transactions.
#
# *state: the even sequence of a state that includes everything that was acknowledged before; the
# structure's overlay belongs to it.  AGAIN: only the holder of the lock can learn it, by executing
# pending operations of a dead writer.
cdef int query_await_state(instance *s, uint64_t *state) noexcept nogil
# Has the back-end apply the holder's records, if there are any; seen: the line after that.
cdef int query_have_applied(instance *s, status_line *seen) noexcept nogil
# Runs the function once, on nodes of the present generation.
cdef int query_run(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                   void *context) noexcept nogil
# Whether all nodes that were READ are of this state: OK, AGAIN, or a READ's status.
cdef int query_still_in(instance *s, uint64_t state, int result) noexcept nogil
# Under the lock, which is released again outside a transaction.
cdef int query_run_and_release(instance *s,
                               int (*function)(instance *s, void *context) noexcept nogil,
                               void *context) noexcept nogil

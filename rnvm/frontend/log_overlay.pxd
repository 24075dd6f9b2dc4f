# Redo records that a writer has logged and the back-end has not applied yet: pulled from the
# writer's log, and laid over the bytes that a reader READs.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.status_line cimport status_line

cdef enum:
    ASK_BACKEND = 1            # the log does not show it, or pulling would take too long

cpdef enum:                    # conditions for a record to count: for tests
    OVERLAY_CHECK_CRC = 1
    OVERLAY_CHECK_EPOCH = 2
    OVERLAY_CHECK_ORDER = 4    # of the transactions' numbers
    OVERLAY_CHECK_HEAD = 8     # nothing was overwritten
    OVERLAY_CHECK_DURABLE = 16  # nothing is taken beyond the published durable position
    OVERLAY_CHECK_PUBLISHED = 32  # with mirrors: of no log whose durable position is not published

# Pulls the log of the holder that the status line names.  OK: *state is the sequence of the state
# to which overlay_patch() brings bytes that are READ.  AGAIN: the line is out of date.
# ASK_BACKEND, or the status of a READ.
cdef int overlay_pull(instance *s, const status_line *seen, uint64_t *state) noexcept nogil
# Brings bytes that were READ from an offset of the pool to that state.
cdef void overlay_patch(const instance *s, uint64_t offset, char *bytes, uint64_t n) noexcept nogil
# Lays nothing over READs until the next pull.
cdef void overlay_clear(instance *s) noexcept nogil
cdef void overlay_free(instance *s) noexcept nogil

# What a writer has logged and the back-end not applied yet: pulled from its log, and laid over what a reader READs.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.status_line cimport line

cdef enum:
    ASK = 1                    # its log does not tell, or would take too long: the back-end has to be asked

cpdef enum:                    # what makes records count: for tests
    CHECK_CRC = 1
    CHECK_EPOCH = 2
    CHECK_ORDER = 4            # of the transactions' numbers
    CHECK_HEAD = 8             # that nothing was overwritten
    CHECK_DURABLE = 16         # that no more than is published as durable is taken

# Pulls the log of the holder that this line names.  OK: *state is the sequence of what READs bring with overlay_patch().
# AGAIN: the line is not right any more.  ASK, or what READs answer.
cdef int overlay_pull(instance *s, const line *seen, uint64_t *state) noexcept nogil
# Brings bytes that were READ from an offset of the pool up to that state.
cdef void overlay_patch(const instance *s, uint64_t offset, char *bytes, uint64_t n) noexcept nogil
# Nothing is laid over READs until something is pulled again.
cdef void overlay_clear(instance *s) noexcept nogil
cdef void overlay_free(instance *s) noexcept nogil

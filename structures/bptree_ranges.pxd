# Ranges of a B+tree, one leaf at a time.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance

cdef struct bound:
    const char *key            # NULL: none
    uint32_t length

cdef struct stretch:           # the rest of a range that is still to be answered
    bound low                  # not below it
    bound high                 # below it
    bint after                 # above low, not low itself
    bint reverse
    bint values
    uint32_t most              # items

# A query with a stretch as context.  Answers with the next items, as many as one leaf has of them;
# MISSING after the last.
cdef int read_stretch(instance *s, void *context) noexcept nogil
# A query with a stretch as context, for when a page below is damaged.  Answers with the lowest key
# above `low` at which another page begins; MISSING: none.
cdef int read_next_bound(instance *s, void *context) noexcept nogil

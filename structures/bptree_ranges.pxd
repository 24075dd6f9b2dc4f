# Ranges of a B+tree, one leaf at a time.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance

cdef struct bound:
    const char *key            # NULL: none
    uint32_t length

cdef struct stretch:           # what is still to be told of a range
    bound low                  # not below it
    bound high                 # below it
    bint after                 # above low, not low itself
    bint reverse
    bint values
    uint32_t most              # items

# A query on a stretch.  Answers the next items, as many as one leaf has of them; MISSING after the last.
cdef int read_stretch(instance *s, void *context) noexcept nogil
# A query on a stretch, where a page below is damaged.  Answers the lowest key above `low` at which another page begins; MISSING:
# there is none.
cdef int read_next_bound(instance *s, void *context) noexcept nogil

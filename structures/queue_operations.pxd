# The operations of a queue: their codes and bytes, and the entry that is delivered next.
#
# Order of delivery: slots given back, in their order (root.first); then reservations whose lease
# has ended; then the entries of the segments.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.layout cimport queue_root

cdef enum:                     # operations, and their bytes
    PUT = 1                    # the value
    GET = 2                    # now (ns since 1970); and the expected entry, if any
    RESERVE = 3                # a moment: now, end of the lease, random bits of the ticket
    ACK = 4                    # ticket, slot
    NACK = 5                   # the same

cdef enum:                     # answers, beside EMPTY
    NOT_YOURS = 2
    ANOTHER = 3                # of GET: the next entry is not the expected one

cdef enum:
    TICKET_BITS = 24           # random bits of a ticket: a restored pool repeats the numbers

cdef struct upcoming:          # the entry that would be delivered next
    uint64_t number            # its ticket if it was reserved before, else its number in segments
    uint64_t slot              # + 1, or 0

cdef struct moment:
    uint64_t now
    uint64_t deadline
    uint64_t salt

cdef struct meant:
    uint64_t now
    upcoming next

cdef struct ticket:
    uint64_t number
    uint64_t slot

# Finds the entry that get() would deliver now.  OK, or EMPTY.
cdef int find_next(instance *s, const queue_root *root, uint64_t now,
                   upcoming *next) noexcept nogil
cdef int queue_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil

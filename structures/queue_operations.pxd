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
    RESERVE = 3                # a moment
    ACK = 4                    # ticket, slot
    NACK = 5                   # the same, and after how many deliveries it is refused (EXHAUSTED)
    PUT_MANY = 6               # each value, its length (4) before it
    PUT_LATER = 7              # a later, then the value
    EXTEND = 8                 # ticket, slot, end of the lease

cdef enum:                     # answers, beside EMPTY
    NOT_YOURS = 2
    OTHER_ENTRY = 3            # of GET: the next entry is not the expected one
    # of RESERVE and NACK: the entry was delivered so often that it must go to the dead-letter
    # queue.  RESERVE answers with the entry, an upcoming
    EXHAUSTED = 4

cdef enum:
    TICKET_BITS = 24           # random bits of a ticket: a restored pool repeats the numbers

cdef struct upcoming:          # the entry that would be delivered next
    uint64_t number            # its ticket if it was reserved before, else its number in segments
    uint64_t slot              # + 1, or 0

cdef struct moment:
    uint64_t now
    uint64_t deadline          # end of the lease
    uint64_t salt              # random bits of the ticket
    uint64_t most              # deliveries of an entry; 0: no limit

cdef struct later:
    uint64_t due               # when the entry is delivered at the earliest
    uint64_t salt

cdef struct meant:
    uint64_t now
    upcoming next

cdef struct ticket:
    uint64_t number
    uint64_t slot

cdef struct nack_bytes:
    ticket t
    uint64_t most              # as of a moment

cdef struct extend_bytes:
    ticket t
    uint64_t deadline

# Finds the entry that get() would deliver now.  OK, or EMPTY.
cdef int find_next(instance *s, const queue_root *root, uint64_t now,
                   upcoming *next) noexcept nogil
cdef int queue_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil

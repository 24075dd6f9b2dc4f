# The queries of a queue: each is called with its context, and answers or fills it in.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance
from structures.queue_operations cimport meant, ticket

cdef struct sizes:             # context of measure(): now; and the entries then
    uint64_t now
    uint64_t waiting
    uint64_t reserved
    uint64_t delayed

cdef struct reservation:       # an element of the answer of list_reserved()
    ticket t
    uint64_t ends              # its lease
    uint64_t deliveries        # 0: it is a delayed entry

cdef struct next_query:        # context of find_upcoming() and read_next()
    meant entry                # entry.now: given; the rest: the entry that get() would deliver now
    uint64_t deliveries        # of that entry
    uint64_t due               # EMPTY: when a lease or a delay ends, or LEASE_NEVER

cdef struct slot_query:        # context of read_returned()
    ticket t
    uint64_t now

cdef struct cursor:            # context of read_segment() and pass_damaged()
    uint64_t next              # number of the entry to continue with
    uint64_t hint              # the segment in which it probably is
    uint64_t then              # the same for the next step
    uint64_t then_hint

cdef int measure(instance *s, void *context) noexcept nogil
# Answers with a ticket for each entry that was reserved before, in the order of delivery.  context:
# now (ns since 1970).
cdef int list_returned(instance *s, void *context) noexcept nogil
# Answers with a reservation for each slot under a lease.  No context.
cdef int list_reserved(instance *s, void *context) noexcept nogil
# Answers with the value of a ticket whose lease has ended by now; or NOT_YOURS.
cdef int read_returned(instance *s, void *context) noexcept nogil
# Fills in the entry that get() would deliver, or EMPTY.  context: a next_query.
cdef int find_upcoming(instance *s, void *context) noexcept nogil
# The same, and answers with its value.
cdef int read_next(instance *s, void *context) noexcept nogil
# Answers with lengths (4 bytes) and values of entries from the cursor on, at least one; EMPTY after
# the last.
cdef int read_segment(instance *s, void *context) noexcept nogil
# Sets the cursor to the first readable segment behind an unreadable one; EMPTY: none.
cdef int pass_damaged(instance *s, void *context) noexcept nogil

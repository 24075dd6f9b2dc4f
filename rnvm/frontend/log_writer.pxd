# The two logs of a front-end's session, as it writes them.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, journal

cdef struct live:              # what everybody READs of a session, as layout.h has it
    uint64_t epoch
    uint64_t operations_head
    uint64_t operations_durable
    uint64_t memory_head
    uint64_t memory_durable
    uint64_t awaits

# Where the payload of the next record is to be made: private memory, journal_room() bytes.
cdef char *journal_payload(frontend *fe, journal *j) noexcept nogil
cdef uint64_t journal_room(const journal *j) noexcept nogil
# Whether there is, as far as the back-end has published.
cdef bint journal_has_room(frontend *fe, journal *j, uint64_t payload) noexcept nogil
# Waits until there is space in the ring for a record with this payload: OK, TOO_LONG, LATE, LOST ...
cdef int journal_wait(frontend *fe, journal *j, uint64_t payload) noexcept nogil
# Writes the records whose payloads have been made: one WRITE each, one round trip for both.  0 bytes: none of that log.
cdef int journal_write(frontend *fe, uint32_t operations, uint16_t operation_parts, uint32_t memory,
                       uint16_t memory_parts) noexcept nogil
# What has been written is as durable as was agreed when this answers OK.  Else fe.doubt says what may count or not, and there is
# fe.trouble: only the end of the session tells.
cdef int journal_settle(frontend *fe) noexcept nogil
# Nothing is in doubt (for the caller) any more.
cdef void journal_trust(frontend *fe) noexcept nogil
# How far the back-end is: what space is free, what is durable.
cdef int journal_hear(frontend *fe) noexcept nogil

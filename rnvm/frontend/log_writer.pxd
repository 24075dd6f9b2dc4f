# The two logs of a front-end's session, as it writes them: the operation log and the redo log.
# `which` is OPERATION_LOG or REDO_LOG.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from rfp.fabric.fabric cimport remote_region
from rnvm.format.layout cimport rnvm_longest_record, rnvm_record
from rnvm.frontend.state cimport doubt, frontend

cdef struct live:              # a session's live words, which all front-ends READ (layout.h)
    uint64_t epoch
    uint64_t operations_head
    uint64_t operations_durable
    uint64_t memory_head
    uint64_t memory_durable
    uint64_t awaits
    uint64_t frame

# A front-end that has written nothing yet.
cdef void logs_init(frontend *fe) noexcept nogil
# The rings of a session: `region` contains both, their tails are at these LSNs.  Returns the bytes
# of link.buffer, from its start, in which records are made.
cdef uint64_t logs_open(frontend *fe, remote_region *region, uint64_t operations_tail,
                        uint64_t redo_tail) noexcept nogil

# Where the payload of the next record is made: private memory, log_room() bytes.
cdef char *log_payload(frontend *fe, int which) noexcept nogil
cdef inline uint64_t log_room(const frontend *fe, int which) noexcept nogil:
    return log_record_room(fe.log[which].size)
# Bytes of the longest payload in a ring of this size.
cdef inline uint64_t log_record_room(uint64_t ring) noexcept nogil:
    return rnvm_longest_record(ring) - sizeof(rnvm_record)
# Whether the ring has space for a record with this payload, as far as the back-end has published.
cdef bint log_has_room(frontend *fe, int which, uint64_t payload) noexcept nogil
# Waits until it has: OK, TOO_LONG, LATE, LOST ...
cdef int log_await_room(frontend *fe, int which, uint64_t payload) noexcept nogil
# Whether unapplied operations take more than half of the operation log.
cdef bint operation_log_is_long(frontend *fe) noexcept nogil
# Writes the records whose payloads have been made: one WRITE each, one round trip for both.
# 0 bytes: no record of that log.
cdef int logs_write(frontend *fe, uint32_t operation_bytes, uint16_t operation_parts,
                    uint32_t redo_bytes, uint16_t redo_parts) noexcept nogil
# Waits until the written records are as durable as was agreed: OK.  Otherwise fe.in_doubt says
# which records may count, and the session has failed: only its end decides.
cdef int logs_await_durable(frontend *fe) noexcept nogil
# Near: waits until all written records are in a frame, and notes it: OK, LATE, LOST ...
cdef int logs_await_frames(frontend *fe) noexcept nogil
# These records are in doubt (again).
cdef inline void in_doubt_set(frontend *fe, const doubt *written) noexcept nogil:
    fe.in_doubt = written[0]
# No record is in doubt (for the caller) any more.
cdef inline void in_doubt_clear(frontend *fe) noexcept nogil:
    memset(&fe.in_doubt, 0, sizeof(fe.in_doubt))

# One ring of a log (log.h): what its back-end does with it, and append() for whoever stands on the same machine.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_record
from rnvm.media.medium cimport medium
from rnvm.pool.state cimport ring

cdef enum:                     # ring.faulty
    FAULT_NONE = 0
    FAULT_MALFORMED = 1        # parts or entries do not fit into their record
    FAULT_ADDRESS = 2          # an entry names what is no data block of this pool
    FAULT_OWNER = 3            # an entry touches what is neither the structure's nor the session's
    FAULT_STRUCTURE = 4        # a part names no structure that there is
    FAULT_NUMBER = 5           # a part's number has a predecessor that is nowhere
    FAULT_END = 6              # records that were durable are not there

cdef enum:                     # log_checks: what makes a record whole
    CHECK_CRC = 1
    CHECK_LSN = 2
    CHECK_EPOCH = 4

# What a ring's register says, into *r; everything up to head counts as seen.  False where the register is damaged.
cdef bint ring_open(ring *r, medium *m, uint32_t pool_seed, uint64_t at, uint64_t size, uint64_t dual_copy_at,
                    uint64_t epoch) noexcept nogil
# Copies the record at this LSN into buffer (header, then payload), if it is whole.  Its length, or 0: there is none (yet).
# capacity: bytes of the buffer, at least rnvm_longest_record().
cdef uint64_t ring_read(const ring *r, uint64_t lsn, char *buffer, uint64_t capacity) noexcept nogil
# Looks for whole records behind tail and sends them on their way to the medium.  How many bytes; after a drain the caller sets
# durable = tail.
cdef uint64_t ring_collect(ring *r, char *buffer, uint64_t capacity) noexcept nogil
# Writes a record behind tail (and a pad before it where the lap ends) and moves tail.  Its LSN; 0: the ring is full, or the
# payload too long for it.
cdef uint64_t ring_append(ring *r, uint16_t kind, uint16_t parts, const char *payload, uint32_t length) noexcept nogil
# Looks for whole records behind tail, and moves it.
cdef void ring_scan(ring *r, char *buffer, uint64_t capacity) noexcept nogil
# The LSN of the first whole record behind the one at tail, which is not; 0: there is none.
cdef uint64_t ring_behind(const ring *r, char *buffer, uint64_t capacity) noexcept nogil
# Writes head, limit and durable into the register: begin, drain, finish, drain; the space before head is free after the second.
cdef void ring_begin(ring *r, uint64_t head) noexcept nogil
cdef void ring_finish(ring *r) noexcept nogil

# One ring of a log (log.h): the back-end's operations on it, and ring_append() for writers on the
# same host.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_record
from rnvm.media.medium cimport medium
from rnvm.pool.state cimport ring

cdef enum:                     # ring.faulty
    FAULT_NONE = 0
    FAULT_MALFORMED = 1        # parts or entries do not fit into their record
    FAULT_ADDRESS = 2          # an entry's address is not in a data block of this pool
    FAULT_OWNER = 3            # an entry touches a block of neither the structure nor the session
    FAULT_STRUCTURE = 4        # a part's structure does not exist
    FAULT_NUMBER = 5           # the predecessor of a part's number is in no ring
    FAULT_END = 6              # durable records are missing

cpdef enum:                    # log_checks: the checks of a record
    CHECK_CRC = 1
    CHECK_LSN = 2
    CHECK_EPOCH = 4

# Loads a ring's dual-copy record into *r; everything up to head counts as seen.  Returns False if
# the record is damaged.
cdef bint ring_open(ring *r, medium *m, uint32_t pool_seed, uint64_t at, uint64_t size,
                    uint64_t dual_copy_at, uint64_t epoch) noexcept nogil
# Copies the record at this LSN into buffer (header, then payload), if it is whole.  Returns its
# length, or 0: none (yet).  capacity: bytes of the buffer, at least rnvm_longest_record().
cdef uint64_t ring_read(const ring *r, uint64_t lsn, char *buffer, uint64_t capacity) noexcept nogil
# Advances tail over whole records and starts their way to the medium.  Returns how many bytes;
# after a drain the caller sets durable = tail.
cdef uint64_t ring_collect(ring *r, char *buffer, uint64_t capacity) noexcept nogil
# Writes a record behind tail (and a pad before it at the end of a lap) and moves tail.  Returns its
# LSN; 0: the ring is full, or the payload too long for it.
cdef uint64_t ring_append(ring *r, uint16_t kind, uint16_t parts, const char *payload,
                          uint32_t length) noexcept nogil
# Advances tail over whole records.
cdef void ring_scan(ring *r, char *buffer, uint64_t capacity) noexcept nogil
# Returns the LSN of the first whole record behind the one at tail, which is not whole; 0: there is
# none.
cdef uint64_t ring_behind(const ring *r, char *buffer, uint64_t capacity) noexcept nogil
# Writes head, limit and durable into the dual-copy record: begin, drain, finish, drain; the space
# before head is free after the second drain.
cdef void ring_begin(ring *r, uint64_t head) noexcept nogil
cdef void ring_finish(ring *r) noexcept nogil

# The write-ahead area as seen when a pool is opened: which frames count, and their ranges.
#
#   area:  header | header | frame | frame | frame | torn frame | old frames ...
#                          '------ count ---------' ^ end
#
# Nothing here needs a medium that is open for writing: it works on the pool's bytes in memory, no
# matter how they were loaded.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.wal cimport rnvm_wal_header
from rnvm.media.medium cimport medium

cdef struct wal:
    uint64_t at  # offset of the area in the pool; 0: none, or the pool's header cannot be used
    uint64_t size
    uint32_t seed
    unsigned char[16] uuid
    # which copies of the area's header are whole: FIRST_COPY, SECOND_COPY (pool_header.pxd)
    int headers
    bint alike                 # both are whole and equal
    uint64_t generation        # of the frames that count
    uint64_t used              # greatest in anything whole in the area: the next must be greater
    uint64_t frames            # number of frames that count
    uint64_t end               # offset in the pool behind the last one
    uint64_t behind            # offset of a whole frame behind one that is not: damage; 0: none

cdef enum:                     # planted bugs
    WAL_NO_CRC = 1             # frames with any CRC count
    WAL_SAME_GENERATION = 2    # a reset area keeps its generation
    WAL_NO_PADDING = 4         # frames follow each other within a page

cdef uint32_t wal_bugs() noexcept nogil
# Bytes to the beginning of the next frame, after one of this length.
cdef uint64_t wal_room(uint64_t length) noexcept nogil
# The steps of wal_scan(): find the area (False: there is none); parse its header; check whether a
# frame is at an offset.
cdef bint wal_find(const medium *m, uint64_t length, wal *a) noexcept nogil
cdef void wal_headers(const medium *m, wal *a) noexcept nogil
cdef bint wal_frame_whole(const medium *m, const wal *a, uint64_t at, uint64_t generation,
                          uint64_t sequence) noexcept nogil
# Scans the area of the pool at base, which has this many bytes.
cdef void wal_scan(const medium *m, uint64_t length, wal *a) noexcept nogil
# Calls back with the bytes of all frames that count, in their order.
ctypedef void (*wal_bytes)(void *context, uint64_t offset, const void *bytes,
                           uint64_t n) noexcept nogil
cdef void wal_read(const medium *m, const wal *a, wal_bytes found, void *context) noexcept nogil
cdef void wal_header(const wal *a, uint64_t generation, rnvm_wal_header *header) noexcept nogil
# Writes an area without frames, before there is a pool; durable with the next drain.
cdef void wal_format(medium *m, const rnvm_geometry *g, const unsigned char *uuid) noexcept nogil

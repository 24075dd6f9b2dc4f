"""Copy a pool that is being changed, line by line."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memset
from rnvm.format.layout cimport (
    RNVM_HEADERS, RNVM_LINE, RNVM_PAGE, RNVM_SUPERBLOCKS, rnvm_geometry, rnvm_header,
)
from rnvm.format.replication cimport (
    RNVM_CATCHING_UP, RNVM_WHOLE, rnvm_identity, rnvm_replicated,
)
from rnvm.media.identity cimport identity_write
from rnvm.media.medium cimport medium, medium_drain, medium_write
from rnvm.media.pool_header cimport header_write
from rnvm.media.wal cimport wal_format
from rnvm.replication.planted cimport REPLICATE_OWN_PARTS, replication_bugs


cdef bint header_is(const medium *m, const rnvm_header *header) noexcept nogil:
    """Return whether both copies of the header are this one's bytes."""
    return not memcmp(m.base + RNVM_HEADERS, header, sizeof(rnvm_header)) \
        and not memcmp(m.base + RNVM_HEADERS + RNVM_PAGE, header, sizeof(rnvm_header))


cdef bint header_there(const medium *m, const rnvm_header *header) noexcept nogil:
    """Return whether a copy of the header is this one's bytes: it is of the same pool."""
    return not memcmp(m.base + RNVM_HEADERS, header, sizeof(rnvm_header)) \
        or not memcmp(m.base + RNVM_HEADERS + RNVM_PAGE, header, sizeof(rnvm_header))


cdef int copier_begin(medium *m, const rnvm_header *header, rnvm_identity *i) noexcept nogil:
    cdef rnvm_header zeros
    cdef uint64_t copy
    cdef bint other
    memset(&zeros, 0, sizeof(zeros))
    memset(i.identity, 0, sizeof(i.identity))
    i.state = RNVM_CATCHING_UP
    if identity_write(m, i):
        return -1
    if header_there(m, header):
        return 0
    # The mark is durable: only now may the header go.
    other = False
    for copy in range(2):
        if memcmp(m.base + RNVM_HEADERS + copy * RNVM_PAGE, &zeros, sizeof(zeros)):
            medium_write(m, RNVM_HEADERS + copy * RNVM_PAGE, &zeros, sizeof(zeros))
            other = True
    return -1 if medium_drain(m) else other


cdef int64_t copier_chunk(medium *m, const rnvm_geometry *g, uint64_t at, const char *bytes,
                          uint64_t n) noexcept nogil:
    cdef uint64_t begin = at, end, stop, place, first
    cdef int64_t written = 0
    end = min(at + n, g.size) & ~<uint64_t> (RNVM_LINE - 1)
    place = max(at, <uint64_t> RNVM_SUPERBLOCKS)
    while place < end:
        if replication_bugs() & REPLICATE_OWN_PARTS:
            stop = end
        else:
            place = rnvm_replicated(g, place, end, &stop)
        while place < stop:
            while place < stop and not memcmp(m.base + place, bytes + (place - begin), RNVM_LINE):
                place += RNVM_LINE
            first = place
            while place < stop and memcmp(m.base + place, bytes + (place - begin), RNVM_LINE):
                place += RNVM_LINE
            if place > first:
                medium_write(m, first, bytes + (first - begin), place - first)
                written += <int64_t> (place - first)
    return written


cdef int copier_end(medium *m, const rnvm_geometry *g, rnvm_header *header,
                    rnvm_identity *i) noexcept nogil:
    if medium_drain(m):
        return -1
    if not header_is(m, header):
        wal_format(m, g, header.uuid)
        if medium_drain(m) or header_write(m, header):
            return -1
    i.state = RNVM_WHOLE
    return identity_write(m, i)

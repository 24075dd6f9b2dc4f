"""Scan, apply, reset and rebuild the write-ahead area.  docs/pool.md explains it."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from rfp.core.core cimport RFP_ASSERT, rfp_crc32c
from rnvm.format.layout cimport (
    RNVM_MAJOR, RNVM_PAGE, RNVM_WAL_MIN, RNVM_WRITE_AHEAD, rnvm_header, rnvm_up,
)
from rnvm.format.wal cimport (
    RNVM_WAL_FRAMES, RNVM_WAL_MAGIC, rnvm_frame, rnvm_frame_crc, rnvm_frame_fits, rnvm_range,
    rnvm_range_next, rnvm_wal_header, rnvm_wal_header_crc, rnvm_wal_seed,
)
from rnvm.media.medium cimport Medium, medium, medium_drain, medium_write, raise_failed
from rnvm.media.pool_header cimport FIRST_COPY, SECOND_COPY, header_read

bugs = {"no CRC": WAL_NO_CRC, "same generation": WAL_SAME_GENERATION, "no padding": WAL_NO_PADDING}
cdef uint32_t planted = 0


def plant(*which):
    """Plant these bugs (no name: none), which a crash test must find.  For tests alone."""
    global planted
    planted = 0
    for bug in which:
        planted |= <uint32_t> bugs[bug]


cdef uint32_t wal_bugs() noexcept nogil:
    return planted


cdef uint64_t wal_room(uint64_t length) noexcept nogil:
    return rnvm_up(length, 8 if planted & WAL_NO_PADDING else RNVM_PAGE)


cdef bint wal_find(const medium *m, uint64_t length, wal *a) noexcept nogil:
    """Find the area, if the pool's header is whole and of a format that has one."""
    cdef rnvm_header header
    memset(a, 0, sizeof(wal))
    if length < 2 * RNVM_PAGE or not header_read(m, &header) or header.major != RNVM_MAJOR:
        return False
    if (header.incompatible != RNVM_WRITE_AHEAD or header.wal < RNVM_WAL_MIN
            or header.wal % RNVM_PAGE):
        return False
    if (not header.wal_at or header.wal_at % RNVM_PAGE or header.wal > length
            or header.wal_at > length - header.wal):
        return False
    a.at = header.wal_at
    a.size = header.wal
    RFP_ASSERT(a.at + a.size <= length)
    a.seed = rnvm_wal_seed(rfp_crc32c(0, header.uuid, sizeof(a.uuid)), a.at)
    memcpy(a.uuid, header.uuid, sizeof(a.uuid))
    return True


cdef const rnvm_wal_header *copy_at(const medium *m, const wal *a, int copy) noexcept nogil:
    return <const rnvm_wal_header *> (m.base + a.at + <uint64_t> copy * RNVM_PAGE)


cdef void wal_headers(const medium *m, wal *a) noexcept nogil:
    cdef const rnvm_wal_header *header
    cdef int copy
    a.headers = 0
    for copy in range(2):
        header = copy_at(m, a, copy)
        if header.magic == RNVM_WAL_MAGIC and header.crc == rnvm_wal_header_crc(a.seed, header) \
                and not memcmp(header.uuid, a.uuid, sizeof(a.uuid)):
            a.headers |= SECOND_COPY if copy else FIRST_COPY
            a.generation = max(a.generation, header.generation)
    a.alike = (a.headers == FIRST_COPY | SECOND_COPY
               and not memcmp(copy_at(m, a, 0), copy_at(m, a, 1), sizeof(rnvm_wal_header)))


cdef inline const rnvm_frame *frame_at(const medium *m, uint64_t at) noexcept nogil:
    return <const rnvm_frame *> (m.base + at)


cdef bint wal_frame_whole(const medium *m, const wal *a, uint64_t at, uint64_t generation,
                          uint64_t sequence) noexcept nogil:
    cdef const rnvm_frame *frame = frame_at(m, at)
    RFP_ASSERT(at >= a.at + RNVM_WAL_FRAMES)
    RFP_ASSERT(at + sizeof(rnvm_frame) <= a.at + a.size)
    return frame.sequence == sequence and rnvm_frame_fits(frame, generation, a.at + a.size - at) \
        and (planted & WAL_NO_CRC or rnvm_frame_crc(a.seed, frame) == frame.crc)


cdef void wal_scan(const medium *m, uint64_t length, wal *a) noexcept nogil:
    cdef uint64_t at, last, generation
    if not wal_find(m, length, a):
        return
    wal_headers(m, a)
    last = a.at + a.size - sizeof(rnvm_frame)
    a.used = a.generation
    a.end = a.at + RNVM_WAL_FRAMES
    while a.headers and a.end <= last and wal_frame_whole(m, a, a.end, a.generation, a.frames):
        a.frames += 1
        a.end += wal_room(frame_at(m, a.end).length)
    at = rnvm_up(a.end, RNVM_PAGE)
    RFP_ASSERT(a.used >= a.generation)
    while at <= last:
        generation = frame_at(m, at).generation
        # A header that is not whole may contain anything; so may a frame.
        if generation >= a.used and wal_frame_whole(m, a, at, generation, frame_at(m, at).sequence):
            if (a.headers and generation == a.generation and frame_at(m, at).sequence > a.frames
                    and not a.behind):
                a.behind = at
            a.used = generation
        at += RNVM_PAGE


cdef void wal_read(const medium *m, const wal *a, wal_bytes found, void *context) noexcept nogil:
    cdef const rnvm_frame *frame
    cdef const rnvm_range *range_
    cdef uint64_t at = a.at + RNVM_WAL_FRAMES, within, i
    for i in range(a.frames):
        frame = frame_at(m, at)
        RFP_ASSERT(at + sizeof(rnvm_frame) <= a.at + a.size)
        within = sizeof(rnvm_frame)
        range_ = rnvm_range_next(frame, &within)
        while range_ != NULL:
            found(context, range_.offset, range_ + 1, range_.length)
            range_ = rnvm_range_next(frame, &within)
        at += wal_room(frame.length)
    RFP_ASSERT(a.frames == 0 or at == a.end)


cdef void wal_header(const wal *a, uint64_t generation, rnvm_wal_header *header) noexcept nogil:
    memset(header, 0, sizeof(rnvm_wal_header))
    header.magic = RNVM_WAL_MAGIC
    header.generation = generation
    memcpy(header.uuid, a.uuid, sizeof(a.uuid))
    header.crc = rnvm_wal_header_crc(a.seed, header)


cdef void wal_format(medium *m, const rnvm_geometry *g, const unsigned char *uuid) noexcept nogil:
    cdef char[RNVM_PAGE] zeros
    cdef rnvm_wal_header header
    cdef wal a
    cdef uint64_t at
    memset(zeros, 0, sizeof(zeros))
    if not g.wal:
        return
    # Write all of it now: if a file has blocks that were never written, each first write is also
    # one of metadata.
    at = g.wal_at
    RFP_ASSERT((g.wal_at | g.wal) % RNVM_PAGE == 0)
    while at < g.wal_at + g.wal:
        medium_write(m, at, zeros, RNVM_PAGE)
        at += RNVM_PAGE
    a.seed = rnvm_wal_seed(g.seed, g.wal_at)
    memcpy(a.uuid, uuid, sizeof(a.uuid))
    wal_header(&a, 1, &header)
    medium_write(m, g.wal_at, &header, sizeof(header))
    medium_write(m, g.wal_at + RNVM_PAGE, &header, sizeof(header))


# Pools that are inspected, and pools that are in memory now: apply the area at once


cdef struct target:
    medium *m
    uint64_t length


cdef void carry(void *context, uint64_t offset, const void *bytes, uint64_t n) noexcept nogil:
    cdef target *to = <target *> context
    # A range beyond the end belongs to a growth that was cut off.
    if offset <= to.length and n <= to.length - offset:
        medium_write(to.m, offset, bytes, n)


cdef int begin_again(medium *m, const wal *a, uint64_t generation) noexcept nogil:
    cdef rnvm_wal_header header
    cdef int copy
    RFP_ASSERT(a.at != 0)
    RFP_ASSERT(generation >= a.used)
    wal_header(a, generation, &header)
    for copy in range(2):
        medium_write(m, a.at + <uint64_t> copy * RNVM_PAGE, &header, sizeof(header))
        if medium_drain(m):
            return -1
    return 0


def describe(Medium on not None):
    """Return the content of the pool's area as a dict, or None if there is none."""
    cdef wal a
    on.check(0, on.c.length)
    wal_scan(&on.c, on.c.length, &a)
    if not a.at:
        return None
    return {"at": a.at, "bytes": a.size, "headers": a.headers, "alike": bool(a.alike),
            "generation": a.generation, "frames": a.frames, "end": a.end, "behind": a.behind}


def apply(Medium on not None):
    """Apply all frames that count, and drain; return their number.  They still count."""
    cdef wal a
    cdef target to
    cdef int failed
    on.check(0, on.c.length)
    wal_scan(&on.c, on.c.length, &a)
    to.m = &on.c
    to.length = on.c.length
    with nogil:
        wal_read(&on.c, &a, carry, &to)
        failed = medium_drain(&on.c)
    if failed:
        raise_failed(&on.c)
    return a.frames


def forget(Medium on not None):
    """Make all frames void; for media that do not manage the area themselves."""
    cdef wal a
    on.check(0, on.c.length)
    wal_scan(&on.c, on.c.length, &a)
    if a.at and begin_again(&on.c, &a, max(a.used, a.generation) + 1):
        raise_failed(&on.c)


def rebuild(Medium on not None):
    """Rebuild both copies of the header, if neither is whole.

    They get the generation of the whole frames.
    """
    cdef wal a
    on.check(0, on.c.length)
    wal_scan(&on.c, on.c.length, &a)
    if a.at and begin_again(&on.c, &a, a.used):
        raise_failed(&on.c)

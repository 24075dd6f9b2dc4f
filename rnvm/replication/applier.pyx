"""Validate pieces and apply them, with a drain after each frame."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rfp.core.core cimport RFP_ASSERT
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.replication cimport (
    RNVM_PIECE_INDEX, RNVM_PIECE_MAX, RNVM_PIECE_MORE, RNVM_PIECE_PAD, rnvm_piece_crc,
    rnvm_piece_fits, rnvm_piece_room, rnvm_replicated, rnvm_stream_seed,
)
from rnvm.format.wal cimport rnvm_frame, rnvm_range, rnvm_range_next
from rnvm.media.medium cimport medium, medium_drain, medium_write
from rnvm.replication.planted cimport (
    ACKNOWLEDGE_EARLY, ANY_EPOCH, APPLY_OUT_OF_ORDER, DRAIN_SELDOM, REPLICATE_OWN_PARTS, SKIP_FRAME,
    replication_bugs,
)

TROUBLE = {
    PIECE_TORN: "a piece's checksum is wrong",
    PIECE_MALFORMED: "a piece is malformed",
    PIECE_EPOCH: "a piece is of another epoch",
    PIECE_ORDER: "a piece is not the one that follows",
    PIECE_PLACE: "a piece would change a part that is this copy's own",
    PIECE_MEDIUM: "the mirror's medium failed",
}


cdef str applier_trouble(int error):
    return TROUBLE.get(error, f"unknown error {error}")


cdef void applier_begin(applier *a, medium *m, const rnvm_geometry *g, uint64_t epoch,
                        uint64_t first, const uint8_t *opening,
                        const uint8_t *group) noexcept nogil:
    cdef uint8_t[16] none
    RFP_ASSERT(g.size <= m.length)
    memset(none, 0, sizeof(none))
    memset(a, 0, sizeof(applier))
    a.m = m
    a.g = g[0]
    a.seed = rnvm_stream_seed(g.seed, opening, group if group != NULL else <const uint8_t *> none)
    a.epoch = epoch
    a.received = a.applied = first


cdef bint places_fit(const applier *a, const rnvm_frame *piece) noexcept nogil:
    """Return whether all ranges are within what is replicated; nothing was changed before."""
    cdef uint64_t within = sizeof(rnvm_frame), end, stop
    cdef const rnvm_range *range_ = rnvm_range_next(piece, &within)
    while range_ != NULL:
        if range_.offset > a.g.size or range_.length > a.g.size - range_.offset:
            return False
        end = range_.offset + range_.length
        if range_.offset < a.g.groups_at and not replication_bugs() & REPLICATE_OWN_PARTS and (
                rnvm_replicated(&a.g, range_.offset, end, &stop) != range_.offset or stop != end):
            return False
        range_ = rnvm_range_next(piece, &within)
    return True


cdef bint ranges_fit(const rnvm_frame *piece) noexcept nogil:
    cdef uint64_t within = sizeof(rnvm_frame)
    cdef uint32_t ranges = 0
    while rnvm_range_next(piece, &within) != NULL:
        ranges += 1
    return within == piece.length and ranges == piece.ranges


cdef int check(const applier *a, const rnvm_frame *piece) noexcept nogil:
    """Return 0, or why this piece is not the one that follows."""
    if rnvm_piece_crc(a.seed, piece) != piece.crc:
        return PIECE_TORN
    if piece.generation != a.epoch and not replication_bugs() & ANY_EPOCH:
        return PIECE_EPOCH
    if piece.sequence != a.received + 1 or piece.reserved >> RNVM_PIECE_INDEX != a.index:
        return PIECE_ORDER
    if piece.reserved & RNVM_PIECE_PAD:
        return 0
    if not ranges_fit(piece):
        return PIECE_MALFORMED
    return 0 if places_fit(a, piece) else PIECE_PLACE


cdef void write_ranges(applier *a, const rnvm_frame *piece) noexcept nogil:
    cdef uint64_t within = sizeof(rnvm_frame)
    cdef const rnvm_range *range_ = rnvm_range_next(piece, &within)
    while range_ != NULL:
        medium_write(a.m, range_.offset, range_ + 1, range_.length)
        a.written = True
        a.bytes += range_.length
        range_ = rnvm_range_next(piece, &within)


cdef int end_frame(applier *a) noexcept nogil:
    """Make the frame durable, and acknowledge it."""
    # An image with an area may make several frames durable as one; on a direct medium any 8 bytes
    # of two frames could survive without the rest, which no crash of the primary leaves.
    a.received += 1
    a.index = 0
    if replication_bugs() and end_wrongly(a):
        return 0
    if a.written and a.unwhole:
        a.frames += 1
    elif a.written:
        a.frames += 1
        if medium_drain(a.m):
            return PIECE_MEDIUM
        a.written = False
    a.applied = a.received
    return 0


cdef int64_t applier_take(applier *a, const char *pieces, uint64_t n) noexcept nogil:
    cdef const rnvm_frame *piece
    cdef uint64_t used = 0, whole
    while not a.error and n - used >= sizeof(rnvm_frame):
        piece = <const rnvm_frame *> (pieces + used)
        if not rnvm_piece_fits(piece):
            a.error = PIECE_MALFORMED
            break
        whole = rnvm_piece_room(piece.length)
        if whole > n - used:
            break
        a.error = check(a, piece)
        if a.error:
            break
        used += whole
        if piece.reserved & RNVM_PIECE_PAD:
            continue
        if not replication_bugs() or not write_wrongly(a, piece):
            write_ranges(a, piece)
        if piece.reserved & RNVM_PIECE_MORE:
            a.index += 1
        else:
            a.error = end_frame(a)
            break
    return a.error if a.error else <int64_t> used


# Planted bugs


cdef char[RNVM_PIECE_MAX] held     # the piece that is applied behind the next one
cdef bint holding = False


cdef bint write_wrongly(applier *a, const rnvm_frame *piece) noexcept nogil:
    """Return True: nothing more must be written of this piece."""
    global holding
    cdef uint32_t bugs = replication_bugs()
    if bugs & ACKNOWLEDGE_EARLY and a.written and not a.index:
        medium_drain(a.m)
        a.written = False
    if bugs & SKIP_FRAME and piece.sequence % 7 == 0:
        return True
    if not bugs & APPLY_OUT_OF_ORDER:
        return False
    if holding:
        write_ranges(a, piece)
        write_ranges(a, <const rnvm_frame *> held)
        holding = False
        return True
    if piece.sequence % 5 == 0 and not piece.reserved >> RNVM_PIECE_INDEX:
        memcpy(held, piece, piece.length)
        holding = True
    return holding


cdef bint end_wrongly(applier *a) noexcept nogil:
    """Return True: nothing more must be done at the end of this frame."""
    cdef uint32_t bugs = replication_bugs()
    if bugs & ACKNOWLEDGE_EARLY:
        a.applied = a.received
    return bugs & ACKNOWLEDGE_EARLY or bugs & DRAIN_SELDOM and a.received % 2

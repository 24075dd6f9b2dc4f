"""Append pieces to a stream, and publish them."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport RFP_ASSERT, rfp_copy_out, rfp_store64, rfp_store64_release
from rnvm.format.replication cimport (
    RNVM_PIECE_INDEX, RNVM_PIECE_PAD, RNVM_STREAM_RING, rnvm_piece_crc, rnvm_piece_room,
    rnvm_stream,
)
from rnvm.format.wal cimport rnvm_frame


cdef void stream_begin(stream *s, char *memory, uint64_t size) noexcept nogil:
    s.shown = <rnvm_stream *> memory
    s.ring = memory + RNVM_STREAM_RING
    s.size = size
    s.tail = s.consumed = 0


cdef uint64_t stream_room(const stream *s) noexcept nogil:
    return s.size - (s.tail - s.consumed)


cdef bint stream_append(stream *s, const rnvm_frame *piece, uint32_t seed) noexcept nogil:
    cdef uint64_t whole = rnvm_piece_room(piece.length)
    cdef uint64_t place = s.tail % s.size, left = s.size - place, needed = whole
    cdef rnvm_frame pad
    RFP_ASSERT(s.shown != NULL)
    RFP_ASSERT(s.tail - s.consumed <= s.size)
    if whole > left:
        needed += left
    if needed > stream_room(s):
        return False
    if whole > left:
        memset(&pad, 0, sizeof(pad))
        pad.length = <uint32_t> left
        pad.generation = piece.generation
        pad.sequence = piece.sequence
        pad.reserved = RNVM_PIECE_PAD | piece.reserved >> RNVM_PIECE_INDEX << RNVM_PIECE_INDEX
        pad.crc = rnvm_piece_crc(seed, &pad)
        rfp_copy_out(s.ring + place, &pad, sizeof(pad))
        s.tail += left
        place = 0
    rfp_copy_out(s.ring + place, piece, piece.length)
    s.tail += whole
    return True


cdef void stream_publish(stream *s, uint64_t number) noexcept nogil:
    rfp_store64(&s.shown.published, number)
    rfp_store64_release(&s.shown.tail, s.tail)

# The primary's end of one stream: pieces are appended behind its tail, as long as there is room.
# The mirror can only read a stream, so its own positions are the only ones that are used here.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.replication cimport rnvm_stream
from rnvm.format.wal cimport rnvm_frame

cdef struct stream:
    rnvm_stream *shown         # NULL: it has ended
    char *ring
    uint64_t size
    uint64_t tail
    uint64_t consumed          # checked copy of the mirror's: bytes before it may be overwritten

# memory: zeroed, RNVM_STREAM_RING + size bytes.
cdef void stream_begin(stream *s, char *memory, uint64_t size) noexcept nogil
# Returns the bytes that the next pieces can take.
cdef uint64_t stream_room(const stream *s) noexcept nogil
# Appends a piece (behind a pad, with this seed, at the end of a lap), not published yet.  False:
# there is no room.
cdef bint stream_append(stream *s, const rnvm_frame *piece, uint32_t seed) noexcept nogil
# Publishes what was appended, after the number of the last whole frame.
cdef void stream_publish(stream *s, uint64_t number) noexcept nogil

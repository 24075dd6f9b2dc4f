# The mirror's side: it applies pieces to its medium, with a drain after each frame.
#
# Its pool is at every moment a state that a crash of the primary could have left.  The peer is not
# trusted: each piece is checked before any of its bytes is used.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry
from rnvm.format.replication cimport rnvm_identity, rnvm_stream
from rnvm.media.medium cimport medium

cdef enum:                     # results of applier_take() below 0, for good
    PIECE_TORN = -1            # its checksum is wrong
    PIECE_MALFORMED = -2       # its header or its ranges cannot be
    PIECE_EPOCH = -3           # another epoch
    PIECE_ORDER = -4           # not the piece that follows
    PIECE_PLACE = -5           # a range that is not replicated
    PIECE_MEDIUM = -6          # the medium failed

cdef struct applier:
    medium *m
    rnvm_geometry g
    uint32_t seed
    uint64_t epoch
    uint64_t received          # number of the last frame that was received whole
    uint64_t applied           # number of the last frame that is durable
    uint32_t index             # of the next piece of frame received + 1
    bint written               # since the last drain
    # The copy is not whole, so it may be in any state: the caller drains, before it is.
    bint unwhole
    uint64_t frames            # with content, and their bytes
    uint64_t bytes
    int error                  # below 0: it takes nothing more

# first: number of the last frame that the medium already has.
cdef void applier_begin(applier *a, medium *m, const rnvm_geometry *g, uint64_t epoch,
                        uint64_t first, const uint8_t *opening,
                        const uint8_t *group) noexcept nogil
# Applies whole pieces from private memory (n bytes from any piece's beginning), at most up to the
# end of a frame, which is durable when this returns (applier.applied).  Returns the bytes consumed;
# 0: there is no whole piece; below 0: an error.
cdef int64_t applier_take(applier *a, const char *pieces, uint64_t n) noexcept nogil
# Returns what an error means.
cdef str applier_trouble(int error)

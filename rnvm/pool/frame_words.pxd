# The words that tell front-ends when what they have read is replicated: RNVM_LIVE_FRAME of each
# structure's status line, `frame` of each session's live words, the replication line.
#
#   collect    log records drained: frame f is published     session's frame = f, then durable words
#   apply      odd sequence, data                            LIVE_FRAME = published, even sequence
#   sweep      a structure's word <= acked                   LIVE_FRAME = 0
#
# A record is durable, in a frame up to `published`, before it counts for any reader, in the log or
# applied.  A reader loads the frame word last, so it waits for that frame or for a later one.
# Without mirrors (medium.replication is NULL) nothing of this is stored.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.pool.state cimport pool

# Allocates; False: no memory.  From then on all recovered states wait for RNVM_FIRST_FRAME.
cdef bint frame_words_begin(pool *p) noexcept nogil
cdef void frame_words_end(pool *p) noexcept nogil
# The structure's state is about to change for readers: before its even sequence.
cdef void frame_words_apply(pool *p, uint32_t index) noexcept nogil
# The session's durable words are about to change: before them.
cdef void frame_words_collect(pool *p, uint32_t session) noexcept nogil
# Stores the replication line, and 0 into the words of structures that are replicated by now: at
# most `most` of them are examined.
cdef void frame_words_sweep(pool *p, uint32_t most) noexcept nogil

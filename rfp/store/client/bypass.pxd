# Server-bypass: a GET that walks the server's index by one-sided READs, as Pilaf does and RFP compares itself with.
#
# Everything that is read may change, or be reused, at any moment: offsets are checked before they are followed, the walk is
# bounded, and nothing is believed before the record's own checksum.  A walk that finds nothing proves nothing (the record may
# have moved meanwhile): then the server is asked.

from libc.stdint cimport uint32_t, uint64_t
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.client.remote_arena cimport remote_arena

cdef enum:
    BYPASS_FOUND = 32      # the others are outcomes of client_ring.pxd
    BYPASS_UNSURE = 33     # ask the server
    BYPASS_MISSING = 34    # a chunk of the arena is to be attached first: the one that holds `missing`

cdef struct bypass:        # one ring's memory of the index it walks
    uint64_t buckets       # as the board said last; 0: not read yet
    uint64_t missing
    uint64_t walks
    uint64_t found
    uint64_t reads

# On BYPASS_FOUND value points into the ring's scratch region, until the ring is used again.
cdef int bypass_get(bypass *b, client_ring *ring, remote_arena *arena, const char *key, uint32_t key_length, uint64_t hash,
                    uint64_t deadline, const char **value, uint32_t *value_length, uint64_t *version) noexcept nogil

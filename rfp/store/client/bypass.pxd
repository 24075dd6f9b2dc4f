# Server-bypass: a GET that reads the server's index by one-sided READs, like that of Pilaf, with
# which RFP compares itself.
#
# The server may change or reuse everything that is read, at any moment.  So the walk checks offsets
# before it follows them, its length is bounded, and it uses a record only if the record's checksum
# is right.  A walk that finds nothing proves nothing (the record may have moved in the meantime):
# then the client must send the server a request.

from libc.stdint cimport uint32_t, uint64_t
from rfp.protocol.client.client_ring cimport client_ring, outcome
from rfp.protocol.client.remote_arena cimport remote_arena

cdef struct bypass:        # one ring's knowledge of the index
    uint64_t buckets       # number of buckets in the partition header read last; 0: not read yet
    uint64_t missing       # after NOT_ATTACHED: an offset in the chunk to attach
    uint64_t walks
    uint64_t found
    uint64_t reads

# DONE: *value points into the ring's scratch memory, and is valid until the ring is used again.
# NOT_ATTACHED: attach the chunk that contains b.missing, and call again.  UNDECIDED, or the outcome
# of a READ that failed: send the server a request.
cdef outcome bypass_get(bypass *b, client_ring *ring, remote_arena *arena,
                        const char *key, uint32_t key_length, uint64_t hash, uint64_t seed,
                        uint64_t deadline, const char **value, uint32_t *value_length,
                        uint64_t *version) noexcept nogil

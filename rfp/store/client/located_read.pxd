# Located reads: a GET by one READ of the place where the key's record was last.
#
# For fabrics on which a READ costs a round trip.  Places come from responses to GETs
# (KV_NAME_PLACE).  A whole record of the key at such a place was the key's value at a moment within
# the READ (layout.h, validity): its version is not 0, and its CRC, which covers the version, is
# right.  So one READ suffices, and the order in which it observes the record's lines does not
# matter.  Any other content proves nothing: the entry goes, and the server is asked.
#
#   long values   that the CRC does not cover are not read by place: that would take two ordered
#                 READs and a third one of a counter, for values whose transfer costs more than that
#   expiry        a record that may expire counts only if its expiry is certainly in the future
#                 (server_clock.pxd); its first READ finds the expiry, later ones READ the server's
#                 clock with the same doorbell
#   server        over RDMA a queue pair ends with its process; elsewhere the incarnation line is
#                 read after the copy, as for direct reads (direct_read.pxd)
#   chunks        over RDMA a chunk of the arena is requested after CHUNK_MISSES misses, one chunk
#                 at a time; no GET waits for it
#
# The READs land in memory of their own (channel.landing), which no peer reaches: requests may be in
# flight meanwhile.  A READ that does not complete within LANDING_NS_MAX is left alone, and the
# memory is not used again before it has completed.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.fabric.fabric cimport remote_region
from rfp.protocol.client.channel cimport channel
from rfp.protocol.client.remote_arena cimport remote_arena
from rfp.store.client.direct_read cimport DirectReads
from rfp.store.client.location_cache cimport LocationCache
from rfp.store.client.server_clock cimport server_clock
from rfp.store.messages cimport kv_place

cdef enum:
    # Of the memory in which READs land; the word of the server's clock comes last.
    LANDING_MEMORY_BYTES = 65536 + 64

cdef struct located_record:        # what a whole record contains
    const char *value
    uint32_t value_length
    uint64_t version
    uint64_t expiry                # ms; 0: never
    uint64_t size                  # of the record

# Returns whether a private copy of `length` bytes contains a whole record of this key.
cdef bint located_check(const char *copy, uint64_t length, uint64_t seed, const char *key,
                        uint32_t key_length, located_record *found) noexcept nogil

cdef struct located:               # one READ
    uint64_t hash
    uint64_t slot                  # the place, as the index contained it
    uint64_t size
    uint64_t landing               # offset in the landing memory
    Py_ssize_t position            # of the key in a batch
    uint32_t worker
    remote_region *region
    uint64_t at                    # offset in the region
    bint expires                   # READ the clock as well
    bint posted


cdef class LocatedReads(DirectReads):
    """The places of one connection's records."""
    cdef object connection
    cdef LocationCache cache
    cdef remote_arena *remote[RFP_WORKERS_MAX]
    cdef const char *owner_word        # NULL: the queue pair ends with the server's process
    cdef uint32_t owner
    cdef bint same_clock
    cdef server_clock clock
    cdef uint8_t evicting[RFP_WORKERS_MAX]   # the server needs to know which records are used
    # the chunk that was requested, and the misses of others
    cdef dict wanted
    cdef object requested              # (worker, index, number of the call), or None
    cdef bint requesting               # a thread is inside want()
    cdef uint64_t polled
    cdef uint64_t request_after        # ns
    cdef uint32_t late                 # reads in a row that did not complete in time
    cdef uint64_t paused_until         # ns; 0: located reads are in use
    # counters
    cdef uint64_t misses
    cdef uint64_t stale
    cdef uint64_t read_bytes
    cdef uint64_t chunks

    # Remembers a place that a response has named.
    cdef int learn(self, uint64_t hash, const kv_place *place) except -1
    # The same from a reference to the whole value, of `length` bytes at `offset`.
    cdef int learn_reference(self, uint64_t hash, uint32_t key_length, uint64_t offset,
                             uint64_t length) except -1
    cdef int remember(self, uint64_t hash, uint64_t slot, bint expires) except -1
    cdef int want(self, uint32_t worker, uint64_t offset) except -1
    cdef bint find(self, channel *ch, uint64_t hash, located *r) noexcept
    cdef bint land(self, channel *ch, located *reads, int n) noexcept
    cdef bint lives_on(self, channel *ch, const located *r, uint64_t expiry) noexcept
    cdef bint check(self, channel *ch, located *r, const char *key, uint32_t key_length,
                    located_record *found) noexcept
    cdef void note_hit(self, channel *ch, const located *r) noexcept

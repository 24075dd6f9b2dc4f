# Uses of records by direct reads, reported to the server, which evicts the least recently used.
#
# A direct read changes nothing at the server, so a client keeps the slot words that led it to
# records, and sends them (KV_REFER) with its next requests.  Reports are hints: the client never
# waits for one, and they are lost if a ring is half full.  They are kept only once memory runs
# short at the server (KV_EVICTS).  A client that sends requests reports all its uses, which
# accompany them; else one use in SAMPLE_INTERVAL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.protocol.client.channel cimport channel
from rfp.store.messages cimport kv_use

cdef enum:
    USES_REPORTED = 16         # uses of one worker's records that are kept for one report

cdef struct recency:           # one thread at a time uses it
    kv_use uses[RFP_WORKERS_MAX][USES_REPORTED]
    uint8_t used[RFP_WORKERS_MAX]
    uint32_t used_in_all       # the sum of `used`
    uint32_t next_report       # the worker that recency_before_request() examines first
    uint32_t reports_alone     # since the last request
    uint32_t skipped

# Notes a use of the record of a slot word; sends a report over the channel's ring if one is full.
cdef void recency_note(recency *r, channel *ch, uint32_t worker, uint64_t hash,
                       uint64_t slot) noexcept nogil
# To be called before a request of the channel's thread; NULL: does nothing.
cdef void recency_before_request(recency *r, channel *ch) noexcept nogil

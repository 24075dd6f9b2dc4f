# The store's client.  ClientBase.run() makes its calls (protocol/client/client_base.pxd); here are
# their arguments, the requests that they submit, and the values that they make of responses.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.client.client_ring cimport RAISED, client_ring, outcome
from rfp.protocol.wire cimport rfp_reference, rfp_response_header
from rfp.store.client.direct_read cimport DirectReads, direct_result
from rfp.store.client.located_read cimport LocatedReads
from rfp.store.messages cimport kv_place

cdef struct key_call:               # a call with one key; the other arguments belong to some kinds
    client_call c
    uint8_t opcode
    const char *key                 # memory of key_object
    uint32_t key_length
    void *key_object                # bytes; the caller of run() keeps a reference
    uint64_t number                 # incr: the amount; touch: the time to live, ms

cdef struct get_call:               # get, item, get_into
    key_call k
    Py_buffer *view                 # where the value goes; NULL: to a new bytes object
    bint with_version
    bint by_reference               # the response was a reference: READ the value
    rfp_reference reference
    uint64_t version
    kv_place place                  # slot: 0 if the response named none

cdef struct range_call:             # get_range
    get_call g
    uint64_t offset
    uint64_t length

cdef struct put_call:
    key_call k
    Py_buffer *view                 # the value
    uint64_t ttl_ms                 # 0: none
    uint32_t flags                  # KV_IF_ABSENT, KV_IF_VERSION
    uint64_t version                # for KV_IF_VERSION

# Sets the ring of a call with a key.
cdef client_ring *choose_ring(channel *ch, key_call *k) noexcept nogil

cdef class Client(ClientBase):
    """The store, for all threads of one process."""
    cdef readonly str mode
    cdef object fetch
    cdef object retries
    cdef object tuned               # what `rfp tune` measured for this device, or None
    cdef bint bypass                # GETs read the server's index
    cdef list registrations         # buffers that the device reaches directly
    cdef DirectReads direct         # of the connection `direct_identity`; None: not used
    cdef uint64_t direct_identity   # 0: no direct reads
    cdef uint64_t chosen_identity   # of the connection for which the choice was made
    cdef uint64_t direct_ns         # the quickest direct read at that time; 0: not measured
    cdef object location_cache      # places to remember; 0: none
    cdef bint views_in_place        # the server's memory is mapped, and it offers views
    cdef object view_memory         # ViewMemory of the connection `view_identity`
    cdef uint64_t view_identity     # 0: none yet

    # Sends the uses of records by direct reads, if a request is about to be sent anyway.
    cdef void report_uses(self) noexcept
    # The calling thread's channel, if it can read the key without the server, else NULL.
    cdef channel *direct_channel(self, bytes key, object timeout) except? NULL
    # A value read without the server; result: DIRECT_UNSURE if the server must be asked.
    cdef object get_directly(self, bytes key, Py_buffer *view, object timeout, uint64_t *version,
                             direct_result *result)
    # The located reads of a channel's connection; None: it has none.
    cdef LocatedReads located(self, channel *ch)
    cdef object get_value(self, object key, object buffer, bint with_version, object timeout)
    cdef int prepare_key_call(self, key_call *k, uint8_t opcode, bytes key) except -1
    # DONE, or PROTOCOL_ERROR or DISCONNECTED.
    cdef outcome map_chunks(self, Channel owner, uint32_t worker, uint64_t offset, uint64_t length,
                            uint64_t deadline) except RAISED

# The value of a response to KV_GET; a reference is kept in the get_call, for fetch_reference().
cdef object finish_get(ClientBase client, client_call *c, const rfp_response_header *response)
# Remembers the place that the response to a GET (with get.place, or by reference) has named.
cdef int learn_place(Client client, Channel owner, get_call *get) except -1
# The parts of the calls that are one request.
cdef bint submit_key(channel *ch, client_call *c) noexcept nogil
cdef bint submit_number(channel *ch, client_call *c) noexcept nogil
cdef bint submit_range(channel *ch, client_call *c) noexcept nogil
cdef bint submit_put(channel *ch, client_call *c) noexcept nogil
cdef bint submit_stats(channel *ch, client_call *c) noexcept nogil
cdef object finish_range(ClientBase client, client_call *c, const rfp_response_header *response)
cdef object finish_put(ClientBase client, client_call *c, const rfp_response_header *response)
cdef object finish_bool(ClientBase client, client_call *c, const rfp_response_header *response)
cdef object finish_incr(ClientBase client, client_call *c, const rfp_response_header *response)
cdef object finish_stats(ClientBase client, client_call *c, const rfp_response_header *response)
# The result of Client.stats().
cdef dict sum_of_workers(Client client, Channel owner, list partitions)
# A key as bytes, checked.
cdef bytes as_key(object key)
# A value that came in a slot: as bytes, or in the caller's buffer, and then its length.
cdef object deliver(const char *data, uint32_t length, Py_buffer *view)
# The exception for a status of the server.
cdef object refusal(uint8_t status, uint64_t result, bytes key)
# A whole number between two bounds; a negative one as its two's complement.
cdef uint64_t whole_number(str name, object value, object lowest, object highest) except? 0
cdef uint64_t milliseconds(object ttl) except? 0

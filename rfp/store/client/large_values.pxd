# Values too large for a slot: fetched by reference, stored piece by piece.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport remote_region
from rfp.protocol.client.caller_memory cimport IoBuffer
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_ring cimport RAISED, client_ring, outcome
from rfp.store.client.client cimport Client, get_call, put_call

cdef enum:
    PIECE_BYTES = 131072             # of an upload, with one request

cdef struct answer:                  # the parts of a response that an upload needs
    uint8_t status
    uint64_t result

# READs the value of get.reference; returns it, or its length if it went to the caller's buffer.
# Sets the call's result; the return value counts only if that is DONE.
cdef object fetch_reference(Client client, Channel owner, get_call *get)
# An attempt of a put whose value does not fit into a slot.
cdef object attempt_upload(Client client, Channel owner, put_call *put)

# The parts of an upload, for several at a time (transfers.pyx).
# Waits until no abandoned request can read this channel's staging memory any more.
cdef outcome drain(Client client, Channel owner, uint64_t deadline) except RAISED
# WRITEs one piece into the staging memory and posts the request for it.
cdef outcome post_piece(client_ring *ring, remote_region *staging, uint64_t place, IoBuffer buffer,
                        uint64_t id, uint64_t offset, uint32_t size,
                        uint64_t deadline) noexcept nogil
# Takes status and result of the oldest response, and frees its slot.
cdef void take_answer(client_ring *ring, answer *a) noexcept nogil
# Ends the transfers that a failed server leaves: none reaches caller memory after the call.
cdef int close_if_lost(Channel owner, uint32_t worker, outcome result) except -1

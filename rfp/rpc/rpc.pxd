# The RPC client, and the parts of its calls.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.wire cimport rfp_response_header

cdef struct rpc_call:
    client_call c
    Py_buffer *message

# Raises TooLarge for a message that does not fit into a slot of the channel.
cdef int check_length(Channel owner, uint64_t length) except -1
cdef bint submit_message(channel *ch, client_call *c) noexcept nogil
cdef object finish_message(ClientBase client, client_call *c, const rfp_response_header *header)


cdef class RpcClient(ClientBase):
    cdef object mode

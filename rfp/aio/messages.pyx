"""The calls of an RPC client on an event loop."""

from cpython.buffer cimport Py_buffer, PyBuffer_Release

from rfp.aio.rings cimport Call
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport Channel
from rfp.rpc.rpc cimport RpcClient, check_length, finish_message, rpc_call, submit_message


cdef class MessageCall(Call):
    """One message, and the handler's response."""
    cdef rpc_call u
    cdef Py_buffer view
    cdef bint has_view

    def __cinit__(self):
        self.c = &self.u.c
        self.u.message = &self.view

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)

    cdef int choose(self, Channel owner) except -1:
        check_length(owner, self.view.len)
        self.c.worker = 0
        self.c.ring = owner.c.rings[0]
        return 0


def message_call(RpcClient client not None, message, timeout):
    cdef MessageCall call = MessageCall.__new__(MessageCall)
    client.prepare_call(call.c, timeout, False, NULL, submit_message, finish_message)
    take_buffer(message, &call.view, False, "messages")
    call.has_view = True
    return call

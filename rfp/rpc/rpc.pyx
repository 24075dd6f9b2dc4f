"""The RPC layer: the paper's calls, for users' own services (RFP, section 3.1)."""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_copy_out
from rfp.protocol.client.caller_memory cimport take_buffer
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport ClientBase, attempt_request, client_call, tag_of
from rfp.protocol.client.client_ring cimport (
    AUTO, FETCH, REPLY, client_ring_payload, client_ring_submit,
)
from rfp.protocol.server.service cimport Service, request, response, service_session
from rfp.protocol.wire cimport (
    RFP_MODE_FETCH, RFP_MODE_REPLY, RFP_OPCODE_CALL, RFP_REQUEST_HEADER, RFP_RESPONSE_HEADER,
    rfp_response_header,
)

from rfp.control.credentials import Credentials
from rfp.core.choices import RPC_MODES
from rfp.core.log import log
from rfp.errors import HandlerFailed, TooLarge, Unsupported, bad_choice
from rfp.protocol.client.opener import Opener
from rfp.protocol.client.caller_memory import checked

cdef enum:
    ANSWERED = 0
    FAILED = 1            # the handler raised; the payload contains the exception
    NOT_BYTES = 2         # the handler returned something else
    RESPONSE_TOO_LONG = 3  # its response does not fit; result: the length of it
    NO_SUCH_CALL = 4


cdef class HandlerService(Service):
    """Executes calls with a Python function; only that function takes the GIL."""
    cdef object handler

    def __cinit__(self, handler):
        self.handler = handler
        self.c.context = <void *> self
        self.c.opened = nothing
        self.c.closed = nothing
        self.c.prepare = NULL
        self.c.execute = execute
        self.c.tick = NULL

    cdef void answer(self, const request *received, response *answer) noexcept:
        cdef object result
        cdef bytes text
        # The default until the call succeeds: no failure below may pass for an empty response.
        answer.status = FAILED
        try:
            result = self.handler(PyBytes_FromStringAndSize(received.payload, received.length))
            if isinstance(result, (bytes, bytearray, memoryview)):
                text = bytes(checked(result, "responses"))
                answer.status = ANSWERED
            else:
                text = named(result, answer.capacity)
                answer.status = NOT_BYTES
        # sys.exit() in a handler ends neither the worker nor the server: it fails this call only.
        except BaseException as error:
            text = explained(error, answer.capacity)
        if <uint64_t> PyBytes_GET_SIZE(text) > answer.capacity:
            answer.status = RESPONSE_TOO_LONG
            answer.result = PyBytes_GET_SIZE(text)
            return
        answer.length = <uint32_t> PyBytes_GET_SIZE(text)
        rfp_copy_out(answer.payload, PyBytes_AS_STRING(text), answer.length)


cdef bytes named(object thing, uint32_t limit):
    return type(thing).__name__.encode(errors="replace")[:limit]


cdef bytes explained(object error, uint32_t limit):
    """Return the text of a handler's exception for the caller; log the traceback here."""
    log.exception("the handler raised %s", type(error).__name__)
    try:
        text = f"{type(error).__name__}: {error}".encode(errors="replace")
        return text[:min(limit, <uint32_t> 512)]
    except Exception:
        return named(error, limit)


cdef void nothing(void *context, service_session *client) noexcept nogil:
    pass


cdef void execute(void *context, request *received, response *answer) noexcept nogil:
    if received.opcode != RFP_OPCODE_CALL:
        answer.status = NO_SUCH_CALL
        return
    with gil:
        (<HandlerService> context).answer(received, answer)


cdef bint submit_message(channel *ch, client_call *c) noexcept nogil:
    cdef Py_buffer *message = (<rpc_call *> c).message
    cdef char *payload
    c.ring = ch.rings[0]
    payload = client_ring_payload(c.ring)
    if payload == NULL:
        return False
    memcpy(payload, message.buf, message.len)
    client_ring_submit(c.ring, RFP_OPCODE_CALL, 0, 0, <uint32_t> message.len, tag_of(c))
    return True


cdef object attempt_message(ClientBase client, Channel owner, client_call *c):
    check_length(owner, <uint64_t> (<rpc_call *> c).message.len)
    return attempt_request(client, owner, c)


cdef int check_length(Channel owner, uint64_t length) except -1:
    cdef uint64_t length_max = owner.c.rings[0].slot_size - RFP_REQUEST_HEADER
    if length > length_max:
        raise TooLarge(f"a message of {length} bytes exceeds the limit of {length_max}",
                       hint="start the server with a larger max_message=")
    return 0


cdef object finish_message(ClientBase client, client_call *c, const rfp_response_header *header):
    """Return the handler's response, or raise its error."""
    cdef const char *text = <const char *> header + RFP_RESPONSE_HEADER
    if header.status == ANSWERED:
        return PyBytes_FromStringAndSize(text, header.length)
    if header.status == FAILED:
        raise HandlerFailed(
            f"the handler raised {text[:header.length].decode(errors='replace')}")
    if header.status == NOT_BYTES:
        raise HandlerFailed(
            f"the handler returned a {text[:header.length].decode(errors='replace')}",
            hint="return bytes from the handler")
    if header.status == RESPONSE_TOO_LONG:
        raise TooLarge(f"the response of {header.result} bytes exceeds the server's limit",
                       hint="start the server with a larger max_message=")
    raise Unsupported("the server does not support calls")


cdef class RpcClient(ClientBase):
    """Calls the handler of an RpcServer; many threads may use one client.

    Args:
        address: of the server.
        timeout: default limit of a call, in seconds.
        mode: "auto", "fetch" or "reply", as in rfp.connect().
        reconnect: whether to connect again after the server was lost.
        secret: as in rfp.connect(); likewise secret_file, tls_ca, tls_cert and tls_key.

    >>> import rfp
    >>> with rfp.RpcServer(bytes.upper) as server, rfp.RpcClient(server.address) as client:
    ...     client.call(b"hello")
    b'HELLO'
    """

    def __init__(self, address, *, timeout=5.0, bint reconnect=True, str mode="auto", secret=None,
                 secret_file=None, tls_ca=None, tls_cert=None, tls_key=None):
        if mode not in RPC_MODES:
            raise bad_choice("mode", mode, RPC_MODES)
        self.mode = mode
        credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
        super().__init__(Opener(address, "rpc", credentials=credentials,
                                start="start the program that has the RpcServer"), timeout=timeout,
                         reconnect=reconnect)

    def configure_channel(self, Channel owner not None):
        """Set up the rings of a new channel by the options of this handle."""
        cdef uint32_t i
        for i in range(owner.c.count):
            owner.c.rings[i].paradigm = {"auto": AUTO, "fetch": FETCH, "reply": REPLY}[self.mode]
            owner.c.rings[i].mode = RFP_MODE_REPLY if self.mode == "reply" else RFP_MODE_FETCH

    def call(self, message, *, timeout=None):
        """Send a message and return the handler's response, as bytes.

        Args:
            message: any contiguous buffer.
            timeout: seconds; None: that of the client.

        Raises:
            TooLarge: the message or the response is longer than the server's max_message.
            HandlerFailed: the handler raised an exception.
            OutcomeUnknown: the connection was lost after the message had been sent.
            DeadlineExceeded: the timeout has passed.

        Cost:
            2 network round trips.
        """
        cdef rpc_call call
        cdef Py_buffer view
        self.prepare_call(&call.c, timeout, False, attempt_message, submit_message, finish_message)
        take_buffer(message, &view, False, "messages")
        call.message = &view
        try:
            return self.run(&call.c)
        finally:
            PyBuffer_Release(&view)

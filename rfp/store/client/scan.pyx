"""Scans over all keys, and clearing: one request for each step, the workers one after the other.

A cursor is a number that contains the place of the scan, so that neither side keeps a state:

    bits 0 to 5      the worker
    bits 6 to 69     the position at this worker (server/scan.pyx)
    bits 70 to 133   a digest of the server's seed, which is random and new at each start
    bits 134 on      the version that the scan continues at; almost always 0

A position depends on the seed, so a cursor is refused at a server with another one.  A cursor may
reach strangers, and the seed is a secret (docs/security.md), so the cursor has a digest of it.
"""

from operator import index

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_now
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport (
    ClientBase, attempt_request, client_call, tag_of,
)
from rfp.protocol.client.client_ring cimport DONE, PROTOCOL_ERROR, TIMED_OUT
from rfp.protocol.wire cimport RFP_RESPONSE_HEADER, rfp_response_header
from rfp.store.client.client cimport Client, refusal, whole_number
from rfp.store.client.requests cimport kv_submit_scan
from rfp.store.messages cimport (
    KV_CLEAR, KV_MAX_KEY, KV_OK, KV_SCAN, kv_key, kv_scanned,
)

from rfp.errors import InvalidArgument, OutcomeUnknown, WrongType
from rfp.protocol.client.caller_memory import checked

cdef enum:
    WORKER_BITS = 6

cdef bint submit_scan(channel *ch, client_call *c) noexcept nogil:
    cdef scan_call *s = <scan_call *> c
    c.ring = ch.rings[c.worker]
    return kv_submit_scan(c.ring, s.opcode, s.position, s.version, s.limit, s.prefix,
                          s.prefix_length, tag_of(c))


cdef object finish_scan(ClientBase client, client_call *c, const rfp_response_header *response):
    """Return the keys, or for KV_CLEAR their number; move the place of the scan forward."""
    cdef scan_call *s = <scan_call *> c
    cdef const char *at = <const char *> response + RFP_RESPONSE_HEADER
    cdef const char *end = at + response.length
    cdef kv_scanned next
    cdef kv_key head
    cdef list keys = []
    if response.status != KV_OK:
        raise refusal(response.status, response.result, <bytes> s.prefix_object)
    if response.length < sizeof(next):
        c.result = PROTOCOL_ERROR
        return None
    memcpy(&next, at, sizeof(next))
    at += sizeof(next)
    while at < end and s.opcode == KV_SCAN:
        if <uint64_t> (end - at) < sizeof(head):
            c.result = PROTOCOL_ERROR
            return None
        memcpy(&head, at, sizeof(head))
        at += sizeof(head)
        if head.key_length > <uint64_t> (end - at):
            c.result = PROTOCOL_ERROR
            return None
        keys.append(PyBytes_FromStringAndSize(at, head.key_length))
        at += head.key_length
    if next.position == 0 and next.version == 0:
        s.worker += 1
    elif next.position < s.position or next.position == s.position and next.version <= s.version:
        c.result = PROTOCOL_ERROR               # a scan that does not advance would never end
        return None
    s.position = next.position
    s.version = next.version
    return keys if s.opcode == KV_SCAN else response.result


cdef object attempt_scan(ClientBase client, Channel owner, client_call *c):
    cdef scan_call *s = <scan_call *> c
    begin_step(s, owner.c.seed, owner.c.count)
    value = attempt_request(client, owner, c)
    if c.result == DONE:
        end_step(s, owner.c.count)
    return value


cdef uint64_t digest_of(uint64_t seed) except? 0:
    from hashlib import blake2b             # its import takes longer than that of this package
    return int.from_bytes(blake2b((<const char *> &seed)[:8], digest_size=8).digest(), "little")


cdef int begin_step(scan_call *s, uint64_t seed, uint32_t workers) except -1:
    cdef uint64_t server = digest_of(seed)
    if s.begun and (s.server != server or s.worker >= workers):
        if s.opcode == KV_CLEAR:
            raise OutcomeUnknown("the server was started again during the call",
                                 hint="check whether to clear the new one too")
        raise InvalidArgument("the cursor belongs to another server, or to one that has ended",
                              hint="begin a new scan")
    s.server = server
    s.c.worker = s.worker
    return 0


cdef void end_step(scan_call *s, uint32_t workers) noexcept:
    s.begun = True
    if s.worker == workers:                 # the last one has been visited
        s.worker = 0


cdef bytes as_prefix(prefix):
    if type(prefix) is not bytes:
        if isinstance(prefix, str):
            raise WrongType(f"a prefix must be bytes, not a str: {prefix!r}",
                            hint="use prefix.encode()")
        prefix = bytes(checked(prefix, "a prefix"))
    if len(prefix) > KV_MAX_KEY:
        raise InvalidArgument(
            f"a prefix must have at most {KV_MAX_KEY} bytes, got {len(prefix)} bytes")
    return prefix


cdef int prepare(Client client, scan_call *s, uint8_t opcode, bytes prefix, uint64_t limit,
                 object timeout) except -1:
    client.prepare_call(&s.c, timeout, opcode == KV_SCAN, attempt_scan, submit_scan, finish_scan)
    client.report_uses()
    s.opcode = opcode
    s.prefix = PyBytes_AS_STRING(prefix)
    s.prefix_length = <uint32_t> PyBytes_GET_SIZE(prefix)
    s.prefix_object = <void *> prefix
    s.limit = limit
    s.begun = False
    s.server = s.position = s.version = 0
    s.worker = 0
    return 0


cdef object cursor_of(scan_call *s):
    if s.worker == 0 and s.position == 0 and s.version == 0:
        return 0
    place = (<object> s.version << 64 | s.server) << 64 | s.position
    return place << WORKER_BITS | s.worker


cdef int set_place(scan_call *s, cursor) except -1:
    try:
        place = index(cursor)
    except TypeError:
        raise WrongType(f"cursor must be a whole number, not {cursor!r}") from None
    if place < 0 or place >> (WORKER_BITS + 3 * 64):
        raise InvalidArgument(f"invalid cursor {cursor!r} (expected 0 or the last call's cursor)")
    s.begun = place != 0
    s.worker = place & ((1 << WORKER_BITS) - 1)
    place >>= WORKER_BITS
    s.position = place & 0xFFFFFFFFFFFFFFFF
    s.server = place >> 64 & 0xFFFFFFFFFFFFFFFF
    s.version = place >> 128
    return 0


cdef tuple scan(Client client, object prefix, object cursor, object count, object timeout):
    cdef scan_call s
    cdef bytes text = as_prefix(prefix)
    prepare(client, &s, KV_SCAN, text, whole_number("count", count, 1, INT64_MAX), timeout)
    set_place(&s, cursor)
    keys = client.run(&s.c)
    return cursor_of(&s), keys


cdef class KeyIterator:
    """The iterator of Client.scan_iter()."""
    cdef Client client
    cdef bytes prefix
    cdef object count
    cdef object timeout
    cdef object cursor              # None: the scan has ended
    cdef list keys
    cdef Py_ssize_t taken

    def __iter__(self):
        return self

    def __next__(self):
        while self.taken == len(self.keys):
            if self.cursor is None:
                raise StopIteration
            self.client.poll_signals()
            cursor, self.keys = scan(self.client, self.prefix, self.cursor, self.count,
                                     self.timeout)
            self.cursor = cursor or None
            self.taken = 0
        self.taken += 1
        return self.keys[self.taken - 1]


cdef object scan_iter(Client client, object prefix, object count, object timeout):
    cdef KeyIterator iterator = KeyIterator.__new__(KeyIterator)
    # A bad argument raises here, not in the first step.
    client.deadline(timeout, rfp_now())
    whole_number("count", count, 1, INT64_MAX)
    iterator.client = client
    iterator.prefix = as_prefix(prefix)
    iterator.count = count
    iterator.timeout = timeout
    iterator.cursor = 0
    iterator.keys = []
    return iterator


cdef object clear(Client client, object prefix, object timeout):
    cdef scan_call s
    cdef bytes text = as_prefix(prefix)
    deleted = 0
    prepare(client, &s, KV_CLEAR, text, INT64_MAX, timeout)
    while True:
        deleted += client.run(&s.c)
        if cursor_of(&s) == 0:
            return deleted
        client.poll_signals()
        s.c.now_ns = rfp_now()
        # run() checks the deadline only while it waits, and a fast server never lets it wait.
        if s.c.now_ns > s.c.deadline_ns:
            s.c.result = TIMED_OUT
            client.raise_or_retry(&s.c)

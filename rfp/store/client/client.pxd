# The store's client.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport ClientBase
from rfp.protocol.client.client_ring cimport client_ring

cdef struct answer:                 # of a request whose result is a status and a number or two
    uint8_t status
    uint64_t result
    uint64_t number                 # the first eight bytes of the payload, if there are so many

cdef class Client(ClientBase):
    """The store, as one process's threads see it."""
    cdef readonly str mode
    cdef object fetch
    cdef object retries
    cdef object tuned               # what `rfp tune` found for this device, or None
    cdef bint bypass                # GETs walk the server's index
    cdef list registrations         # buffers that the device reaches directly

    cdef uint32_t worker_of(self, channel *c, bytes key) noexcept
    cdef object get_value(self, object key, object buffer, bint with_version, object timeout)
    cdef object get_from_worker(self, bytes key, Py_buffer *view, bint with_version, uint64_t deadline)
    cdef int bypass_get_value(self, Channel owner, uint32_t worker, bytes key, uint64_t deadline, const char **value,
                              uint32_t *length, uint64_t *version) except -1
    cdef int map_chunks(self, Channel owner, uint32_t worker, uint64_t offset, uint64_t length, uint64_t deadline) except -1
    cdef int send_and_wait(self, Channel owner, client_ring *ring, bint taken, uint64_t deadline, answer *out) except -1
    cdef uint64_t change(self, uint8_t opcode, bytes key, bint has_number, uint64_t number, bint repeatable, object timeout,
                         answer *out) except? 0

cdef bytes as_key(object key)
cdef object refusal(uint8_t status, uint64_t result, bytes key)
cdef uint64_t milliseconds(object ttl) except? 0

# Values too large for a slot: fetched by reference, stored piece by piece.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint32_t, uint64_t
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_ring cimport client_ring
from rfp.protocol.wire cimport rfp_reference
from rfp.store.client.client cimport Client, answer

cdef object fetch_reference(Client client, Channel owner, uint32_t worker, rfp_reference *reference, uint64_t started,
                            uint64_t deadline, Py_buffer *view, int *found)
cdef int upload(Client client, Channel owner, client_ring *ring, bytes key, Py_buffer *view, uint64_t ttl, uint32_t flags,
                uint64_t version, uint64_t deadline, answer *out, bint *sent) except -1

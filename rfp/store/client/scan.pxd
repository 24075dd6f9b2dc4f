# Scans over all keys, and clearing, in steps that the server bounds (server/scan.pyx).

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.protocol.client.channel cimport channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.wire cimport rfp_response_header
from rfp.store.client.client cimport Client

cdef struct scan_call:
    client_call c
    uint8_t opcode
    const char *prefix              # memory of prefix_object
    uint32_t prefix_length
    void *prefix_object             # bytes; the caller of run() keeps a reference
    uint64_t limit
    # where the next step begins
    bint begun                      # the place belongs to this server
    uint64_t server                 # a digest of the server's seed
    uint32_t worker
    uint64_t position
    uint64_t version

# The parts of a step.
cdef bint submit_scan(channel *ch, client_call *c) noexcept nogil
cdef object finish_scan(ClientBase client, client_call *c, const rfp_response_header *response)
cdef bytes as_prefix(prefix)
cdef int prepare(Client client, scan_call *s, uint8_t opcode, bytes prefix, uint64_t limit,
                 object timeout) except -1
cdef int set_place(scan_call *s, cursor) except -1
cdef object cursor_of(scan_call *s)
# Raises if the place belongs to another server; sets the worker of the step.
cdef int begin_step(scan_call *s, uint64_t seed, uint32_t workers) except -1
cdef void end_step(scan_call *s, uint32_t workers) noexcept

# One step; returns (cursor, keys).
cdef tuple scan(Client client, object prefix, object cursor, object count, object timeout)
cdef object scan_iter(Client client, object prefix, object count, object timeout)
# Deletes all keys with the prefix; returns their number.
cdef object clear(Client client, object prefix, object timeout)

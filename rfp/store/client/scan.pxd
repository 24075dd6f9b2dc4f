# Scans over all keys, and clearing, in steps that the server bounds (server/scan.pyx).

from libc.stdint cimport uint64_t
from rfp.store.client.client cimport Client

# One step; returns (cursor, keys).
cdef tuple scan(Client client, object prefix, object cursor, object count, object timeout)
cdef object scan_iter(Client client, object prefix, object count, object timeout)
# Deletes all keys with the prefix; returns their number.
cdef object clear(Client client, object prefix, object timeout)

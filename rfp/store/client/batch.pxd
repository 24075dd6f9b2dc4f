# Many keys in one call: requests with a few keys each, so that client and server work at the same
# time.

from libc.stdint cimport uint64_t
from rfp.store.client.client cimport Client

# Seconds to a deadline, more than 0.
cdef double remaining(uint64_t deadline)
# A list of checked keys.
cdef list as_keys(keys)
cdef list get_many(Client client, object keys, object timeout)
cdef list get_ranges(Client client, object ranges, object timeout)
cdef list exists_many(Client client, object keys, object timeout)
cdef list put_many(Client client, object items, uint64_t ttl_ms, object timeout)
cdef list delete_many(Client client, object keys, object timeout)

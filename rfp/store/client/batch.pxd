# Many keys in one call: requests with a few keys each, so that client and server work at the same
# time.

from libc.stdint cimport uint64_t
from rfp.store.client.client cimport Client

# Seconds to a deadline, more than 0.
cdef double remaining(uint64_t deadline)
# A list of checked keys.
cdef list as_keys(keys)
# Takes and checks all keys and values of a put_many; a value is bytes, or a Buffer.
cdef int take_items(object items, list names, list values) except -1
# Takes and checks the keys of a get_ranges, and their ranges as the bytes of kv_range.
cdef int take_ranges(object ranges, list names, list values) except -1
cdef list get_many(Client client, object keys, object timeout)
cdef list get_ranges(Client client, object ranges, object timeout)
cdef list exists_many(Client client, object keys, object timeout)
cdef list put_many(Client client, object items, uint64_t ttl_ms, object timeout)
cdef list delete_many(Client client, object keys, object timeout)

# The large values of a batch, with the requests of several under way at the same time.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t
from rfp.store.client.client cimport Client


cdef class Buffer:
    """The memory of a value or for one, used in place: it keeps the object locked and alive."""
    cdef Py_buffer view
    cdef object thing

# Fetches values into the buffers (None: into new bytes), and stores results by position: bytes, or
# the value's length, None for no value, the exception of a refusal.  Returns the positions whose
# transfer must be made again, alone.
cdef list fetch_several(Client client, list names, list buffers, list positions, list results,
                        object timeout)
# Stores the next of these positions, one or several; returns those among them whose transfer must
# be made alone.  *taken: how many of the positions the call was about.
cdef list store_several(Client client, list names, list values, list positions,
                        Py_ssize_t first, list results, uint64_t ttl_ms, uint64_t deadline,
                        Py_ssize_t *taken)
# Each key's value into its buffer; returns the list of the results.
cdef list get_into_many(Client client, object keys, object buffers, object timeout)

# The arguments of the methods of structures: keys and values, as bytes, and within their limits.

from cpython.bytes cimport PyBytes_GET_SIZE
from rnvm.frontend.structure cimport Structure
from structures.layout cimport KEY_MAX

cdef enum:
    GUARANTEED_BYTES = 256     # bytes of a value that every pool accepts

# In place of a default that the caller left out.
cdef object RAISE

# Raises TooLarge if no operation can take a value of this length.
cdef int check_length(Structure s, bytes raw) except -1
# Raises InvalidArgument for a key of this length.
cdef int refuse_key(bytes raw) except -1


cdef inline bytes bytes_argument(Structure s, object value):
    """Return a value as the structure's codec encodes it, of any length."""
    return value if s.codec is None and type(value) is bytes else s.encode(value)


cdef inline bytes value_argument(Structure s, object value):
    """Return a value as bytes that an operation can take."""
    cdef bytes raw = bytes_argument(s, value)
    if PyBytes_GET_SIZE(raw) > <Py_ssize_t> GUARANTEED_BYTES:
        check_length(s, raw)
    return raw


cdef inline bint is_key(bytes raw) noexcept:
    return 1 <= PyBytes_GET_SIZE(raw) <= <Py_ssize_t> KEY_MAX


cdef inline bytes key_argument(Structure s, object key):
    """Return a key as bytes, 1 to KEY_MAX of them."""
    cdef bytes raw = bytes_argument(s, key)
    if not is_key(raw):
        refuse_key(raw)
    return raw


cdef inline bytes key_or_none(Structure s, object key):
    """Return a key as bytes, or None for a key that no structure can contain."""
    cdef bytes raw = bytes_argument(s, key)
    return raw if is_key(raw) else None

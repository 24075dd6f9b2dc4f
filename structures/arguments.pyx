"""The errors that the arguments of structures cause."""

from libc.stdint cimport uint64_t
from rnvm.frontend.structure cimport Structure
from structures.layout cimport KEY_MAX, VALUE_MAX

from rfp.errors import InvalidArgument, TooLarge

RAISE = object()


cdef int check_length(Structure s, bytes raw) except -1:
    cdef uint64_t most = s.longest(VALUE_MAX)
    if <uint64_t> len(raw) > most:
        raise TooLarge(f"a value of {len(raw)} bytes exceeds the limit of {most}",
                       hint="split it, or create the pool with larger logs (docs/structures.md)")
    return 0


cdef int refuse_key(bytes raw) except -1:
    raise InvalidArgument(f"a key must have 1 to {KEY_MAX} bytes, got {len(raw)} bytes")

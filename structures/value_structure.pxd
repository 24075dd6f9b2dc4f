# The base of structures of values: Queue and Stack.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.structure cimport Structure


cdef class ValueStructure(Structure):
    cdef str noun              # of its kind, in messages
    # Adds values, some hundred in one operation, and returns how many.  one, many: operation codes;
    # of the second, the bytes are length (4) and value, again and again.
    cdef uint64_t add_values(self, object values, uint32_t one, uint32_t many,
                             object timeout) except? 0
    cdef int add_some(self, list values, uint32_t one, uint32_t many, object timeout) except -1
    # Returns the default of a call that found it empty; RAISE: raises Empty.
    cdef object default_or_raise(self, object default)
    # Returns the decodable values of these.
    cdef list decodable(self, list raw, list damages)

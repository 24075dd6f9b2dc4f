"""What Queue and Stack have in common."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.structure cimport Structure, transaction_mark, transaction_undo
from structures.arguments cimport RAISE, value_argument
from structures.layout cimport VALUE_MAX

from rfp.errors import Empty, TooLarge, Undecodable

cdef Py_ssize_t MANY_BYTES = 16384     # of the values that one operation adds
cdef Py_ssize_t OVERHEAD_BYTES = 16       # beside each value


cdef class ValueStructure(Structure):
    """The base of structures of values."""

    @property
    def largest_value(self):
        """Return the bytes of the longest value that it accepts.

        The least of: half of the pool's memory log less 8 KiB, half of its operation log less 2
        KiB, and 1 MiB.
        """
        return self.longest(VALUE_MAX)

    cdef uint64_t add_values(self, object values, uint32_t one, uint32_t many,
                             object timeout) except? 0:
        cdef list some = []
        cdef bytes raw
        cdef Py_ssize_t length = 0
        cdef uint64_t n = 0, mark = transaction_mark(self)
        try:
            for value in values:
                raw = value_argument(self, value)
                if some and length + len(raw) > MANY_BYTES:
                    self.add_some(some, one, many, timeout)
                    some = []
                    length = 0
                some.append(raw)
                length += OVERHEAD_BYTES + len(raw)
                n += 1
            self.add_some(some, one, many, timeout)
        except BaseException:
            transaction_undo(self, mark)
            raise
        return n

    cdef int add_some(self, list values, uint32_t one, uint32_t many, object timeout) except -1:
        """Add values in one operation if it fits into the log, else in two."""
        cdef bytearray operation
        cdef bytes raw
        cdef uint32_t length
        cdef Py_ssize_t half = len(values) // 2
        if not half:
            for raw in values:
                self.execute(one, PyBytes_AS_STRING(raw), <uint32_t> len(raw), timeout)
            return 0
        operation = bytearray()
        for raw in values:
            length = <uint32_t> len(raw)
            operation += (<const char *> &length)[:4]
            operation += raw
        try:
            self.execute(many, operation, <uint32_t> len(operation), timeout)
        except TooLarge:
            self.add_some(values[:half], one, many, timeout)
            self.add_some(values[half:], one, many, timeout)
        return 0

    cdef object default_or_raise(self, object default):
        if default is RAISE:
            raise Empty(f"the {self.noun} {self.name!r} is empty")
        return default

    cdef list decodable(self, list raw, list damages):
        cdef list values = []
        for value in raw:
            try:
                values.append(self.decode(value))
            except Undecodable as error:
                damages.append(error)
        return values

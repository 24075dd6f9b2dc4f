# The Python interface of HashTable and BPlusTree.  mapping_operations.pxd has their operations.

from libc.stdint cimport uint32_t
from rnvm.frontend.structure cimport Structure, query_function


cdef class Mapping(Structure):
    # A kind of mapping sets these, and has `_each` and `_salvage`.
    cdef query_function find   # context: a lookup; OK or MISSING
    # answers with the item that popitem() would remove, its value included; OK or MISSING
    cdef query_function any_item
    cdef uint32_t salt         # of each pair
    # Of a mapping with partitions: this object is partition 0, and has the others.
    cdef uint32_t place        # number of this partition
    cdef readonly uint32_t partitions
    cdef tuple others          # partitions 1...; None: the mapping has none, or it is one of them
    # Returns the partition that a key belongs to.
    cdef Mapping partition_of(self, bytes key)
    cdef Mapping open_partition(self, uint32_t number, dict options)
    cdef object pop_item(self, object timeout)
    # Executes an operation on a pair.
    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1
    # Executes a POP_SAME, or another operation on a key that still has this value: OK, MISSING or
    # ANOTHER.
    cdef int change_same(self, uint32_t code, bytes key, bytes value, object timeout) except -1
    # Returns the value of a key as bytes, or None.
    cdef bytes fetch(self, bytes key, object timeout)
    # Returns the items that the last query answered, as bytes; None for a value that was left out.
    cdef list answered_items(self)
    # Returns such an item as an iteration yields it: the key, or (key, value); VANISHED if the
    # key was removed meanwhile.
    cdef object decoded(self, bytes key, bytes value, bint values)
    # Returns the readable ones of the items that the last query answered.
    cdef list salvaged(self, list items, list damages)

cdef object VANISHED
# The class of a mapping's kind: that of a user over it may be made in another way.
cdef object kind_class(Mapping mapping)

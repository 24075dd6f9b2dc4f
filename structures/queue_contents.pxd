# The part of Queue that changes nothing.

from structures.queue_operations cimport ticket
from structures.value_structure cimport ValueStructure


cdef class QueueContents(ValueStructure):
    cdef bytes token(self, const ticket *t)
    # Returns the ticket of a token of this queue.
    cdef ticket ticket_of(self, object token) except *

# The operations and queries of a hash table.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.mapping_operations cimport OWN_CODES

cdef enum:
    # an operation without bytes: the split that had no room in the operation that required it
    GROW = OWN_CODES

# Position in the order of bit-reversed hashes, in which each bucket is one interval.
cdef struct cursor:
    uint64_t next
    uint64_t then              # the same for the next step
    bint values                # answer with values

cdef int hash_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Context: a lookup.
cdef int hash_find(instance *s, void *context) noexcept nogil
# Answers with the item that a POP_ITEM would remove.
cdef int hash_find_any(instance *s, void *context) noexcept nogil
# Answers with the items of a bucket from the cursor on; MISSING: the table is empty.
cdef int read_bucket(instance *s, void *context) noexcept nogil

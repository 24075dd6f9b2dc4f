# The common part of HashTable and BPlusTree: the operations of a mapping, and its Python interface.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from rfp.core.core cimport rfp_hash
from rnvm.frontend.structure cimport Structure, query_function
from structures.layout cimport KEY_MAX, KEY_OF, VALUE_MAX, VALUE_OF

cdef enum:                     # operations; the bytes of all but POP_ITEM and CLEAR are a pair
    SET = 1
    SET_DEFAULT = 2
    DELETE = 3
    POP = 4
    POP_ITEM = 5               # nothing, or whether the last one is meant
    CLEAR = 6                  # nothing
    POP_SAME = 7               # key and digest: POP of a key whose value has this digest

cdef enum:                     # answers
    MISSING = 1
    FOUND = 2                  # of SET_DEFAULT: the key existed; its value follows
    MORE = 3                   # call again: CLEAR and POP_ITEM stop when the log is full
    ANOTHER = 4                # of POP_SAME: the key has another value

cdef struct pair:
    const char *key
    const char *value
    uint32_t key_length
    uint32_t value_length
    uint32_t salt

cdef struct pair_header:       # then the key, then the value
    uint32_t sizes
    uint32_t salt              # a random number that the operation may need

cdef struct told:              # an item that a step of an iteration answers; then key, value
    uint32_t sizes
    # of the value that follow: it is left out if not requested, or if it is in a node of its own
    uint32_t bytes

cdef struct lookup:            # the argument of `find`
    const char *key
    uint32_t length
    bint answer                # answer with the value, not only whether there is one


cdef struct digest:            # of a value
    uint64_t hash
    uint64_t length

cdef enum:
    GUARANTEED_BYTES = 256     # bytes of a value that every pool accepts

cdef inline void digest_of(const char *bytes, uint64_t length, digest *d) noexcept nogil:
    d.hash = rfp_hash(bytes, length, 0)
    d.length = length

cdef inline bint digest_is(const pair *p, const char *bytes, uint64_t length) noexcept nogil:
    """Return whether this is the value that a POP_SAME means."""
    cdef digest d
    digest_of(bytes, length, &d)
    return p.value_length == sizeof(d) and memcmp(p.value, &d, sizeof(d)) == 0

cdef inline uint32_t pair_of(const char *bytes, uint32_t length, pair *p) noexcept nogil:
    """Parse the first pair of these bytes; return how many bytes it has, or 0: not a pair."""
    cdef pair_header header
    if length < sizeof(header):
        return 0
    memcpy(&header, bytes, sizeof(header))
    p.salt = header.salt
    p.key_length = KEY_OF(header.sizes)
    p.value_length = VALUE_OF(header.sizes)
    p.key = bytes + sizeof(header)
    p.value = p.key + p.key_length
    if not 1 <= p.key_length <= KEY_MAX or p.value_length > VALUE_MAX:
        return 0
    if p.key_length + p.value_length > length - sizeof(header):
        return 0
    return sizeof(header) + p.key_length + p.value_length


cdef class Mapping(Structure):
    cdef query_function find   # context: a lookup; OK or MISSING
    # answers with the item that popitem() would remove, as `told` with its value; OK or MISSING
    cdef query_function any_item
    cdef uint32_t salt
    cdef bytes raw_key(self, object key)
    cdef bytes key_or_none(self, object key)
    cdef bytes raw_value(self, object value)
    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1
    cdef int take_same(self, bytes key, bytes value, object timeout) except -1
    cdef bytes fetch(self, bytes key, object timeout)
    cdef list items_told(self)
    cdef list salvaged(self, list items, list damages)

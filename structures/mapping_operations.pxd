# The operations of every mapping: their codes, bytes, answers and arguments of queries.
#
#   pair:   sizes (4) | salt (4) | key | value         the bytes of all operations on a key
#   item:   sizes (4) | n (4) | key | value            an answer: n bytes of the value, or none

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from rfp.core.core cimport rfp_hash
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport ALIEN, OK, answer_put
from structures.layout cimport KEY_MAX, KEY_OF, VALUE_MAX, VALUE_OF
from structures.values cimport stored_value

cdef enum:                     # operations; the bytes are a pair, unless nothing
    SET = 1
    SET_DEFAULT = 2
    DELETE = 3
    POP = 4
    POP_ITEM = 5               # nothing
    CLEAR = 6                  # nothing
    POP_SAME = 7               # key and digest: POP of a key whose value has this digest
    # of ordered mappings:
    POP_LAST = 8               # nothing: as POP_ITEM, which pops the lowest key
    POP_FIRST_SAME = 9         # key and digest: POP_SAME if it is the lowest key
    POP_LAST_SAME = 10         # the same for the highest key
    OWN_CODES = 16             # from here on: operations of one kind of mapping

cdef enum:                     # answers
    MISSING = 1
    FOUND = 2                  # of SET_DEFAULT: the key existed; its value follows
    MORE = 3                   # call again: CLEAR and POP_ITEM stop when the log is full
    ANOTHER = 4                # of POP_SAME: the key has another value, or is not at the end

cdef enum:
    CLEARED_BYTES_MAX = 65536  # that one clear() changes, while other front-ends wait

cdef struct pair:
    const char *key
    const char *value
    uint32_t key_length
    uint32_t value_length
    uint32_t salt

cdef struct pair_header:       # then the key, then the value
    uint32_t sizes
    uint32_t salt              # a random number that the operation may need

cdef struct item_header:       # then the key, then the value
    uint32_t sizes
    # of the value that follow: it is left out if not requested, or if it is in a node of its own
    uint32_t bytes

cdef struct lookup:            # the argument of `find`
    const char *key
    uint32_t length
    bint answer                # answer with the value, not only whether there is one


# Pairs

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


# Dispatch

ctypedef int (*put_function)(instance *s, const pair *p, bint keep) noexcept nogil
ctypedef int (*remove_function)(instance *s, const pair *p, uint32_t code) noexcept nogil
ctypedef int (*whole_function)(instance *s) noexcept nogil
# Pops the item with the lowest key, or the highest one, and answers with it.  same: that of a
# POP_SAME, if it is this item, else ANOTHER; without an answer.
ctypedef int (*pop_function)(instance *s, bint last, const pair *same) noexcept nogil

cdef inline int mapping_apply(instance *s, uint32_t code, const char *bytes, uint32_t length,
                              put_function put, remove_function remove, whole_function pop_item,
                              whole_function clear) noexcept nogil:
    """Execute the operations of every mapping by these functions; ALIEN: it is none of them."""
    cdef pair p
    memset(&p, 0, sizeof(p))
    if code == POP_ITEM and length == 0 and pop_item != NULL:
        return pop_item(s)
    if code == CLEAR and length == 0:
        return clear(s)
    if pair_of(bytes, length, &p) == length:
        if code == SET or code == SET_DEFAULT:
            return put(s, &p, code == SET_DEFAULT)
        if code == DELETE or code == POP or code == POP_SAME:
            return remove(s, &p, code)
    return ALIEN


# Digests of values

cdef struct digest:
    uint64_t hash
    uint64_t length

cdef inline void digest_of(const char *bytes, uint64_t length, digest *d) noexcept nogil:
    d.hash = rfp_hash(bytes, length, 0)
    d.length = length

cdef inline bint digest_is(const pair *p, const char *bytes, uint64_t length) noexcept nogil:
    """Return whether this is the value that a POP_SAME means."""
    cdef digest d
    digest_of(bytes, length, &d)
    return p.value_length == sizeof(d) and memcmp(p.value, &d, sizeof(d)) == 0

cdef inline bint item_is(const pair *p, const char *key, uint32_t key_length, const char *bytes,
                         uint64_t length) noexcept nogil:
    """Return whether this is the item that a POP_SAME means."""
    return p.key_length == key_length and memcmp(p.key, key, key_length) == 0 \
        and digest_is(p, bytes, length)


# Answers

cdef inline int answer_removed(instance *s, const pair *p, uint32_t code, const char *value,
                               uint32_t length) noexcept nogil:
    """Answer a POP with the value to remove; a POP_SAME of another value: ANOTHER."""
    if code == POP_SAME and not digest_is(p, value, length):
        return ANOTHER
    return answer_put(s, value, length) if code == POP else OK

cdef inline int answer_entry(instance *s, uint32_t sizes, const char *key,
                             const char *value) noexcept nogil:
    """Answer with an item.  value: NULL to leave it out."""
    cdef item_header header
    header.sizes = sizes
    header.bytes = 0 if value == NULL else VALUE_OF(sizes)
    if answer_put(s, &header, sizeof(header)) != OK or answer_put(s, key, KEY_OF(sizes)) != OK:
        return s.error
    return answer_put(s, value, header.bytes) if header.bytes else OK

cdef inline int answer_stored(instance *s, uint32_t sizes, const char *key, const char *payload,
                              uint32_t inline_max, bint value, bint outside) noexcept nogil:
    """Answer with an item that an entry stores (values.pxd).

    value: with its value; outside: even if it has a node of its own.
    """
    cdef const char *bytes = NULL
    if value and (outside or VALUE_OF(sizes) <= inline_max):
        if stored_value(s, payload, VALUE_OF(sizes), inline_max, &bytes) != OK:
            return s.error
    return answer_entry(s, sizes, key, bytes)

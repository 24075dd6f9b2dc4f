# The operations and queries of every ordered mapping.  ordered_mapping.pxd has their Python
# interface, and explains how to write a kind of ordered mapping.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memset
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport ALIEN, OK
from structures.mapping_operations cimport (
    OWN_CODES, POP_FIRST_SAME, POP_ITEM, POP_LAST, POP_LAST_SAME, mapping_apply, pair, pair_of,
    pop_function, put_function, remove_function, whole_function,
)

cdef enum:
    LOAD = OWN_CODES           # any number of pairs: all of them are set, or none
    OWN_ORDERED_CODES = OWN_CODES + 1  # from here on: operations of one kind of ordered mapping

cdef struct bound:
    const char *key            # NULL: none
    uint32_t length

cdef struct stretch:           # the rest of a range that is still to be answered
    bound low                  # not below it
    bound high                 # below it
    bint after                 # above low, not low itself; not if reverse
    bint reverse
    bint values
    bint salvaging             # damage was found: find ways around nodes that cannot be read
    uint32_t most              # items

cdef struct tally:             # the rest of a range that is still to be counted
    bound low                  # not below it
    bound high                 # below it
    bint after                 # above low, not low itself
    uint64_t count             # of the keys that this step counted


# Bounds

cdef inline int key_against(const char *key, uint32_t length, const bound *b) noexcept nogil:
    """Compare a key with a bound that is not NULL."""
    cdef int order = memcmp(key, b.key, min(length, b.length))
    return order if order else <int> (length > b.length) - <int> (length < b.length)

cdef inline bint below_low(const bound *low, bint after, const char *key,
                           uint32_t length) noexcept nogil:
    """Return whether a key is below the range, or is `low` itself and must be above it."""
    cdef int order
    if low.key == NULL:
        return False
    order = key_against(key, length, low)
    return order < 0 or (order == 0 and after)

cdef inline bint at_high(const bound *high, const char *key, uint32_t length) noexcept nogil:
    """Return whether a key is at the end of the range or above it."""
    return high.key != NULL and key_against(key, length, high) >= 0


# Apply

cdef inline int load_pairs(instance *s, const char *bytes, uint32_t length,
                           put_function put) noexcept nogil:
    cdef pair p
    cdef uint32_t taken, at = 0
    cdef int outcome = ALIEN
    memset(&p, 0, sizeof(p))
    while at < length:
        taken = pair_of(bytes + at, length - at, &p)
        if not taken:
            return ALIEN
        outcome = put(s, &p, False)
        if outcome != OK:
            return outcome
        at += taken
    return outcome

cdef inline int ordered_apply(instance *s, uint32_t code, const char *bytes, uint32_t length,
                              put_function put, remove_function remove, pop_function pop,
                              whole_function clear) noexcept nogil:
    """Execute the operations of every ordered mapping; ALIEN: it is none of them."""
    cdef pair p
    if code == LOAD:
        return load_pairs(s, bytes, length, put)
    if (code == POP_ITEM or code == POP_LAST) and length == 0:
        return pop(s, code == POP_LAST, NULL)
    if code == POP_FIRST_SAME or code == POP_LAST_SAME:
        memset(&p, 0, sizeof(p))
        return pop(s, code == POP_LAST_SAME, &p) if pair_of(bytes, length, &p) == length else ALIEN
    return mapping_apply(s, code, bytes, length, put, remove, NULL, clear)

# Values in nodes of their own: values that are too long to be inside an entry of another node.
# The length of a value is in the entry that has its address.

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, node_change, node_free, node_new, node_read
from structures.layout cimport TYPE_VALUE, UP8, VALUE_NODE, value_node


cdef inline uint64_t value_new(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    """Return the address of a new node with these bytes, or 0."""
    cdef uint64_t address = 0
    cdef value_node *node = <value_node *> node_new(s, VALUE_NODE(length), TYPE_VALUE, &address)
    if node == NULL:
        return 0
    memcpy(node.bytes, bytes, length)
    return address


cdef inline const char *value_bytes(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    cdef const value_node *node = <const value_node *> node_read(s, address, VALUE_NODE(length),
                                                                 TYPE_VALUE)
    if node == NULL:
        return NULL
    return node.bytes


cdef inline int value_free(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    return node_free(s, address, VALUE_NODE(length))


# In entries: the value, or the address of its node if it is longer than inline_max.

cdef inline uint64_t stored_node(const char *payload, uint32_t length,
                                 uint32_t inline_max) noexcept nogil:
    """Return the address of the node of a value that an entry stores, or 0: it is in the entry.

    payload: the value, or that address if the value is longer than inline_max.
    """
    cdef uint64_t address = 0
    if length > inline_max:
        memcpy(&address, payload, 8)
    return address


cdef inline int stored_value(instance *s, const char *payload, uint32_t length,
                             uint32_t inline_max, const char **bytes) noexcept nogil:
    """Point `bytes` to a value that an entry stores."""
    bytes[0] = payload
    if length > inline_max:
        bytes[0] = value_bytes(s, stored_node(payload, length, inline_max), length)
    return s.error if bytes[0] == NULL else OK


cdef inline int stored_answer(instance *s, const char *payload, uint32_t length,
                              uint32_t inline_max) noexcept nogil:
    """Answer with a value that an entry stores."""
    cdef const char *bytes = NULL
    if stored_value(s, payload, length, inline_max, &bytes) != OK:
        return s.error
    return answer_put(s, bytes, length)


cdef inline int stored_free(instance *s, const char *payload, uint32_t length,
                            uint32_t inline_max) noexcept nogil:
    """In apply: free the node of a value that an entry stores, if it has one."""
    if length <= inline_max:
        return OK
    return value_free(s, stored_node(payload, length, inline_max), length)


cdef inline bint value_fits(uint32_t old, uint32_t length) noexcept nogil:
    """Return whether the node of a value of the old length takes one of this length."""
    return UP8(old) == UP8(length)


cdef inline int value_change(instance *s, uint64_t address, uint32_t at, const char *bytes,
                             uint32_t n) noexcept nogil:
    """In apply: overwrite a value's bytes from `at` to its end, at + n."""
    cdef uint32_t length = at + n
    cdef value_node *node = <value_node *> node_change(s, address, VALUE_NODE(length), TYPE_VALUE,
                                                       RNVM_NODE, UP8(length))
    if node == NULL:
        return s.error
    memset(<char *> node.bytes + length, 0, UP8(length) - length)
    memcpy(<char *> node.bytes + at, bytes, n)
    return OK


# Lists of values: each has its length in 4 bytes before it.

cdef inline list values_in(bytes listed):
    """Return the values of such a list: a step of an iteration."""
    cdef list values = []
    cdef uint32_t length
    cdef Py_ssize_t at = 0
    while at < len(listed):
        memcpy(&length, PyBytes_AS_STRING(listed) + at, 4)
        values.append(listed[at + 4:at + 4 + length])
        at += 4 + length
    return values

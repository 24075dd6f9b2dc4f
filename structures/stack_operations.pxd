# The operations and queries of a stack.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from structures.mapping_operations cimport digest

cdef enum:                     # operations, and their bytes
    PUSH = 1                   # the value
    POP_TOP = 2                # nothing, or a top_value: the value that is expected on top
    PUSH_MANY = 3              # values, each with its length in 4 bytes before it: all, or none
    CLEAR_TOP = 4              # nothing

cdef enum:                     # answers
    NO_VALUE = 1                  # there is no value
    CHANGED = 2                # of POP_TOP: another value is on top
    REMAINING = 3              # of CLEAR_TOP: call again, the log was full

cdef struct top_value:
    uint64_t count             # of the values, itself included
    digest content

cdef struct descent:           # of an iteration, from the top
    uint64_t next              # the values below this number are still to be answered
    uint64_t then              # the same for the next step
    bint salvaging             # damage was found: find ways around layers that cannot be read

cdef int stack_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# Context: the count (uint64_t), which it sets.
cdef int stack_count(instance *s, void *context) noexcept nogil
# Answers with the value on top, and sets a top_value; NO_VALUE: there is none.
cdef int read_top(instance *s, void *context) noexcept nogil
# Context: a descent.  Answers with the next values, each with its length in 4 bytes before it.
# After an error `then` is below `next` if only one value cannot be read.
cdef int read_layers(instance *s, void *context) noexcept nogil
# The same context, after read_layers has found a damaged layer.  Sets `then` to continue below it;
# NO_VALUE: nothing below can be reached.
cdef int pass_layer(instance *s, void *context) noexcept nogil

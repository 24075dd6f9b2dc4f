# The layers of a stack: segments of entries, each on top of the one that was filled before.
#
#   root.top --> +--------+-----+-----+------+
#   depth 2      | header | e17 | e18 | room |       end: push(); pop() takes e18
#                +--------+-----+-----+------+
#     below, jump --> +--------+-----+- ... -+-----+
#     depth 1         | header | e8  |       | e16 |
#                     +--------+-----+- ... -+-----+
#       below, jump --> +--------+----+- ... -+----+
#       depth 0         | header | e0 |       | e7 |
#                       +--------+----+- ... -+----+
#
#   entry:  value, or the address of its node | length (4) | low half of its number (4)
#
# Only the top layer may be empty: it is freed by the pop that takes an entry from the layer below
# it, so that values pushed and popped in turn at the border of a layer allocate nothing.  An
# iteration continues with the number of an entry, which the jumps find in O(log layers).

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport root_read
from structures.layout cimport stack_layer, stack_root

cdef struct item:              # an entry
    const char *payload
    uint64_t value             # the node of the value, or 0: it is inside
    uint32_t length            # of the value
    uint32_t begin             # offset of the entry


cdef inline const stack_root *root_of(instance *s) noexcept nogil:
    return <const stack_root *> root_read(s)


cdef const stack_layer *layer_read(instance *s, uint64_t address) noexcept nogil
# The layer below this one, which must continue its numbers; or the one that its jump leads to.
cdef const stack_layer *layer_below(instance *s, const stack_layer *layer) noexcept nogil
cdef const stack_layer *layer_under(instance *s, const stack_layer *layer) noexcept nogil
# Reads the entry of a layer, with this number, that ends at this offset.
cdef int item_before(instance *s, const stack_layer *layer, uint32_t end, uint64_t number,
                     item *e) noexcept nogil
# Points `bytes` to the value of an entry.
cdef int item_value(instance *s, const item *e, const char **bytes) noexcept nogil
# Returns a layer through which this entry can be reached, past the layer below, which cannot be
# read; NULL: none.  Raises `best` to the end of a layer below the entry that was found instead.
cdef const stack_layer *layer_around(instance *s, const stack_layer *layer, uint64_t number,
                                     uint64_t *best) noexcept nogil
# The same, past the top layer, which cannot be read.
cdef const stack_layer *layer_around_top(instance *s, const stack_root *root, uint64_t number,
                                         uint64_t *best) noexcept nogil
# Finds the layer that has the entry with this number.  around: also past layers that cannot be
# read.
cdef int layer_find(instance *s, const stack_root *root, uint64_t number, bint around,
                    const stack_layer **layer) noexcept nogil
# Finds the layer and the entry on top; NO_VALUE: there is none.
cdef int layers_top(instance *s, const stack_root *root, const stack_layer **layer,
                    item *e) noexcept nogil
# In apply: puts a value on top.
cdef int layers_push(instance *s, const char *bytes, uint32_t length) noexcept nogil
# In apply: removes the entry that layers_top() found.
cdef int layers_pop(instance *s, const stack_layer *layer, const item *e) noexcept nogil

"""Read, push and pop the entries of a stack's layers."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    OK, fault, node_change, node_free, node_glimpse, node_new, node_read, root_change,
)
from structures.layout cimport (
    LAYER_BYTES, LAYER_ENTRY, LAYER_FIRST, STACK_INLINE, TYPE_LAYER, VALUE_MAX, layer_jump,
    stack_entry, stack_layer, stack_root,
)
from structures.stack_operations cimport NO_VALUE
from structures.values cimport stored_node, stored_value, value_free, value_new


cdef const char *UNREADABLE = b"a layer of the stack cannot be read"


# Reading


cdef const stack_layer *layer_read(instance *s, uint64_t address) noexcept nogil:
    cdef const stack_layer *layer = <const stack_layer *> node_read(s, address, LAYER_BYTES,
                                                                    TYPE_LAYER)
    if layer == NULL:
        return NULL
    if (not LAYER_FIRST <= layer.end <= LAYER_BYTES or layer.end & 7
            or (layer.count == 0) != (layer.end == LAYER_FIRST)
            or (layer.depth == 0) != (layer.below == 0) or (layer.depth == 0) != (layer.jump == 0)
            or (layer.depth == 0) != (layer.first == 0)):
        s.error = fault(s, address, b"a layer of the stack is inconsistent")
        return NULL
    return layer


cdef const stack_layer *layer_below(instance *s, const stack_layer *layer) noexcept nogil:
    cdef const stack_layer *next = layer_read(s, layer.below)
    if next == NULL:
        return NULL
    if (not next.count or next.first + next.count != layer.first
            or next.depth != layer.depth - 1):
        s.error = fault(s, layer.below, b"a layer of the stack does not continue the one below it")
        return NULL
    return next


cdef const stack_layer *layer_under(instance *s, const stack_layer *layer) noexcept nogil:
    cdef const stack_layer *next = layer_read(s, layer.jump)
    if next == NULL:
        return NULL
    if (not next.count or next.first >= layer.first or next.depth != layer_jump(layer.depth)
            or next.first + next.count > layer.first):
        s.error = fault(s, layer.jump, b"a layer of the stack leads to a wrong one")
        return NULL
    return next


cdef int item_before(instance *s, const stack_layer *layer, uint32_t end, uint64_t number,
                     item *e) noexcept nogil:
    cdef stack_entry entry
    if not LAYER_FIRST + sizeof(entry) <= end <= layer.end:
        return fault(s, layer.node.address, b"an entry extends beyond its layer")
    memcpy(&entry, <const char *> layer + end - sizeof(entry), sizeof(entry))
    if entry.length > VALUE_MAX or LAYER_ENTRY(entry.length) > end - LAYER_FIRST:
        return fault(s, layer.node.address, b"an entry extends beyond its layer")
    if entry.number != <uint32_t> number:
        return fault(s, layer.node.address, b"an entry of the stack has a wrong number")
    e.length = entry.length
    e.begin = end - LAYER_ENTRY(entry.length)
    e.payload = <const char *> layer + e.begin
    e.value = stored_node(e.payload, e.length, STACK_INLINE)
    return OK


cdef int item_value(instance *s, const item *e, const char **bytes) noexcept nogil:
    return stored_value(s, e.payload, e.length, STACK_INLINE, bytes)


cdef const stack_layer *layer_around(instance *s, const stack_layer *layer, uint64_t number,
                                     uint64_t *best) noexcept nogil:
    cdef const stack_layer *found = NULL
    cdef const stack_layer *next
    cdef stack_layer there
    cdef uint64_t end
    cdef int i
    s.error = OK
    if not layer.depth or node_glimpse(s, layer.below, &there, sizeof(there)) != OK:
        return NULL
    for i in range(2):
        next = layer_read(s, there.jump if i else there.below)
        if next == NULL or not next.count or next.first >= layer.first:
            continue
        end = next.first + next.count
        if end <= number:
            best[0] = max(best[0], end)
        elif found == NULL or next.first < found.first:
            found = next
    s.error = OK
    return found


cdef const stack_layer *layer_around_top(instance *s, const stack_root *root, uint64_t number,
                                         uint64_t *best) noexcept nogil:
    # As if a layer without entries were on top of it.
    cdef stack_layer above
    above.below = root.top
    above.first = root.count
    above.depth = 1
    return layer_around(s, &above, number, best)


cdef int layer_find(instance *s, const stack_root *root, uint64_t number, bint around,
                    const stack_layer **layer) noexcept nogil:
    cdef const stack_layer *at = layer_read(s, root.top)
    cdef const stack_layer *next = at
    cdef const char *damage
    cdef uint64_t best = 0
    if at == NULL and around:
        at = next = layer_around_top(s, root, number, &best)
        if at == NULL:
            return fault(s, root.top, UNREADABLE)
    while at != NULL and number < at.first:
        next = layer_under(s, at)
        if next == NULL and not around:
            break
        if next == NULL or number >= next.first + next.count:
            s.error = OK
            next = layer_below(s, at)
            if next == NULL and around:
                damage = s.fault
                next = layer_around(s, at, number, &best)
                if next == NULL:
                    return fault(s, at.below, damage if damage != NULL else UNREADABLE)
        at = next
    if at == NULL or next == NULL:
        return s.error
    if number - at.first >= at.count:
        return fault(s, root.top, b"the stack's count does not match its layers")
    layer[0] = at
    return OK


cdef int layers_top(instance *s, const stack_root *root, const stack_layer **layer,
                    item *e) noexcept nogil:
    cdef const stack_layer *top
    if not root.top:
        return NO_VALUE
    top = layer_read(s, root.top)
    if top == NULL:
        return s.error
    if top.first + top.count != root.count:
        return fault(s, root.top, b"the stack's count does not match its layers")
    if not root.count:
        return NO_VALUE
    if not top.count:
        top = layer_below(s, top)
        if top == NULL:
            return s.error
    layer[0] = top
    return item_before(s, top, top.end, root.count - 1, e)


# Changing


cdef inline stack_root *change_root(instance *s) noexcept nogil:
    return <stack_root *> root_change(s, RNVM_NODE, sizeof(stack_root) - RNVM_NODE)


cdef int add_layer(instance *s, stack_root *root) noexcept nogil:
    """Put an empty layer on top."""
    cdef const stack_layer *below = NULL
    cdef const stack_layer *under
    cdef stack_layer *layer
    cdef uint64_t address = 0, jump = 0
    cdef uint32_t depth = 0
    if root.top:
        below = layer_read(s, root.top)
        if below == NULL:
            return s.error
        depth = below.depth + 1
        jump = root.top
        if layer_jump(depth) != below.depth:
            under = layer_under(s, below)
            if under == NULL:
                return s.error
            jump = under.jump
    layer = <stack_layer *> node_new(s, LAYER_BYTES, TYPE_LAYER, &address)
    if layer == NULL:
        return s.error
    layer.below = root.top
    layer.jump = jump
    layer.first = root.count
    layer.depth = depth
    layer.end = LAYER_FIRST
    root.top = address
    return OK


cdef int layers_push(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef stack_root *root = change_root(s)
    cdef const stack_layer *top = NULL
    cdef stack_layer *layer
    cdef stack_entry entry
    cdef uint64_t value = 0
    cdef uint32_t size = LAYER_ENTRY(length), at
    entry.length = length
    if root == NULL:
        return s.error
    if root.top:
        top = layer_read(s, root.top)
        if top == NULL:
            return s.error
        if top.first + top.count != root.count:
            return fault(s, root.top, b"the stack's count does not match its layers")
    if top == NULL or size > LAYER_BYTES - top.end:
        if add_layer(s, root) != OK:
            return s.error
        top = layer_read(s, root.top)
        if top == NULL:
            return s.error
    if length > STACK_INLINE:
        value = value_new(s, bytes, length)
        if not value:
            return s.error
        bytes = <const char *> &value
        length = 8
    at = top.end
    entry.number = <uint32_t> root.count
    layer = <stack_layer *> node_change(s, root.top, LAYER_BYTES, TYPE_LAYER, at, size)
    if layer == NULL or node_change(s, root.top, LAYER_BYTES, TYPE_LAYER, RNVM_NODE + 28,
                                    4) == NULL:
        return s.error
    memcpy(<char *> layer + at, bytes, length)
    memcpy(<char *> layer + at + size - sizeof(entry), &entry, sizeof(entry))
    layer.count += 1
    layer.end = at + size
    root.count += 1
    return OK


cdef int layers_pop(instance *s, const stack_layer *layer, const item *e) noexcept nogil:
    cdef stack_root *root = change_root(s)
    cdef stack_layer *changed
    cdef uint64_t address = layer.node.address
    if root == NULL:
        return s.error
    if e.value and value_free(s, e.value, e.length) != OK:
        return s.error
    if address != root.top:
        if node_free(s, root.top, LAYER_BYTES) != OK:
            return s.error
        root.top = address
    changed = <stack_layer *> node_change(s, address, LAYER_BYTES, TYPE_LAYER, RNVM_NODE + 28, 4)
    if changed == NULL:
        return s.error
    changed.count -= 1
    changed.end = e.begin
    root.count -= 1
    return OK

"""Push, pop and clear: the operations of a stack; count, peek and iterate: its queries."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport (
    ALIEN, OK, answer_put, fault, node_change, node_cost, node_free, pool_bytes, record_room,
    root_change,
)
from structures.layout cimport (
    LAYER_BYTES, TYPE_LAYER, VALUE_MAX, VALUE_NODE, stack_entry, stack_layer,
    stack_root,
)
from structures.mapping_operations cimport CLEARED_BYTES_MAX, digest_of
from structures.stack_layers cimport (
    item, item_before, item_value, layer_around, layer_around_top, layer_below, layer_find,
    layer_read, layer_under, layers_pop, layers_push, layers_top, root_of,
)
from structures.values cimport value_free

cdef enum:
    # Maximum bytes that a clear() changes beside freed nodes: the root, and a layer's header.
    STACK_STEP_BYTES = 500
    STACK_DROP_BYTES = 64      # a node that is freed, without its space
    ANSWER_BYTES = 65536       # after which a step of an iteration ends


# Operations


cdef int push_many(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef uint32_t at = 0, n
    if not length:
        return ALIEN
    while at < length:
        if length - at < 4:
            return ALIEN
        memcpy(&n, bytes + at, 4)
        at += 4
        if n > VALUE_MAX or n > length - at:
            return ALIEN
        if layers_push(s, bytes + at, n) != OK:
            return s.error
        at += n
    return OK


cdef int pop(instance *s, const char *bytes, uint32_t length) noexcept nogil:
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *layer = NULL
    cdef const char *value = NULL
    cdef top_value expected, there
    cdef item e
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = layers_top(s, root, &layer, &e)
    if outcome != OK:
        return outcome
    if item_value(s, &e, &value) != OK:
        return s.error
    if length:
        memcpy(&expected, bytes, sizeof(expected))
        there.count = root.count
        digest_of(value, e.length, &there.content)
        if memcmp(&expected, &there, sizeof(there)) != 0:
            return CHANGED
    elif answer_put(s, value, e.length) != OK:
        return s.error
    return layers_pop(s, layer, &e)


cdef int clear_layer(instance *s, const stack_layer *layer, uint64_t *spent,
                     uint64_t most) noexcept nogil:
    """Free the values in nodes of their own, from the end; return OK, or REMAINING: no room."""
    cdef uint64_t cost, number = layer.first + layer.count
    cdef uint32_t end = layer.end, kept = layer.count
    cdef bint full = False
    cdef stack_layer *changed
    cdef stack_root *root
    cdef item e
    while kept:
        if item_before(s, layer, end, number - 1, &e) != OK:
            return s.error
        if e.value:
            cost = STACK_DROP_BYTES + node_cost(s, VALUE_NODE(e.length))
            full = spent[0] > STACK_STEP_BYTES and spent[0] + cost > most
            if full:
                break
            spent[0] += cost
            if value_free(s, e.value, e.length) != OK:
                return s.error
        end = e.begin
        number -= 1
        kept -= 1
    if not full:
        return OK
    changed = <stack_layer *> node_change(s, layer.node.address, LAYER_BYTES, TYPE_LAYER,
                                          RNVM_NODE + 28, 4)
    root = <stack_root *> root_change(s, RNVM_NODE, 16)
    if changed == NULL or root == NULL:
        return s.error
    changed.count = kept
    changed.end = end
    root.count = number
    return REMAINING


cdef int clear(instance *s) noexcept nogil:
    """Free the layers from the top, with their values, while the log has room."""
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *layer
    cdef stack_root *changed
    cdef uint64_t spent = STACK_STEP_BYTES, most = min(record_room(s), <uint64_t> CLEARED_BYTES_MAX)
    cdef uint64_t cost = STACK_DROP_BYTES + node_cost(s, LAYER_BYTES), address, below, first
    cdef int outcome
    if root == NULL:
        return s.error
    if root.top:
        layer = layer_read(s, root.top)
        if layer == NULL:
            return s.error
        if layer.first + layer.count != root.count:
            return fault(s, root.top, b"the stack's count does not match its layers")
    while root.top:
        address = root.top
        layer = layer_read(s, address)
        if layer == NULL or layer.depth and layer_below(s, layer) == NULL:
            return s.error
        if spent > STACK_STEP_BYTES and spent + cost > most:
            return REMAINING
        outcome = clear_layer(s, layer, &spent, most - min(most, cost))
        if outcome != OK:
            return outcome
        spent += cost
        below = layer.below
        first = layer.first
        if node_free(s, address, LAYER_BYTES) != OK:
            return s.error
        changed = <stack_root *> root_change(s, RNVM_NODE, 16)
        if changed == NULL:
            return s.error
        changed.top = below
        changed.count = first
        root = changed
    return OK


cdef int stack_apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    if code == PUSH and length <= VALUE_MAX:
        return layers_push(s, bytes, length)
    if code == POP_TOP and (length == 0 or length == sizeof(top_value)):
        return pop(s, bytes, length)
    if code == PUSH_MANY:
        return push_many(s, bytes, length)
    if code == CLEAR_TOP and length == 0:
        return clear(s)
    return ALIEN


# Queries


cdef int stack_count(instance *s, void *context) noexcept nogil:
    cdef const stack_root *root = root_of(s)
    if root == NULL:
        return s.error
    (<uint64_t *> context)[0] = root.count
    # list() allocates room for this many values before it has seen one.
    if root.count > pool_bytes(s) // sizeof(stack_entry):
        return fault(s, s.root, b"the count of values exceeds the pool's capacity")
    return OK


cdef int read_top(instance *s, void *context) noexcept nogil:
    cdef top_value *top = <top_value *> context
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *layer = NULL
    cdef const char *value = NULL
    cdef item e
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = layers_top(s, root, &layer, &e)
    if outcome != OK:
        return outcome
    if item_value(s, &e, &value) != OK:
        return s.error
    top.count = root.count
    digest_of(value, e.length, &top.content)
    return answer_put(s, value, e.length)


cdef int read_layers(instance *s, void *context) noexcept nogil:
    cdef descent *c = <descent *> context
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *layer = NULL
    cdef const char *value = NULL
    cdef uint64_t number, above, answered = 0
    cdef uint32_t end
    cdef item e
    c.then = c.next
    if root == NULL:
        return s.error
    number = min(c.next, root.count)
    if not number or not root.top:
        return NO_VALUE
    if layer_find(s, root, number - 1, c.salvaging, &layer) != OK:
        return s.error
    end = layer.end
    above = layer.first + layer.count
    while above > number:
        if item_before(s, layer, end, above - 1, &e) != OK:
            return s.error
        end = e.begin
        above -= 1
    while number and answered < ANSWER_BYTES:
        if number == layer.first:
            layer = layer_below(s, layer)
            if layer == NULL:
                return s.error
            end = layer.end
        if item_before(s, layer, end, number - 1, &e) != OK:
            return s.error
        end = e.begin
        number -= 1
        c.then = number                    # where to continue if this value cannot be read
        if item_value(s, &e, &value) != OK or answer_put(s, &e.length, 4) != OK:
            return s.error
        if answer_put(s, value, e.length) != OK:
            return s.error
        answered += 4 + e.length
    return OK


cdef int pass_layer(instance *s, void *context) noexcept nogil:
    cdef descent *c = <descent *> context
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *at
    cdef const stack_layer *next
    cdef uint64_t best = 0
    if root == NULL:
        return s.error
    at = layer_read(s, root.top)
    if at == NULL:
        at = layer_around_top(s, root, min(c.next, root.count) - 1, &best)
    while at != NULL:
        # The values of a layer at whose entries the last step ended are lost.
        if at.first < c.next:
            best = at.first
            break
        next = layer_under(s, at) if at.depth else NULL
        if next != NULL and c.next <= next.first + next.count:
            at = next
            continue
        if next != NULL:
            best = max(best, next.first + next.count)
        next = layer_below(s, at) if at.depth else NULL
        at = next if next != NULL else layer_around(s, at, c.next - 1, &best)
    s.error = OK
    s.fault = NULL
    c.then = best
    return OK if best and best < c.next else NO_VALUE

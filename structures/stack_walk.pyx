"""Walk a stack from its top layer down; check each layer, its entries and its jump."""

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, nodes_release, visitor
from structures.layout cimport (
    LAYER_BYTES, LAYER_FIRST, VALUE_NODE, layer_jump, stack_layer, stack_root,
)
from structures.stack_layers cimport item, item_before, item_value, layer_read, root_of

cdef enum:
    JUMPS_MAX = 64             # jumps never cross, and their lengths are 2^k - 1

cdef struct survey:
    uint64_t[JUMPS_MAX] targets    # of the jumps that the walk has not reached yet
    uint32_t[JUMPS_MAX] depths     # theirs, ascending to the end
    uint32_t jumps


cdef int check_jump(instance *s, uint64_t address, const stack_layer *layer,
                    survey *w) noexcept nogil:
    """Check that the jumps to this layer were to it, and note its own."""
    cdef uint32_t depth
    if w.jumps and w.depths[w.jumps - 1] == layer.depth:
        w.jumps -= 1
        if w.targets[w.jumps] != address:
            return fault(s, address, b"a jump of the stack does not lead to its layer")
    if not layer.depth:
        return OK
    depth = layer_jump(layer.depth)
    if w.jumps and w.depths[w.jumps - 1] == depth:
        if w.targets[w.jumps - 1] != layer.jump:
            return fault(s, address, b"a jump of the stack does not lead to its layer")
        return OK
    if w.jumps == JUMPS_MAX:
        return fault(s, address, b"the jumps of the stack cross")
    w.targets[w.jumps] = layer.jump
    w.depths[w.jumps] = depth
    w.jumps += 1
    return OK


cdef int walk_values(instance *s, uint64_t address, visitor visit, void *context) noexcept nogil:
    cdef const stack_layer *layer = layer_read(s, address)
    cdef const char *value
    cdef uint64_t number
    cdef uint32_t end, kept
    cdef item e
    cdef int outcome
    if layer == NULL:
        return s.error
    end = layer.end
    kept = layer.count
    number = layer.first + kept
    while kept:
        layer = layer_read(s, address)             # it may have been released
        if layer == NULL:
            return s.error
        kept -= 1
        number -= 1
        if item_before(s, layer, end, number, &e) != OK:
            return s.error
        end = e.begin
        if e.value:
            if item_value(s, &e, &value) != OK:
                return s.error
            outcome = visit(context, e.value, VALUE_NODE(e.length))
            if outcome != OK:
                return outcome
            nodes_release(s)
    if end != LAYER_FIRST:
        return fault(s, address, b"a layer of the stack has bytes that no entry uses")
    return OK


cdef int stack_walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const stack_root *root = root_of(s)
    cdef const stack_layer *layer
    cdef survey w
    cdef uint64_t address, next, expected
    cdef uint32_t depth = 0
    cdef bint top = True
    cdef int outcome
    if root == NULL:
        return s.error
    address = root.top
    expected = root.count
    if not address and expected:
        return fault(s, s.root, b"the stack's count does not match its layers")
    w.jumps = 0
    while address:
        layer = layer_read(s, address)
        if layer == NULL:
            return s.error
        if layer.first + layer.count != expected or not (top or layer.count):
            return fault(s, address, b"the stack's count does not match its layers")
        if not top and layer.depth != depth - 1:
            return fault(s, address, b"a layer of the stack has a wrong depth")
        outcome = check_jump(s, address, layer, &w)
        if outcome == OK:
            outcome = visit(context, address, LAYER_BYTES)
        if outcome != OK:
            return outcome
        top = False
        depth = layer.depth
        expected = layer.first
        next = layer.below
        outcome = walk_values(s, address, visit, context)
        if outcome != OK:
            return outcome
        nodes_release(s)
        address = next
    return OK

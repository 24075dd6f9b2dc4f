# Directories: arrays of addresses, which grow by levels.
#
#   top --> | 0 | 1 | ... | 499 |                    depth 0: top is the only element
#             |                                      depth d: DIRECTORY_FAN ** d elements
#             v
#           | 0 | 1 | ... | 499 |                    a node for each part that has elements
#             |
#             v
#           element

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, fault, node_change, node_new, node_read, visitor
from structures.layout cimport DIRECTORY_FAN, TYPE_DIRECTORY, directory_node

cdef enum:
    DEPTH_MAX = 4              # 62,500,000,000 elements


cdef inline uint64_t span_of(uint64_t fan, uint32_t depth) noexcept nogil:
    """Return how many elements a tree of this depth has whose nodes have `fan` children."""
    cdef uint64_t span = 1
    while depth:
        span *= fan
        depth -= 1
    return span


cdef inline uint64_t directory_get(instance *s, uint64_t top, uint32_t depth,
                                   uint64_t index) noexcept nogil:
    """Return the element, never 0; else 0, and s.error has the reason."""
    cdef const directory_node *node
    cdef uint64_t span
    if depth > DEPTH_MAX or index >= span_of(DIRECTORY_FAN, depth):
        s.error = fault(s, top, b"an index beyond the directory")
        return 0
    span = span_of(DIRECTORY_FAN, depth)
    while depth:
        node = <const directory_node *> node_read(s, top, sizeof(directory_node), TYPE_DIRECTORY)
        if node == NULL:
            return 0
        span = span // DIRECTORY_FAN
        top = node.children[index // span % DIRECTORY_FAN]
        depth -= 1
    if not top:
        s.error = fault(s, top, b"an element of the directory is missing")
    return top


cdef inline int directory_set(instance *s, uint64_t *top, uint32_t *depth, uint64_t index,
                              uint64_t element) noexcept nogil:
    """In apply.  Deepens the directory if necessary; top and depth are then the root's new ones."""
    cdef directory_node *node
    cdef uint64_t address, child, span
    cdef uint32_t level
    if depth[0] > DEPTH_MAX:
        return fault(s, top[0], b"the directory is too deep")
    span = span_of(DIRECTORY_FAN, depth[0])
    if index >= span:
        node = <directory_node *> node_new(s, sizeof(directory_node), TYPE_DIRECTORY, &address)
        if node == NULL:
            return s.error
        node.children[0] = top[0]
        top[0] = address
        depth[0] += 1
        span *= DIRECTORY_FAN
    if depth[0] == 0:
        top[0] = element
        return OK
    level = depth[0]
    address = top[0]
    while True:
        span = span // DIRECTORY_FAN
        child = index // span % DIRECTORY_FAN
        node = <directory_node *> node_read(s, address, sizeof(directory_node), TYPE_DIRECTORY)
        if node == NULL:
            return s.error
        level -= 1
        if level and node.children[child]:
            address = node.children[child]
            continue
        node = <directory_node *> node_change(s, address, sizeof(directory_node), TYPE_DIRECTORY,
                                              <uint32_t> (sizeof(node.node) + 8 * child), 8)
        if node == NULL:
            return s.error
        if not level:
            node.children[child] = element
            return OK
        if node_new(s, sizeof(directory_node), TYPE_DIRECTORY, &address) == NULL:
            return s.error
        node.children[child] = address


cdef inline int directory_walk(instance *s, uint64_t top, uint32_t depth, visitor visit,
                               void *context) noexcept nogil:
    """Visit the directory's own nodes."""
    cdef const directory_node *node
    cdef uint32_t child
    cdef int outcome
    if not depth:
        return OK
    outcome = visit(context, top, sizeof(directory_node))
    if outcome != OK or depth == 1:
        return outcome
    for child in range(DIRECTORY_FAN):
        node = <const directory_node *> node_read(s, top, sizeof(directory_node), TYPE_DIRECTORY)
        if node == NULL:
            return s.error
        if node.children[child]:
            outcome = directory_walk(s, node.children[child], depth - 1, visit, context)
            if outcome != OK:
                return outcome
    return OK

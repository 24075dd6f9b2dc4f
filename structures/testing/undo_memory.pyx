"""Plain memory for nodes, in which operations can be undone."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from rnvm.format.node cimport rnvm_node, rnvm_node_crc


cdef bint more(void **items, uint64_t *room, uint64_t count, uint64_t size) noexcept nogil:
    """Make room for one more."""
    cdef void *grown
    if count < room[0]:
        return True
    grown = realloc(items[0], (room[0] * 2 + 64) * size)
    if grown == NULL:
        return False
    items[0] = grown
    room[0] = room[0] * 2 + 64
    return True


cdef cell *find(arena *a, uint64_t address) noexcept nogil:
    """Return the node at an address; NULL: none was ever there."""
    cdef uint64_t number
    if address >> 48 != 1 or address % UNIT:
        return NULL
    number = (address & ((<uint64_t> 1 << 48) - 1)) // UNIT - 1
    return &a.cells[number] if number < a.count else NULL


cdef bint failing(arena *a, int64_t *left) noexcept nogil:
    """Return whether this is the call that must fail."""
    if left[0] < 0:
        return False
    left[0] -= 1
    if left[0] >= 0:
        return False
    a.failed = True
    return True


cdef const char *copy(arena *a, const char *bytes, uint32_t length) noexcept nogil:
    """Return a copy for a reader, which is overwritten when it may no longer be used."""
    cdef char *made
    if not more(<void **> &a.copies, &a.copy_room, a.copy_count, sizeof(char *)):
        return NULL
    made = <char *> malloc(length)
    if made != NULL:
        memcpy(made, bytes, length)
        a.copies[a.copy_count] = made
        a.copy_count += 1
    return made


cdef void drop_copies(arena *a) noexcept nogil:
    while a.copy_count:
        a.copy_count -= 1
        memset(a.copies[a.copy_count], 0xdd, 32)
        free(a.copies[a.copy_count])


cdef bint remember(arena *a, int what, uint64_t number, bint bytes) noexcept nogil:
    """Record how to undo the coming change of a node.  bytes: they will be changed."""
    cdef step *taken
    cdef cell *c = &a.cells[number]
    if not more(<void **> &a.steps, &a.step_room, a.step_count, sizeof(step)):
        return False
    taken = &a.steps[a.step_count]
    memset(taken, 0, sizeof(step))
    taken.what = what
    taken.number = number
    if bytes:
        taken.bytes = <char *> malloc(c.length)
        taken.named = <char *> calloc(1, c.length)
        if taken.bytes == NULL or taken.named == NULL:
            free(taken.bytes)
            free(taken.named)
            return False
        memcpy(taken.bytes, c.bytes, c.length)
    a.step_count += 1
    return True


cdef void roll_back(arena *a, uint64_t mark) noexcept nogil:
    cdef step *last
    cdef cell *c
    while a.step_count > mark:
        a.step_count -= 1
        last = &a.steps[a.step_count]
        c = &a.cells[last.number]
        if last.what == CELL_CHANGED:
            memcpy(c.bytes, last.bytes, c.length)
            free(last.bytes)
            free(last.named)
        elif last.what == NEW:
            c.taken = False
            a.bytes -= c.length
            if more(<void **> &a.vacant, &a.vacant_room, a.vacant_count, sizeof(uint64_t)):
                a.vacant[a.vacant_count] = last.number
                a.vacant_count += 1
        else:
            c.taken = True
            a.bytes += c.length


cdef bint all_named(arena *a, uint64_t mark) noexcept nogil:
    """Return whether an operation changed only the bytes that it announced."""
    cdef step *s
    cdef cell *c
    cdef uint64_t i
    cdef uint32_t at
    for i in range(mark, a.step_count):
        s = &a.steps[i]
        c = &a.cells[s.number]
        if s.what == CELL_CHANGED and c.taken:
            for at in range(c.length):
                if not s.named[at] and c.bytes[at] != s.bytes[at]:
                    return False
    return True


cdef void commit(arena *a) noexcept nogil:
    cdef step *last
    cdef cell *c
    cdef uint64_t i
    if a.step_count:
        a.number += 1
    for i in range(a.step_count):
        last = &a.steps[i]
        c = &a.cells[last.number]
        if last.what == CELL_CHANGED:
            free(c.older)
            c.older = last.bytes
            c.older_length = c.length
            free(last.named)
        elif last.what == FREED and not c.taken:
            if more(<void **> &a.vacant, &a.vacant_room, a.vacant_count, sizeof(uint64_t)):
                a.vacant[a.vacant_count] = last.number
                a.vacant_count += 1
        if c.taken and c.pending:
            (<rnvm_node *> c.bytes).version = a.number
            (<rnvm_node *> c.bytes).crc = rnvm_node_crc(0, <rnvm_node *> c.bytes)
        c.pending = False
    a.step_count = 0


cdef void release(arena *a) noexcept nogil:
    """Free all memory."""
    cdef uint64_t i
    roll_back(a, 0)
    drop_copies(a)
    for i in range(a.count):
        free(a.cells[i].bytes)
        free(a.cells[i].older)
    free(a.cells)
    free(a.vacant)
    free(a.steps)
    free(a.copies)
    free(a.answer)

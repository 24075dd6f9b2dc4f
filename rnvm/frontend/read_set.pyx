"""The nodes that the open read transaction has read, with their versions."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc

from rnvm.format.node cimport rnvm_node
from rnvm.frontend.state cimport frontend, instance, node, note

cdef enum:
    NOTES_MIN = 64             # of the first allocation

cdef uint32_t NOTED_MAX = 1 << 20


def _note_at_most(uint32_t count):
    """Note at most so many nodes; for tests only.  Returns the limit before."""
    global NOTED_MAX
    before = NOTED_MAX
    NOTED_MAX = count
    return before


cdef void read_set_noting(frontend *fe, bint on) noexcept nogil:
    fe.read_set.noting = on
    if not on:
        read_set_truncate(fe, 0)


cdef bint read_set_add(instance *s, node *n) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef const rnvm_node *header = <const rnvm_node *> (n + 1)
    cdef uint32_t i = n.noted, room
    cdef note *grown
    # The index is a hint: the note there may have been forgotten since, or be another node's.
    if i < fe.read_set.count and fe.read_set.items[i].address == n.address \
            and fe.read_set.items[i].owner == s:
        return True
    if fe.read_set.count >= NOTED_MAX:
        fe.read_set.over = True
        return True
    if fe.read_set.count == fe.read_set.room:
        room = 2 * fe.read_set.room if fe.read_set.room else NOTES_MIN
        grown = <note *> realloc(fe.read_set.items, room * sizeof(note))
        if grown == NULL:
            return False
        fe.read_set.items = grown
        fe.read_set.room = room
    n.noted = i = fe.read_set.count
    fe.read_set.items[i] = note(s, n.address, header.version, header.crc, n.length)
    fe.read_set.count += 1
    return True


cdef void read_set_truncate(frontend *fe, uint32_t count) noexcept nogil:
    fe.read_set.count = count
    # Below the limit, all nodes that were read are noted.
    fe.read_set.over = fe.read_set.over and count >= NOTED_MAX


cdef void read_set_free(frontend *fe) noexcept nogil:
    free(fe.read_set.items)

# What the present transaction changes: nodes and blocks, how to take it back, and the record that says it.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, instance, node

# Bytes of a record that a change of a whole node of this length takes at most.
cdef uint64_t change_whole(uint32_t length) noexcept nogil
# Makes bytes of a node (with its header) changeable.  NULL: s.error.
cdef char *change_node(instance *s, node *n, uint32_t offset, uint32_t length) noexcept nogil
# A node of zeros that stands there from now on, all of it changed.
cdef node *change_add(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil
# A node is no more.
cdef int change_drop(instance *s, node *n) noexcept nogil
# Consecutive blocks that the back-end granted become the structure's: the first, or RNVM_NO_BLOCK (s.error).
cdef uint64_t change_take(instance *s, uint64_t count) noexcept nogil
cdef int change_return(instance *s, uint64_t first, uint64_t count) noexcept nogil
# The structure is in the transaction, whether it changes or not.
cdef int change_touch(instance *s) noexcept nogil
# Takes back all that was done since there were so many entries in fe.undone.
cdef void changes_undo(frontend *fe, uint64_t to) noexcept nogil
# What was done so far is not taken back alone any more.
cdef void changes_keep(frontend *fe) noexcept nogil
# Makes the payload of the transaction's record, `parts` of them; its length, 0: nothing was changed.
cdef uint32_t changes_record(frontend *fe, char *payload, uint64_t room, uint16_t *parts) noexcept nogil
# The record was written.
cdef void changes_written(frontend *fe) noexcept nogil
# Forgets the transaction, the connection is lost.
cdef void changes_abandon(frontend *fe) noexcept nogil

# The write set of the present transaction: changed nodes and blocks, the undo log, and the redo
# record of all changes.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.frontend.state cimport frontend, instance, node

# The next operation begins: nodes that it allocates are undone as a whole.
cdef inline void operation_begin(frontend *fe) noexcept nogil:
    fe.write_set.operation += 1

# Bytes of a record that a change of a whole node of this length takes at most.
cdef uint64_t change_bytes_max(uint32_t length) noexcept nogil
# Makes bytes of a node (header included) changeable.  NULL: s.error.
cdef char *node_set_changed(instance *s, node *n, uint32_t offset, uint32_t length) noexcept nogil
# Adds a node of zeros at an address, all of it changed.
cdef node *node_set_new(instance *s, uint64_t address, uint32_t length,
                        uint16_t type) noexcept nogil
# Marks a node as freed.
cdef int node_set_freed(instance *s, node *n) noexcept nogil
# Gives consecutive granted blocks to the structure: the first, or RNVM_NO_BLOCK (s.error).
cdef uint64_t blocks_take(instance *s, uint64_t count) noexcept nogil
cdef int blocks_return(instance *s, uint64_t first, uint64_t count) noexcept nogil
# Adds the structure to the transaction, even if nothing of it changes.
cdef int write_set_add(instance *s) noexcept nogil

# Undoes everything from this position of the undo log on.
cdef void write_set_undo(frontend *fe, uint64_t to) noexcept nogil
# Empties the undo log: earlier changes can only be discarded with the whole transaction.
cdef void undo_log_clear(frontend *fe) noexcept nogil
# Stamps version and CRC into the changed nodes and makes the payload of the redo record, which has
# *parts parts.  Returns its length; 0: it exceeds `room`.
cdef uint32_t write_set_stamp_and_encode(frontend *fe, char *payload, uint64_t room,
                                         uint16_t *parts) noexcept nogil
# The record was written: an empty write set, nodes pinned until the record is applied.
cdef void write_set_written(frontend *fe) noexcept nogil
# The connection is lost: discards the transaction and all granted blocks.
cdef void write_set_abandon(frontend *fe) noexcept nogil
cdef void write_set_free(frontend *fe) noexcept nogil

# The contract between a front-end and the structures on it (folder structures/).
# docs/rnvm-structures.md explains it, with an example.
#
# A structure is a graph of nodes (node.h) from a root.  It provides three functions, all of which
# run without the GIL:
#
#     apply    executes an operation.  Called for new operations and, in the same way, for pending
#              ones of a writer that died; so all that it does must follow from the operation's
#              bytes and the nodes (random choices, times: into the bytes).
#     query    (any number of them) reads it, while others may be writing.
#     walk     visits every node that is in use: for check(), and to find leaks.
#
# and a Python class derived from Structure.  Locks, logs, durability, batches, transactions,
# caching, restarts of readers, reconnecting, and re-executing pending operations are done here.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
# The results of apply, query and walk; and fault(s, address, what), which records the reason of a
# damage.
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport frontend, instance, kind
from rnvm.frontend.status cimport (
    AGAIN, ALIEN, DAMAGED, FENCED, FULL, LATE, LOST, NO_MEMORY, OK, STOPPED, TOO_LONG, fault)

ctypedef int (*visitor)(void *context, uint64_t address, uint32_t length) noexcept nogil

# A structure registers (struct kind of state.pxd):
#   number   of the kind: Queue 1, HashTable 2, BPlusTree 3, ...; never reused
#   format   version of its nodes and operations
#   root     bytes of its root node, header included: a multiple of 8, at most 3072.  Zeros when the
#            structure is new
#   apply    executes one operation.  OK or 1...: the changes count, if there are any; below 0: none
#            of them does.  ALIEN: it does not know the opcode, or such bytes
#   walk     calls visit for the address and length of every node that it has allocated (not for the
#            root), each once, and returns the result of visit unless that is OK.  Verifies its
#            invariants on the way: DAMAGED and fault() at the first that does not hold
#   collect  of a multi-version structure, otherwise NULL: frees nodes that it has listed as
#            replaced (retired_at()), as many as one record takes.  Its nodes do not change once
#            their transaction is written; its root begins with an rnvm_versions.
#   lists_row  with collect: whether so many blocks in a row may be among the listed nodes


# Nodes
#
# Pointers to nodes stay valid until the end of the operation, or nodes_release().  If one is NULL,
# return s.error.

# The node at an address: fetched, if it is not in the cache, and checked: that the address is in
# the pool, owner, type, length, CRC.  length: the expected one; 0: as its header says (then a
# node that is not in the cache takes two READs).
cdef const char *node_read(instance *s, uint64_t address, uint32_t length,
                           uint16_t type) noexcept nogil
# The root: type 1, s.kind.root bytes.
cdef const char *root_read(instance *s) noexcept nogil
# In apply only.  The same node, to be changed: n bytes from `offset` on, behind the header.  May be
# called again for other parts.
cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type,
                       uint32_t offset, uint32_t n) noexcept nogil
cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil
# In apply only.  A new node, zeros behind its header; all of it is logged.  length: header
# included, rounded up to 8.
cdef char *node_new(instance *s, uint32_t length, uint16_t type,
                    uint64_t *address) noexcept nogil
# In apply only.  Frees a node: its space may be used for other nodes from now on.
cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil
# The first n bytes at an address, whole or not: to find a way around a damaged node.  They are not
# checked.
cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil
# In apply only.  A new node in the place of one of the same length that is not used any more.
cdef char *node_renew(instance *s, uint64_t address, uint32_t length,
                      uint16_t type) noexcept nogil
# For walks and long iterations: no pointer to a node is used any more; the cache may evict nodes.
cdef void nodes_release(instance *s) noexcept nogil
# Appends to the answer of the operation (Structure.answer), which is empty at the start of each
# apply and at each start or restart of a query.
cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil

# How much one operation may change.  The record of a transaction has so many bytes at most; the
# same for all sessions of a pool, so apply may decide by it.
cdef uint64_t record_room(const instance *s) noexcept nogil
# Whether optional work (splits, joins) fits, for an operation that changes so many bytes in all.
# Also False if the present transaction has grown too long for it.
cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil
# Bytes that making or freeing a node of this length changes at most, beside the node.
cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil
# Bytes of the pool: an upper bound for anything that can be counted in it.
cdef uint64_t pool_bytes(const instance *s) noexcept nogil
# A number that differs between this structure, in this pool and in this life of its name, and all
# others.
cdef uint64_t structure_identity(const instance *s) noexcept nogil

# Multi-version structures
#
# The version that the present query reads; under the lock the newest one, with the changes of the
# present transaction.
cdef int version_read(instance *s, rnvm_version *found) noexcept nogil
# In apply only.  Makes this the newest version; its number and CRC are set here.
cdef int version_write(instance *s, rnvm_version *changed) noexcept nogil
# Number of the transaction that the present operation belongs to: the version of the nodes that it
# makes.
cdef uint64_t version_made(const instance *s) noexcept nogil
# The newest version that a reader may use.  Nodes of later versions may be changed; others are
# replaced by new ones.  As for oldest_retained(): it must change only where nodes are.
cdef uint64_t version_frozen(const instance *s) noexcept nogil
# Nodes that were replaced in a transaction up to this one may be freed: no reader uses them.
# listed: how many nodes wait for that; asks the back-end now and then, when there are many, and
# always if there are more than bytes in the pool.  The one input of apply that follows neither from
# the operation's bytes nor from the nodes: it must change only which memory is free.
cdef uint64_t oldest_retained(instance *s, uint64_t listed) noexcept nogil

ctypedef int (*query_function)(instance *s, void *context) noexcept nogil


# kind: of static storage; cls: opened for it by recovery: cls(fe, name).
cdef int register_kind(const kind *k, object cls) except -1
# NULL: this process does not know it.
cdef const kind *kind_of(uint32_t number) noexcept


# Snapshots of a multi-version structure.
#
# Opens a snapshot: *at is its version, *session names the session that it belongs to.
cdef int open_version(object structure, rnvm_version *at, uint64_t *session,
                      object timeout) except -1
# Opens snapshots of several structures of one front-end, all at one moment: at most
# RNVM_PARTS_MAX.
cdef int open_versions(list structures, rnvm_version *at, uint64_t *session,
                       object timeout) except -1
# Closes it: nothing is kept for it any more, as soon as no call of its front-end is under way.  May
# be called by a finalizer.
cdef void close_version(object structure, const rnvm_version *at, uint64_t session) noexcept
# A query of a snapshot.  SnapshotTooOld: its memory was used again, or its session has ended.
cdef int query_version(object structure, const rnvm_version *at, uint64_t session,
                       int (*ask)(instance *s, void *context) noexcept nogil, void *context,
                       object timeout) except -1


# Of a call that consists of several operations: if one of them fails within a transaction, the call
# undoes all since the mark, also those of an iterator that it called.  Outside a transaction there
# is nothing to undo.
cdef uint64_t transaction_mark(object structure) except? 0xffffffffffffffff
cdef int transaction_undo(object structure, uint64_t mark) except -1
# A bytes object for an instance of bytes or of a subclass.
cdef bytes exact_bytes(object value)


cdef class Structure:
    """The base of all structures."""
    cdef instance *c
    cdef readonly object fe
    cdef readonly str name
    cdef readonly object codec
    cdef object __weakref__
    cdef uint64_t before                   # number of its last operation when the transaction began
    # Executes one operation: the result of apply, 0 or more; otherwise raises.  timeout: seconds,
    # None for the front-end's.  When it returns, the operation is durable (outside a transaction)
    # and visible to all calls that begin later (outside a batch).
    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length,
                     object timeout=*) except -1
    # The result of query, 0 or more, on a state that was whole; otherwise raises.
    cdef int query(self, query_function ask, void *context, object timeout=*) except -1
    cdef bytes answer(self)                # gathered by answer_put() in the last call
    cdef const char *answer_bytes(self, uint64_t *n) noexcept
    # Encoded by the codec.  WrongType if there is none and the value is not bytes.
    cdef bytes encode(self, object value)
    # Raises Undecodable with the bytes, and with the key or token that removes them.
    cdef object decode(self, bytes value, bytes key=*, bytes token=*)
    # Bytes of the longest value that one operation can take.
    cdef uint64_t longest(self, uint64_t most) except? 0
    cdef object not_named(self)

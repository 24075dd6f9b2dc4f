# The contract between a front-end and the structures on it (folder structures/).  docs/rnvm-structures.md explains it, with an
# example.
#
# A structure is a graph of nodes (node.h) from a root.  It gives three functions, all of which run without the GIL:
#
#     apply    changes it as an operation says.  Called for new operations and, in the same way, for those of a writer that died;
#              so all that it does must follow from the operation's bytes and the nodes (random choices, times: into the bytes).
#     query    (any number of them) reads it, while others may be writing.
#     walk     shows every node that is in use: for check(), and to find leaks.
#
# and a Python class derived from Structure.  Locks, logs, durability, batches, transactions, caching, restarts of readers,
# connecting again, and executing again what a dead writer left are done here.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
# What apply, query and walk answer, and fault(s, address, what) that says why something is damaged.
from rnvm.frontend.status cimport AGAIN, ALIEN, DAMAGED, FENCED, FULL, LATE, LOST, NO_MEMORY, OK, STOPPED, TOO_LONG, fault
from rnvm.frontend.state cimport frontend, instance, kind

ctypedef int (*visitor)(void *context, uint64_t address, uint32_t length) noexcept nogil

# What a structure registers (struct kind of _front.pxd):
#   number   of the kind: Queue 1, HashTable 2, BPlusTree 3, ... never used for anything else again
#   format   version of its nodes and operations
#   root     bytes of its root node, header included: a multiple of 8, at most 3072.  Zeros when the structure is new
#   apply    executes one operation.  OK or 1...: the changes count, if there are any; below 0: none of them does.  ALIEN: it
#            does not know the code, or not such bytes
#   walk     calls visit for the address and length of every node it has allocated (not for the root), each once, and passes on
#            what that answers unless it is OK.  Verifies its invariants on the way: DAMAGED and fault() at the first that does
#            not hold


# Nodes
#
# Pointers to nodes stay valid until the end of the operation, or nodes_release().  A NULL: return s.error.

# The node at an address: fetched, if it is not in the cache, and checked: that the address lies in the pool, owner, type,
# length, CRC.  length: what it must be; 0: whatever its header says (then a node that is not in the cache takes two READs).
cdef const char *node_read(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil
# The root: type 1, s.kind.root bytes.
cdef const char *root_read(instance *s) noexcept nogil
# In apply only.  The same node, to be changed: n bytes from `offset` on (header: not).  May be called again for other parts.
cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type, uint32_t offset, uint32_t n) noexcept nogil
cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil
# In apply only.  A new node of zeros behind its header, to be filled as a whole.  length: header included, rounded up to 8.
cdef char *node_new(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil
# In apply only.  It may be used for other nodes from now on.
cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil
# The first n bytes that stand there, whole or not: to find a way around a damaged node.  Nothing in them can be relied on.
cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil
# For walks and long iterations: no pointer to a node is used any more; the cache may drop what it likes.
cdef void nodes_release(instance *s) noexcept nogil
# Appends to the answer of the operation (Structure.answer); begun anew with each apply and each (re)start of a query.
cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil

# How much one operation may change.  The record of a transaction has so many bytes at most; the same for all sessions of
# a pool, so apply may decide by it.
cdef uint64_t record_room(const instance *s) noexcept nogil
# Whether work that can be left for later (splits, joins) fits, for an operation that changes so many bytes in all.  Also False
# where a transaction has grown too long for it.
cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil
# What making or freeing a node of this length changes at most, beside the node.
cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil
# Bytes of the pool: more than that, nothing in it can count.
cdef uint64_t pool_bytes(const instance *s) noexcept nogil
# The number that tells this structure, in this pool and in this life of its name, from all others.
cdef uint64_t structure_identity(const instance *s) noexcept nogil

ctypedef int (*query_function)(instance *s, void *context) noexcept nogil


# kind: of static storage; cls: opened for it by recovery: cls(fe, name).
cdef int register_kind(const kind *k, object cls) except -1
# NULL: this process does not know it.
cdef const kind *kind_of(uint32_t number) noexcept


cdef class Structure:
    """The base of all structures."""
    cdef instance *c
    cdef readonly object fe
    cdef readonly str name
    cdef readonly object codec
    cdef object __weakref__
    cdef uint64_t before                   # number of its last operation when the transaction began
    # One operation: what apply answered, 0 or more; else raises.  timeout: seconds, None for the front-end's.  When it returns,
    # outside a transaction the operation is durable, and outside a batch all who begin later see it.
    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length, object timeout=*) except -1
    # What query answered, 0 or more, on a state that was whole; else raises.
    cdef int query(self, query_function ask, void *context, object timeout=*) except -1
    cdef bytes answer(self)                # what answer_put() gathered in the last call
    cdef const char *answer_bytes(self, uint64_t *n) noexcept
    cdef bytes encode(self, object value)  # by the codec; WrongType with a hint where that is bytes and the value is not
    # Raises Undecodable with the bytes, and what else the caller of the structure needs to get rid of them.
    cdef object decode(self, bytes value, bytes key=*, bytes token=*)
    # Bytes of the longest value that one operation can take.
    cdef uint64_t longest(self, uint64_t most) except? 0
    cdef object not_named(self)

# The contract of rnvm.frontend.structure over plain memory.  Its declarations are those of
# rnvm/frontend/structure.pxd, word for word, so that the module of a structure finds here all that
# it imports from there.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport instance, kind
from rnvm.frontend.status cimport AGAIN, DAMAGED, FULL, NO_MEMORY, OK, TOO_LONG

ctypedef int (*visitor)(void *context, uint64_t address, uint32_t length) noexcept nogil

cdef const char *node_read(instance *s, uint64_t address, uint32_t length,
                           uint16_t type) noexcept nogil
cdef const char *root_read(instance *s) noexcept nogil
cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type,
                       uint32_t offset, uint32_t n) noexcept nogil
cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil
cdef char *node_new(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil
cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil
cdef char *node_renew(instance *s, uint64_t address, uint32_t length,
                      uint16_t type) noexcept nogil
cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil
cdef void nodes_release(instance *s) noexcept nogil
cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil
cdef uint64_t record_room(const instance *s) noexcept nogil
cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil
cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil
cdef uint64_t pool_bytes(const instance *s) noexcept nogil
cdef uint64_t structure_identity(const instance *s) noexcept nogil
cdef inline int fault(instance *s, uint64_t address, const char *what) noexcept nogil:
    s.error = DAMAGED
    s.fault_at = address
    s.fault = what
    return DAMAGED

cdef uint64_t version_made(const instance *s) noexcept nogil
cdef uint64_t version_frozen(const instance *s) noexcept nogil
cdef uint64_t oldest_retained(instance *s, uint64_t listed) noexcept nogil
cdef int version_read(instance *s, rnvm_version *found) noexcept nogil
cdef int version_write(instance *s, rnvm_version *changed) noexcept nogil

ctypedef int (*query_function)(instance *s, void *context) noexcept nogil

cdef int register_kind(const kind *k, object cls) except -1

cdef int open_version(object structure, rnvm_version *at, uint64_t *session,
                      object timeout) except -1
cdef int open_versions(list structures, rnvm_version *at, uint64_t *session,
                       object timeout) except -1
cdef void close_version(object structure, const rnvm_version *at, uint64_t session) noexcept
cdef int query_version(object structure, const rnvm_version *at, uint64_t session,
                       int (*ask)(instance *s, void *context) noexcept nogil, void *context,
                       object timeout) except -1

cdef uint64_t transaction_mark(object structure) except? 0xffffffffffffffff
cdef int transaction_undo(object structure, uint64_t mark) except -1
cdef bytes exact_bytes(object value)


cdef class Structure:
    cdef instance *c
    cdef readonly object fe
    cdef readonly str name
    cdef readonly object codec
    cdef object __weakref__
    cdef uint64_t before
    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length,
                     object timeout=*) except -1
    cdef int query(self, query_function ask, void *context, object timeout=*) except -1
    cdef bytes answer(self)
    cdef const char *answer_bytes(self, uint64_t *n) noexcept
    cdef bytes encode(self, object value)
    cdef object decode(self, bytes value, bytes key=*, bytes token=*)
    cdef uint64_t longest(self, uint64_t most) except? 0
    cdef object not_named(self)

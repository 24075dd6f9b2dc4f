# The root of a multi-version structure.

from libc.stdint cimport uint64_t
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport instance

# READs the newest version without the lock, at least this one; with a log laid over the pool, the
# last one of the log.  AGAIN: its half is not whole.
cdef int read_newest(instance *s, uint64_t least, rnvm_version *found) noexcept nogil
# The same, of the transactions that are applied.
cdef int read_applied(instance *s, uint64_t least, rnvm_version *found) noexcept nogil
# version_read() and version_write() of structure.pxd.
cdef int version_find(instance *s, rnvm_version *found) noexcept nogil
cdef int version_store(instance *s, rnvm_version *changed) noexcept nogil
# Writes the newest version again, as that of the present transaction, unless it is: each
# transaction writes a half, so that a reader detects that a half is damaged.
cdef int version_touch(instance *s) noexcept nogil

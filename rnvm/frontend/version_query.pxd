# Queries of multi-version structures.  They return the result of the structure's function, 0 or
# more, or a status below 0.

from libc.stdint cimport uint32_t
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.state cimport frontend, instance

# On the newest version, without the writer lock.
cdef int query_newest(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                      void *context) noexcept nogil
# On the version of a snapshot.  TOO_OLD: it is not complete any more.
cdef int query_snapshot(instance *s, const rnvm_version *at,
                        int (*function)(instance *s, void *context) noexcept nogil,
                        void *context) noexcept nogil
# The newest version, for a snapshot; it and everything that it needs is applied.  Its version is
# published as in use; the caller enters it in s.kept.
cdef int snapshot_open(instance *s, rnvm_version *at) noexcept nogil
# The versions of several structures at one moment, at most RNVM_PARTS_MAX; the same for each.
cdef int snapshots_open(frontend *fe, instance **all, uint32_t count,
                        rnvm_version *at) noexcept nogil
# Gives such versions back, of a call that fails afterwards: nothing is kept for them any more.
cdef void snapshots_give_back(instance **all, uint32_t count,
                              const rnvm_version *at) noexcept nogil
# Whether the bytes that were fetched are those of our session's back-end.
cdef int session_still_valid(instance *s) noexcept nogil

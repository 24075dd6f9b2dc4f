# Which versions of a multi-version structure are in use: this session publishes its own, the
# back-end knows the oldest one of all sessions.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance

# Publishes, before the root is read, that this session uses the versions from `version` on.  At
# most once in 10 ms; in between the word names an older version, which keeps more.
cdef int version_publish(instance *s, uint64_t version) noexcept nogil
# The same at once; also the open snapshots of this session, if one is older.
cdef int version_publish_now(instance *s, uint64_t version) noexcept nogil
# Only the open snapshots are in use.
cdef int version_unpublish(instance *s) noexcept nogil
# The same at most once in 10 ms, for a query of a snapshot.
cdef int version_keep_published(instance *s) noexcept nogil
# Enters an open snapshot, and takes it out again.  Room for it must be there: versions_reserve().
cdef bint versions_reserve(instance *s) noexcept nogil
cdef void version_keep(instance *s, uint64_t version) noexcept nogil
cdef void version_release(instance *s, uint64_t version) noexcept nogil
cdef bint version_is_kept(const instance *s, uint64_t version) noexcept nogil
# The newest version that a reader may use.  Nodes of later versions may be changed in place.
cdef uint64_t version_frozen_at(const instance *s) noexcept nogil
# Asks the back-end for the oldest version that any session uses; the result is in s.retained.
# give_up: the back-end first gives up the oldest version in use.
cdef int version_renew(instance *s, bint give_up) noexcept nogil

# Multi-version mappings and their snapshots.

from libc.stdint cimport uint64_t
from rnvm.format.version cimport rnvm_version
from structures.ordered_mapping cimport OrderedMapping


# The base of every multi-version mapping: a kind derives from it as from OrderedMapping.
cdef class VersionedMapping(OrderedMapping):
    # Of the mapping inside a snapshot; otherwise None.
    cdef VersionedMapping source       # the structure itself
    cdef rnvm_version at               # the version that is read
    cdef uint64_t session              # the session that keeps its memory
    cdef bint closed
    # Of a structure: (version, session) of snapshots that were not closed.
    cdef list lapsed
    cdef int let_go(self, uint64_t version, uint64_t session) except -1
    cdef int drop_lapsed(self) except -1
    # Returns the mapping that reads this version.
    cdef VersionedMapping at_version(self, const rnvm_version *at, uint64_t session)


cdef class Snapshot:
    cdef VersionedMapping mapping

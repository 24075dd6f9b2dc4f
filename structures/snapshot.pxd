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
    # Returns a mapping that reads a version of this one, once that was opened.
    cdef VersionedMapping reader(self)
    cdef int opened(self, const rnvm_version *at, uint64_t session) except -1
    cdef int close(self) except -1


cdef class Snapshot:
    cdef VersionedMapping mapping

# Inspect a pool without changing it, and before anything in it is relied on.

from libc.stdint cimport uint32_t
from rnvm.format.layout cimport rnvm_geometry, rnvm_header, rnvm_superblock
from rnvm.media.medium cimport Medium


cdef class Inspection:
    """The content of header and superblock, and the damage found in the rest."""
    cdef Medium medium
    cdef rnvm_header header
    cdef rnvm_superblock superblock
    cdef rnvm_geometry g
    cdef int headers                   # which copies are whole (pool_header.pxd)
    cdef int superblocks
    cdef readonly list findings        # of Finding
    cdef readonly dict names           # bytes -> index
    cdef register(self, str part, uint32_t index, str what, at)

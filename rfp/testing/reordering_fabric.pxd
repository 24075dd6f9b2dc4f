# A provider for tests: shared memory with the weakest order that the fabric's contract allows.

from rfp.fabric.shm.region cimport ShmFabric, ShmQueuePair


cdef class ReorderQueuePair(ShmQueuePair):
    pass


cdef class ReorderFabric(ShmFabric):
    cdef readonly unsigned long long seed
    cdef object pairs          # that exist
    cdef unsigned long long made
    cdef void doom(self, unsigned int n, unsigned int how) except *

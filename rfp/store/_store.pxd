# The partition as a service.  What it does is in _operations, _batches, _uploads and _pins.

from rfp._fabric cimport Region
from rfp.protocol._service cimport Service
from rfp.store._records cimport partition


cdef class Partition(Service):
    cdef partition *p
    cdef readonly Region region

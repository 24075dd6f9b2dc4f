# The partition as a service.  Its operations are in key_ops, batch_ops, uploads and pins.

from rfp.fabric.fabric cimport Region
from rfp.protocol.server.service cimport Service
from rfp.store.server.records cimport partition


cdef class Partition(Service):
    cdef partition *p
    cdef readonly Region region
    cdef dict holders          # of views, by client process

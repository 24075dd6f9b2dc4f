# The verbs provider of the fabric.

from rfp.fabric.fabric cimport Fabric
from rfp.fabric.verbs.device cimport Domain


cdef class VerbsFabric(Fabric):
    cdef Domain own                     # None after close()
    cdef readonly object options        # rfp.address.RdmaOptions
    cdef object __weakref__
    cdef Domain here(self)

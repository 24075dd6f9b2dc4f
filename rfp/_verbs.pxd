# The verbs provider.

from rfp._fabric cimport Fabric
from rfp._verbs_device cimport Domain


cdef class VerbsFabric(Fabric):
    cdef Domain own                     # None after close()
    cdef readonly object options        # rfp.address.RdmaOptions
    cdef object __weakref__
    cdef Domain here(self)

# cython: boundscheck=True, wraparound=True, cdivision=False
"""The base class of services (the contract is in service.pxd)."""


cdef class Service:
    """Owns a service's memory for as long as a worker runs it."""

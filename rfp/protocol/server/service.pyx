# cython: boundscheck=True, wraparound=True, cdivision=False
"""The base class of services: a service executes the requests that a worker takes from its
rings."""


cdef class Service:
    """Owns a service's memory for as long as a worker runs it."""

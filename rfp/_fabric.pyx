# cython: language_level=3
"""The fabric's base classes: what a provider must define (the contract is in _fabric.pxd)."""


cdef class Region:
    """Registered memory of this process."""

    @property
    def length(self):
        return self.c.length

    @property
    def rights(self):
        return self.c.rights

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef int fileno(self) except? -2:
        return -1

    cpdef close(self):
        raise NotImplementedError


cdef class RemoteRegion:
    """A peer's memory, made only from a checked descriptor."""

    @property
    def length(self):
        return self.c.length

    @property
    def rights(self):
        return self.c.rights

    cpdef close(self):
        raise NotImplementedError


cdef class EventChannel:
    """What one thread sleeps on."""

    cpdef close(self):
        raise NotImplementedError


cdef class QueuePair:
    """One end of a connection."""

    cpdef bytes descriptor(self):
        raise NotImplementedError

    cpdef connect(self, bytes descriptor, RemoteRegion region):
        raise NotImplementedError

    cpdef close(self):
        raise NotImplementedError


cdef class Fabric:
    """A provider of the fabric."""

    cpdef Region register(self, uint64_t length, uint32_t rights):
        raise NotImplementedError

    cpdef RemoteRegion attach(self, bytes descriptor, int fd=-1):
        raise NotImplementedError

    cpdef EventChannel event_channel(self, Region region, uint64_t offset):
        raise NotImplementedError

    cpdef QueuePair queue_pair(self, EventChannel channel, int pidfd, int control):
        raise NotImplementedError

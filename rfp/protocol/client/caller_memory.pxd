# Memory of the caller's: buffers as calls take them, and those that were registered so that a device reaches them directly.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t
from rfp.fabric.fabric cimport Fabric, Region, local_region


cdef int take_buffer(object thing, Py_buffer *view, bint writable, str noun=*) except -1


cdef class Registration:
    """A registered buffer."""
    cdef object owner              # the list that it stands in while it is open
    cdef object kept               # what the memory belongs to
    cdef object view               # of its bytes
    cdef char *base
    cdef uint64_t length
    cdef Fabric fabric             # that `region` was registered with
    cdef Region region
    cdef int users                 # calls that use it at this moment; changed with the GIL held
    cdef bint closed

# The registration that holds this range, with one user more (leave() ends that), or None.
cdef Registration registered(list registrations, const char *base, uint64_t length)


cdef class IoBuffer:
    """How a request reaches a range of the caller's memory: directly, registered, or through a bounce buffer."""
    cdef local_region direct       # the range, or what was registered around it
    cdef uint64_t offset           # of the range in it
    cdef char *base                # of the range
    cdef local_region *bounce      # NULL: no need for one
    cdef Registration registration
    cdef Region bounce_buffer
    cdef list bounce_buffers       # where it goes back to
    cdef void end(self) noexcept

# To be ended when no request can touch the memory any more.  link: whose registered buffers are lent.
cdef IoBuffer open_io_buffer(object connection, list registrations, char *base, uint64_t length, bint needs_registration)

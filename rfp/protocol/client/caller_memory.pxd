# The caller's memory: buffers that calls take, and buffers that were registered so that a device
# reaches them directly.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t
from rfp.fabric.fabric cimport Fabric, Region, local_region


cdef int take_buffer(object thing, Py_buffer *view, bint writable, str noun=*) except -1


cdef class Registration:
    """A registered buffer."""
    cdef object owner              # the list that contains it while it is open
    cdef object kept               # the object that the memory belongs to
    cdef object view               # of its bytes
    cdef char *base
    cdef uint64_t length
    cdef Fabric fabric             # that `region` was registered with
    cdef Region region
    cdef int users                 # calls that use it now; changed with the GIL held
    cdef bint closed

# The registration that contains this range, with one more user (leave() ends the use), or None.
cdef Registration registered(list registrations, const char *base, uint64_t length)


cdef class IoBuffer:
    """The way to a range of the caller's memory: directly, registered, or by a bounce buffer."""
    cdef local_region direct       # the range, or the registered memory around it
    cdef uint64_t offset           # of the range in `direct`
    cdef char *base                # of the range
    cdef local_region *bounce      # NULL: not needed
    cdef Registration registration
    cdef Region bounce_buffer
    cdef list bounce_buffers       # where the bounce buffer is returned to
    cdef void end(self) noexcept

# The caller calls end() once no request can touch the memory any more.  Bounce buffers are those of
# the connection.
cdef IoBuffer open_io_buffer(object connection, list registrations, char *base, uint64_t length,
                             bint needs_registration)

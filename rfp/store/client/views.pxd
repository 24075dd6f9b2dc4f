# Views: values used in place, in the server's memory.
#
#   View         what the caller has; release() lets go of its hold
#    |
#   Hold         one use of a pin; the buffers that are made from a view own it, too
#    |
#   Pin          keeps one record; shared by the views of it (server/views.pxd, view_table.h)
#    |
#   ViewMemory   the mapped arenas and the view table of a connection; it outlives the connection,
#                until the last view is released
#
# The last reference to a hold ends it.  An export count was rejected: some libraries (torch)
# release the buffer at once and keep only a reference to its owner.
#
# The end subtracts one from a word of the view table, so it may come from any thread and from a
# finalizer.  It runs no Python code, unless the connection is closed and this was its last hold.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint32_t, uint64_t
from rfp.fabric.fabric cimport RemoteRegion
from rfp.store.client.client cimport Client
from rfp.store.layout cimport kv_record
from rfp.store.messages cimport kv_viewed


cdef class Pin:
    """A pin of this process at the server, which views hold; one that none holds may have ended."""
    cdef uint64_t *word            # in the view table
    cdef uint32_t generation
    cdef uint64_t version          # of the value
    cdef const kv_record *record
    cdef const char *data
    cdef Py_ssize_t length


cdef class ViewMemory:
    """Owns what the views of one connection use."""
    cdef readonly list regions
    cdef RemoteRegion table
    cdef RemoteRegion owner_line
    cdef uint32_t owner
    cdef object pidfd              # a Descriptor of the server's process, or None
    cdef list arenas
    cdef dict pins                 # by place of the record
    cdef dict places               # by number of the pin's word: where in `pins` it is
    cdef Py_ssize_t held           # holds
    cdef bint closed
    cdef Pin find(self, uint32_t worker, uint64_t record)
    # None: the server's numbers are invalid.
    cdef Pin take(self, uint32_t worker, const kv_viewed *granted, uint64_t version)
    cdef void drop(self, Pin pin) noexcept


cdef class Hold:
    cdef ViewMemory memory         # None: a copy, or not held
    cdef Pin pin
    cdef bytes content             # of a copy
    cdef const char *data
    cdef Py_ssize_t length
    cdef int check(self) except -1


cdef class View:
    cdef Hold hold                 # None: released
    cdef Py_ssize_t length
    cdef uint64_t of_version
    cdef bint is_copied
    cdef object __weakref__
    cdef Hold held(self)


cdef object view_one(Client client, object key, object timeout)
cdef list view_many(Client client, object keys, object timeout)

# libibverbs, an opened device, and a protection domain: the base of all objects of the verbs
# provider.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from rfp.core.verbs cimport ibv_context, ibv_device_attr, ibv_gid, ibv_pd, ibv_port_attr, rfp_verbs


cdef rfp_verbs verbs                    # filled by the first open_library()
cdef const rfp_verbs *open_library() except NULL
cdef object device_error(str what, int error, str hint=*)


cdef class Device:
    """An opened device; closed with the last object made on it."""
    cdef ibv_context *context
    cdef ibv_device_attr limits
    cdef ibv_port_attr port
    cdef ibv_gid gid
    cdef readonly object choice         # rfp.fabric.verbs.select_device.Choice
    cdef object __weakref__


cdef class Domain:
    """A protection domain."""
    cdef ibv_pd *pd
    cdef Device device
    cdef object __weakref__

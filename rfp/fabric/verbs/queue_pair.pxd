# The event channels and queue pairs of the verbs provider: they own the structs of datapath.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from rfp.core.descriptor cimport rfp_verbs_pair_descriptor
from rfp.core.verbs cimport ibv_cq
from rfp.fabric.fabric cimport EventChannel, QueuePair
from rfp.fabric.verbs.datapath cimport channel_state, pair_state
from rfp.fabric.verbs.device cimport Device, Domain

cdef class VerbsEventChannel(EventChannel):
    cdef channel_state *state           # NULL: closed, and without queue pairs
    cdef Device device
    cdef bint open
    cdef uint32_t pairs
    cdef object __weakref__
    cdef join(self, VerbsQueuePair pair)
    cdef void leave(self, uint32_t index) noexcept
    cdef void release(self) noexcept


cdef class VerbsQueuePair(QueuePair):
    cdef pair_state *state
    cdef Domain domain                  # these two are None after close()
    cdef VerbsEventChannel channel
    cdef object options                 # rfp.address.RdmaOptions
    cdef uint32_t place                 # index in the channel
    cdef bint joined                    # the pair has that index
    cdef uint32_t sequence              # number of the first packet that it sends
    cdef bint connected
    cdef object __weakref__
    cdef make(self, ibv_cq *receives)
    cdef go(self, rfp_verbs_pair_descriptor *d, Device device)
    cdef void release(self) noexcept

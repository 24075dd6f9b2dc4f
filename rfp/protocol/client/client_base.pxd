# The client side of a service, for handles to derive from: finds the thread's channel, waits, reconnects, closes.

from libc.stdint cimport uint32_t, uint64_t
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_ring cimport client_ring

cdef enum:
    FULL = 16                      # beside the outcomes of client_ring.pxd: no slot was free
    RETRY = 17                     # the answer came too late to be used: ask again

# 0 in a child of a fork that has not forgotten its parent's yet (core/born.h): forks.notice() does that.
cdef uint64_t *born

cdef enum:
    SIGNAL_POLL_NS = 100000000     # ns between two polls for signals (Ctrl-C)

cdef class ClientBase:
    """Base of handles (the store's client, the RPC client)."""
    cdef object open_connection
    cdef readonly object connection  # the present connection
    cdef readonly double timeout   # seconds a call may take unless it says otherwise
    cdef readonly bint reconnect
    cdef uint64_t identity         # of the present connection; 0 when calls must go the slow way
    cdef uint64_t called           # when deadline() was last asked: the time, without reading the clock again
    cdef bint is_closed            # no call begins any more
    cdef bint is_ended             # and somebody has given everything back, or is about to
    cdef bint is_forked
    cdef bint unfinished           # closed from inside a call, which has to finish it
    cdef object lost_because       # why the present connection is no good
    cdef object lock
    cdef object threads            # threading.local: each thread's channel
    cdef list spare                # channels whose threads have ended
    cdef list old                  # lost connections that still have calls under way
    cdef object __weakref__

    cdef uint64_t deadline(self, object timeout) except 0
    cdef Channel acquire_channel(self, uint64_t deadline)
    cdef Channel attach(self, uint64_t deadline)
    # A channel for something other than a thread (the benchmark's loop), busy until it is given back.
    cdef Channel checkout_channel(self, uint64_t deadline)
    cdef void return_channel(self, Channel channel) noexcept
    cdef void release_channel(self, Channel channel) noexcept
    cdef int wait(self, Channel channel, client_ring *ring, uint64_t deadline) except -1
    cdef int signals(self) except -1
    # No slot was free: waits for one; RETRY when there is one, FULL at the deadline, or why the connection is no good.
    cdef int make_room(self, Channel channel, client_ring *ring, uint64_t deadline) except -1
    cdef int raise_or_retry(self, int found, uint64_t deadline, bint repeatable) except -1
    cdef int lost(self, object connection, object because) except -1

# Checks of what callers give.
cdef double seconds_of(object timeout) except -1
cdef double number_of(str name, object value) except? -1

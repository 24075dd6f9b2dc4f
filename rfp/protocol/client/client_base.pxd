# The client side of a service, for handles to derive from: calls, channels, reconnecting.
#
# Life of a call.  ClientBase.run() is the one skeleton that every blocking call goes through:
#
#     prepare_call()       fills the caller's client_call: deadline, and the call's three functions
#     run():
#       acquire_channel()  finds this thread's channel and marks it busy
#       attempt()          for most calls attempt_request(), which is one request:
#           call_submit()      submit() chooses a ring and builds the request in its scratch memory;
#                              one WRITE posts it.  Does not block; needs no GIL.
#           wait()             without the GIL until the response has come, in slices between which
#                              it polls for signals
#           call_finish()      finish() makes a Python value of the response, or raises; the slot is
#                              free again.  Does not block.
#       release_channel()
#       raise_or_retry()   raises for each outcome but DONE, unless the call must be made again
#
# A client that must not block drives the parts itself, with a channel of checkout_channel(), and
# may have several calls in flight: prepare_call; call_submit (NO_SLOT: again once a response was
# taken); client_ring_step until DONE; call_finish.  Responses come in the order of the requests;
# client_ring_tag() is the address of the client_call that the present one belongs to.
#
# A client_call is on its caller's stack, so that a call allocates nothing.  A kind of call that has
# arguments declares a struct that begins with a client_call, and its functions cast the pointer.

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_ring cimport RAISED, client_ring, outcome
from rfp.protocol.wire cimport rfp_response_header

# 0 in the child of a fork until forks.notice() has run there (core/born.h).
cdef uint64_t *born

cdef enum:
    SIGNAL_POLL_NS = 100000000     # between two polls for signals (Ctrl-C)
    IDLE_NS_MAX = 50000000         # without a call; the next one first polls the server's liveness

cdef class ClientBase
cdef struct client_call

# Sets c.ring and builds the request in its next slot, with tag_of(c) as its tag; False: no slot is
# free, or the ring is lost.
ctypedef bint (*submit_function)(channel *ch, client_call *c) noexcept nogil
# Returns the value of a response, which is valid only until it returns.
ctypedef object (*finish_function)(ClientBase client, client_call *c,
                                   const rfp_response_header *response)
# Sets c.result; the value that it returns counts only if c.result is DONE.
ctypedef object (*attempt_function)(ClientBase client, Channel channel, client_call *c)

cdef struct client_call:
    # set by prepare_call
    attempt_function attempt
    submit_function submit
    finish_function finish
    # A time before the request is posted: leases count from it.  run() sets it for each attempt.
    uint64_t now_ns
    uint64_t deadline_ns
    bint repeatable                # may be made again after its request was sent
    # set by an attempt
    uint32_t worker                # the ring's number in the channel
    client_ring *ring
    bint submitted                 # a request was posted: the server may execute it
    outcome result

cdef inline uint64_t tag_of(const client_call *c) noexcept nogil:
    return <uint64_t> <uintptr_t> c

# The attempt of a call that is one request.
cdef object attempt_request(ClientBase client, Channel channel, client_call *c)
# The same for one request to each worker, in order; returns the list of the values.
cdef object attempt_each_worker(ClientBase client, Channel channel, client_call *c)
# PENDING, or NO_SLOT.
cdef outcome call_submit(channel *ch, client_call *c) noexcept nogil
# After DONE.
cdef object call_finish(ClientBase client, client_call *c)


cdef class ClientBase:
    """Base of handles (the store's client, the RPC client)."""
    cdef object open_connection
    cdef readonly object connection  # the present connection
    cdef readonly double timeout   # seconds; of calls without a timeout of their own
    cdef readonly bint reconnect
    cdef uint64_t identity         # of the present connection; 0: calls must take the slow way
    cdef uint64_t ping_ns          # the quickest ping of the last calibration
    cdef bint is_closed            # no call begins any more
    cdef bint is_ended             # a thread closes the connections, or has closed them
    cdef bint is_forked
    cdef bint unfinished           # closed from inside a call, which must finish closing
    cdef object lost_because       # why the present connection was lost
    cdef object lock
    cdef object threads            # threading.local: each thread's channel
    cdef list spare                # channels whose threads have ended
    cdef list old                  # lost connections that still have calls in progress
    cdef object __weakref__

    # Calls (see the head of this file)
    cdef int prepare_call(self, client_call *c, object timeout, bint repeatable,
                          attempt_function attempt, submit_function submit,
                          finish_function finish) except -1
    cdef object run(self, client_call *c)
    cdef outcome exchange(self, Channel channel, client_call *c) except RAISED
    cdef outcome wait(self, client_ring *ring, uint64_t deadline) except RAISED
    cdef outcome wait_on(self, client_ring *ring, uint64_t deadline) except RAISED
    cdef outcome make_room(self, client_ring *ring, uint64_t deadline) except RAISED
    cdef int poll_signals(self) except -1
    cdef int raise_or_retry(self, client_call *c) except -1
    cdef uint64_t deadline(self, object timeout, uint64_t now) except 0

    # Channels
    # This thread's channel, not busy, or NULL: then acquire_channel() has something to do first.
    cdef channel *ready_channel(self) noexcept
    cdef bint recall_channel(self) noexcept
    # Updates *now if that took long.
    cdef Channel acquire_channel(self, uint64_t deadline, uint64_t *now)
    cdef void release_channel(self, Channel channel) noexcept
    cdef Channel attach(self, uint64_t deadline, bint polled=*)
    # A channel that belongs to no thread (an event loop's, the benchmark's), busy until it is
    # returned.  polled: its events have a descriptor to sleep on (channel.events.fileno()).
    cdef Channel checkout_channel(self, uint64_t deadline, bint polled=*)
    cdef void return_channel(self, Channel channel) noexcept
    cdef int lost(self, object connection, object because) except -1

# The parts of a ping to worker c.worker.
cdef bint submit_ping(channel *ch, client_call *c) noexcept nogil
cdef object finish_ping(ClientBase client, client_call *c, const rfp_response_header *response)

# Checks of arguments.
cdef double seconds_of(object timeout) except -1
# The same for a call that waits.  0: it does not wait; infinite: TIME_S_MAX.
cdef double wait_seconds_of(object timeout) except -1
cdef double number_of(str name, object value) except? -1

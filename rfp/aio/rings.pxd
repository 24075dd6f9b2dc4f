# The rings of one client on an event loop: many calls in flight, one descriptor to sleep on.
#
# Only the loop's thread uses a Rings, and holds the GIL in each of its functions.  Each function
# first compares the identity of the connection: a thread that closes the connection revokes the
# identity first, with the GIL, so no function touches memory that is unmapped.
#
# Life of a call:
#
#     UNSENT       made, with its arguments
#     QUEUED    its ring has no free slot: first in, first out
#     SENT      its request is in a slot, perhaps not posted yet; in_flight has a reference to it
#     COMPLETE  value, error or c.result is set
#     LEFT      cancelled
#
# A call that is cancelled, or whose deadline passes, while it is SENT leaves its slot behind: the
# slot is abandoned, and free again once its response has come.  Nothing refers to the call then.
# No request names memory of a caller: a value is copied into the slot, or out of it by finish().

from cython cimport final
from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_spin
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.protocol.client.channel cimport Channel, channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.client.client_ring cimport client_ring, outcome

cdef enum call_state:
    UNSENT = 0
    QUEUED = 1
    SENT = 2
    COMPLETE = 3
    LEFT = 4


cdef class Call:
    """One request and its result; awaitable once it was started."""
    cdef client_call *c            # of the subclass
    cdef client_call unmade        # in place of a subclass that was not initialized
    cdef Rings rings
    cdef object waiter             # the future that the task waits for, or None
    cdef readonly object value
    cdef readonly object error     # that finish() has raised
    cdef call_state state
    cdef uint32_t sequence         # of its request

    # Chooses the ring, c.worker and c.ring; raises for arguments that do not fit this connection.
    cdef int choose(self, Channel owner) except -1
    # Makes the value of the response; frees the slot.
    cdef object finish(self, ClientBase base)
    # Gives back what a value that nobody takes holds at the server.
    cdef void drop(self) noexcept
    # Gives back the caller's memory.
    cdef void release_memory(self) noexcept


cdef struct sleeper:               # the last request of a ring for which a wake-up was requested
    uint32_t sequence              # 0: none since the channel was armed
    uint32_t polls_required        # slot.polls at which a READ has begun after WAIT
    uint64_t torn                  # ring.torn at that time


@final
cdef class Rings:
    cdef ClientBase base
    cdef Channel owner
    cdef uint64_t identity
    cdef readonly object loop
    cdef uint64_t thread           # of the loop
    cdef list queues               # of each ring: an OrderedDict of calls that wait for a slot
    cdef dict in_flight            # calls by tag
    cdef uint64_t taken            # responses
    cdef bint ended
    cdef bint scheduled            # turn() will run
    cdef bint armed                # prepare_wait was called
    cdef uint32_t armed_as
    cdef sleeper sleepers[RFP_WORKERS_MAX]
    # Copies of descriptors that the loop polls: the channel's, and the server's process; or -1.
    cdef int polled
    cdef int process
    cdef bint guarded              # only polling shows that the server's machine has failed
    cdef object timer              # for the first deadline of the calls that wait
    cdef uint64_t timer_ns
    cdef object guard              # for guarded
    cdef rfp_spin spin             # inline, for the first response
    cdef object ready              # what the loop runs next; None: not known
    cdef uint32_t hits             # calls that completed inline since the last turn of the loop
    cdef uint64_t hits_since       # ns
    cdef uint64_t restless_ns      # since when polls have not led to a sleep; 0: they have
    cdef uint64_t restless_taken   # responses taken by then
    cdef uint64_t idle_wakeups     # in a row without a response
    cdef uint64_t idle_taken
    cdef uint32_t inside           # functions of this class on the stack
    cdef readonly uint64_t turns, wakeups, inline
    cdef object __weakref__

    cdef bint is_usable(self) noexcept
    # The same, and this is the loop's thread.
    cdef bint is_ready(self) noexcept
    # Whether the caller must let the loop run; to be called after each call that completed inline.
    cdef bint hit(self, uint64_t bytes) noexcept
    cdef void enter(self) noexcept
    cdef void exit(self) noexcept
    cdef bint begin(self, Call call, bint poll) except -1
    cdef bint begin_inside(self, Call call, bint poll) except -1
    cdef bint submit(self, Call call) except -1
    cdef int step(self) except -1
    cdef int step_and_sleep(self) except -1
    cdef int leave_cancelled(self, client_ring *ring) except -1
    cdef int take(self, client_ring *ring) except -1
    cdef int leave(self, Call call) except -1
    cdef int sleep(self) except -1
    cdef bint arm(self) except -1
    cdef void request_wakeups(self) noexcept
    cdef bint may_sleep(self) noexcept
    cdef int soon(self) except -1
    cdef int watch(self, Call call) except -1
    cdef int finish_all(self, outcome result) except -1
    cdef int lose(self, outcome result) except -1
    cdef int release(self) except -1

# A worker: the thread that polls rings and executes their requests with a service.  It never needs
# the GIL (the handler of an RPC service may take it).

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_spin
from rfp.core.limits cimport RFP_SIZE_CLASSES
from rfp.fabric.fabric cimport EventChannel, event_channel
from rfp.protocol.server.server_ring cimport server_ring
from rfp.protocol.server.service cimport Service, service

cdef enum:
    REQUESTS_AT_ONCE = 16      # requests taken from one ring before they are executed
    RINGS_MAX = 4096
    # Commands that are not completed: add() refuses from RINGS_MAX on, so there is room to remove
    # each ring, and to stop.
    COMMANDS_MAX = 3 * RINGS_MAX

cdef struct command:
    uint32_t what           # add, remove or stop
    server_ring *ring

cdef struct worker:
    service *service
    event_channel *channel
    server_ring *rings[RINGS_MAX]
    uint32_t count
    char *copies            # REQUESTS_AT_ONCE private copies of requests
    uint32_t slot_size      # of the largest ring that the worker may serve: the stride of copies
    rfp_spin spin           # before it sleeps, if there is no work
    bint sleeps             # False: never (idle="spin")
    bint retry_later        # a request waits for tick()
    # Commands from the threads that own the worker; a thread submits while it holds the worker's
    # lock.  The worker executes them in order, between two polls of its rings.
    command commands[COMMANDS_MAX]  # those from `completed` to `submitted`, modulo COMMANDS_MAX
    uint64_t submitted
    uint64_t completed
    # counters
    # responses by size, in lines; a result too large for a slot counts with its reference
    uint64_t sizes[RFP_SIZE_CLASSES]
    uint64_t turns
    uint64_t served
    uint64_t busy           # ns spent on requests
    uint64_t sleeps_taken
    uint64_t wakes          # sleeps that ended by a notification
    # sleeps that timed out although a request was there: a notification was lost
    uint64_t missed_wakeups

cdef void worker_run(worker *w) noexcept nogil


cdef class Worker:
    """Owns a worker's thread, its service and the rings it serves."""
    cdef worker c
    cdef readonly Service service
    cdef readonly EventChannel channel
    cdef readonly list rings
    cdef object thread
    cdef object lock
    cdef object stopping    # number of the COMMAND_STOP command, once submitted
    cdef uint64_t submit(self, uint32_t what, server_ring *ring)
    cdef int wait(self, uint64_t number) except -1

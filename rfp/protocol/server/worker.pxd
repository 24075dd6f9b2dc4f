# A worker: the thread that serves rings.  It never needs the GIL (an RPC service's handler may take it).

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_spin
from rfp.fabric.fabric cimport EventChannel, event_channel
from rfp.protocol.server.server_ring cimport server_ring
from rfp.protocol.server.service cimport Service, service

cdef enum:
    GROUP = 16              # requests taken from one ring before they are executed
    RINGS_MAX = 4096
    # That are not carried out yet: add() refuses from RINGS_MAX on, so there is room to remove each ring, and to stop.
    COMMANDS_MAX = 3 * RINGS_MAX
    SIZES = 65              # classes of response sizes, in lines: 64 and more fall into the last

cdef struct command:
    uint32_t what           # add, remove or stop
    server_ring *ring

cdef struct worker:
    service *service
    event_channel *channel
    server_ring *rings[RINGS_MAX]
    uint32_t count
    char *copies            # GROUP private copies of requests
    uint32_t slot_size      # of the largest ring it may serve: the stride of copies
    rfp_spin spin           # without work, before it sleeps
    bint sleeps             # False: never (idle="spin")
    bint retry_later        # a request waits for tick()
    # orders from the threads that own the worker, who hold its lock; it carries them out one after the other between two turns
    command commands[COMMANDS_MAX]  # those from `completed` to `submitted`, modulo COMMANDS_MAX
    uint64_t submitted
    uint64_t completed
    # counters
    uint64_t sizes[SIZES]   # responses by size, in lines; what does not fit into a slot counts with its reference
    uint64_t turns
    uint64_t served
    uint64_t busy           # ns spent on requests
    uint64_t sleeps_taken
    uint64_t wakes          # sleeps that ended by a notification
    uint64_t missed_wakeups  # sleeps that lasted to their end although a request was there: a wake-up was lost

cdef void worker_run(worker *w) noexcept nogil


cdef class Worker:
    """Owns a worker's thread, its service and the rings it serves."""
    cdef worker c
    cdef readonly Service service
    cdef readonly EventChannel channel
    cdef readonly list rings
    cdef object thread
    cdef object lock
    cdef object stopping    # the number of the order to stop, once it was given
    cdef uint64_t submit(self, uint32_t what, server_ring *ring)
    cdef int wait(self, uint64_t number) except -1

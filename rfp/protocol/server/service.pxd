# The interface between protocol and service: a service is the store's partition or an RPC handler.
# The protocol knows no keys, the service knows no slots.
#
# A worker calls these functions from its own thread, without the GIL, one at a time.  So a service
# needs no locks.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct service_session:  # one client thread's connection to one worker, as the service sees it
    void *state                # the service's own (pins, uploads); opened() sets it
    # number of the client process or host; 0: unknown, and each session counts as a peer of its own
    uint64_t peer
    # memory that the client WRITEs large values into (it may change at any time), or NULL
    const char *staging
    uint64_t staging_length
    uint32_t process  # PID of the client as the kernel reports it; 0: on another host, or unknown

cdef struct request:           # a private, checked copy: header and payload can no longer change
    service_session *session
    uint8_t opcode
    uint16_t count
    uint32_t flags
    uint32_t length
    const char *payload
    uint64_t release           # pin to release first, or 0
    uint64_t scratch[4]        # prepare() may leave values here for execute() (for example a hash)

cdef struct response:          # the place of the response
    char *payload  # inside the response slot: peers may read it at any time, so write only
    uint32_t capacity
    uint32_t length            # set by execute(), like all fields below
    uint8_t status
    uint8_t kind
    bint yield_after  # this took long (a copy of 64 KiB or more): serve the other clients next
    # no response yet: the worker runs tick() first, then executes this request again
    bint retry_later
    uint64_t result

cdef struct service:
    void *context
    # A client's session begins and ends (also by kill -9): create its state, free everything that
    # it held.
    void (*opened)(void *context, service_session *session) noexcept nogil
    void (*closed)(void *context, service_session *session) noexcept nogil
    # The worker calls this twice over a group of up to 16 requests before it executes them, with
    # stage 0 and then 1, to start cache misses early: hash the key and prefetch its bucket, then
    # prefetch the record.  May be NULL.
    void (*prepare)(void *context, request *request, int stage) noexcept nogil
    void (*execute)(void *context, request *request, response *response) noexcept nogil
    # The worker calls this with the time (CLOCK_MONOTONIC, ns) at least once a millisecond while
    # busy, and before the first execute() after a sleep.  The service uses it as its clock, and
    # expires pins and values.  Returns True if it has more to do.  May be NULL.
    bint (*tick)(void *context, uint64_t now) noexcept nogil
    # The service also has work without requests, such as records that clients WRITE into logs: the
    # worker calls tick() whenever it finds no request, and once more after it has announced a
    # sleep; work found by tick() counts as work.
    bint polls_when_idle
    uint64_t max_sleep_ns      # longest sleep; 0: the worker decides


cdef class Service:
    """Owns a service's memory for as long as a worker runs it."""
    cdef service c

# What the protocol asks of a service: the store's partition, an RPC handler.  The protocol knows no key, the service no slot.
#
# A worker calls these from its own thread, without the GIL, one at a time; so a service needs no locks.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct service_session:   # one client thread's connection to one worker, as the service sees it
    void *state                # the service's own (pins, uploads); set by opened()
    uint64_t peer              # which client process or host this is; 0: unknown, and then each session is one by itself
    const char *staging        # memory that the client WRITEs large values into (it may change at any time), or NULL
    uint64_t staging_length
    uint32_t process           # number of the client's process, as the kernel says; 0: it is on another host, or not known

cdef struct request:           # a private, checked copy: header and payload can no longer change
    service_session *session
    uint8_t opcode
    uint16_t count
    uint32_t flags
    uint32_t length
    const char *payload
    uint64_t release           # pin to release first, or 0
    uint64_t scratch[4]        # prepare() may leave here what execute() wants (a hash, say)

cdef struct response:          # where to put the answer
    char *payload              # straight in the response slot: peers may read it at any time, write only
    uint32_t capacity
    uint32_t length            # set by execute, like all below
    uint8_t status
    uint8_t kind
    bint yield_after           # this took long (a 64 KiB copy or more): let the other clients have their turn
    bint retry_later           # no answer yet: tick() has to run first, and then this request is executed again
    uint64_t result

cdef struct service:
    void *context
    # The client's session begins and ends (also by kill -9): make its state, free whatever it held.
    void (*opened)(void *context, service_session *session) noexcept nogil
    void (*closed)(void *context, service_session *session) noexcept nogil
    # Called twice over a group of up to 16 requests before they are executed, stage 0 then 1, to start cache misses early: hash
    # the key and prefetch its bucket, then prefetch the record.  May be NULL.
    void (*prepare)(void *context, request *request, int stage) noexcept nogil
    void (*execute)(void *context, request *request, response *response) noexcept nogil
    # Called with the time (CLOCK_MONOTONIC, ns) at least once a millisecond while busy and before the first execute after a
    # sleep: the service keeps it as its clock, and expires pins and values. Returns True if it has more to do. May be NULL.
    bint (*tick)(void *context, uint64_t now) noexcept nogil
    # Its work comes without requests too, such as records that clients WRITE into logs: tick() looks for it whenever the worker
    # finds no request, and what it finds counts as work.
    bint polls_when_idle
    uint64_t max_sleep_ns      # ns that a sleep may take; 0: as long as the worker likes


cdef class Service:
    """Owns a service's memory for as long as a worker runs it."""
    cdef service c

# Events of the worker's thread for the operator's log: a queue with one writer, the worker, and one
# reader, the control thread.  The worker must not wait for the interpreter, let alone for a log's
# handlers; it wakes the reader by an eventfd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport write
from rfp.core.core cimport rfp_load64_acquire, rfp_store64_release

cdef enum:
    EVENTS = 64                # capacity of the queue; events without room are counted as lost

cdef enum:                     # event.kind
    EVENT_ATTACHED = 0
    EVENT_REFUSED = 1          # detail: the status of the response
    EVENT_FENCED = 2           # detail: a reason below
    EVENT_STOPPED = 3          # detail: errno of the medium, or 0: the pool's file was removed
    # epoch: of the frames; process: a pid, or 0; member: its name, as its place may be reused
    EVENT_MIRROR_BEGAN = 4
    EVENT_MIRROR_JOINED = 5    # it is in sync
    EVENT_MIRROR_LEFT = 6      # detail: why its stream ended; 0: its memory may be freed

cdef enum:                     # why a session ended
    FENCE_DETACHED = 0         # its front-end closed it
    FENCE_DISCONNECTED = 1     # its front-end's connection ended
    FENCE_RETURNED = 2         # its front-end attached again
    FENCE_LEASE = 3            # it kept a lock that others wait for
    FENCE_INVALID = 4          # its logs contain a record that must not be applied
    FENCE_EARLIER = 5          # it was an earlier back-end's
    FENCE_STOPPED = 6          # the back-end stopped

cdef struct event:
    uint32_t kind
    uint32_t session
    uint64_t epoch
    uint64_t process           # as in client_session; of EVENT_REFUSED: the pid, or 0
    uint64_t detail
    uint8_t[32] member         # RNVM_MEMBER_MAX; of a mirror

cdef struct event_queue:
    event[EVENTS] each
    uint64_t written
    uint64_t read
    uint64_t lost
    int wake                   # eventfd, or -1


cdef inline void event_store(event_queue *q, const event *happened) noexcept nogil:
    cdef uint64_t one = 1
    if q.written - rfp_load64_acquire(&q.read) == EVENTS:
        q.lost += 1
        return
    q.each[q.written % EVENTS] = happened[0]
    rfp_store64_release(&q.written, q.written + 1)
    if q.wake >= 0:
        write(q.wake, &one, sizeof(one))       # fails only if 2^64 - 2 wake-ups are pending


cdef inline void event_put(event_queue *q, uint32_t kind, uint32_t session, uint64_t epoch,
                           uint64_t process, uint64_t detail) noexcept nogil:
    cdef event happened
    memset(&happened, 0, sizeof(happened))
    happened.kind = kind
    happened.session = session
    happened.epoch = epoch
    happened.process = process
    happened.detail = detail
    event_store(q, &happened)


cdef inline bint event_take(event_queue *q, event *taken) noexcept nogil:
    if q.read == rfp_load64_acquire(&q.written):
        return False
    taken[0] = q.each[q.read % EVENTS]
    rfp_store64_release(&q.read, q.read + 1)
    return True

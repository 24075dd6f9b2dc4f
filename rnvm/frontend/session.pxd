# A front-end's session at its back-end, which may be lost and replaced during any call; the fair
# lock that serializes threads; and how each call begins and ends.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport Region, RemoteRegion
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.remote_arena cimport RemoteArena
from rnvm.frontend.state cimport doubt, frontend, instance

cdef enum:                     # results of raise_or_retry(), unless it raises (CALL_RAISED)
    CALL_RAISED = -1
    CALL_AGAIN = 0                  # the call must be done once more
    HOLDS = 1                  # the operation counts after all: its result is in *result

# One thread at a time is inside a front-end; threads enter in the order of their requests.  With
# the GIL.
cdef class FairLock:
    cdef readonly uint64_t holder      # the thread that is inside, or 0
    # The thread of the open batch or transaction, or 0: no other thread may enter.
    cdef readonly uint64_t owner
    # The open batch or transaction has lost its thread: the next thread that enters ends it.
    cdef bint abandoned
    cdef object life                   # weak reference to an object that dies with that thread
    cdef object waiting                # deque of Waiter

    # Waits at most so many seconds.  False: timed out.  Raises the error of a signal handler.
    cdef bint acquire(self, double seconds) except -1
    cdef void release(self) noexcept
    cdef void hand_over(self) noexcept
    # Reserves the lock for this thread, until reserve(False) or the thread's end.
    cdef int reserve(self, bint reserved) except -1
    # Ends the reservation; the next thread that enters ends the open batch or transaction.
    cdef void abandon(self) noexcept


cdef class Session:
    cdef frontend c
    cdef readonly object address
    cdef readonly double timeout
    cdef readonly bint reconnect
    cdef readonly object structures        # those that are open here, by name; weak
    cdef object opener
    cdef object link
    cdef Channel channel
    cdef Region buffer
    cdef RemoteArena pool
    cdef RemoteRegion logs
    cdef bint uses_cas                     # locks are arbitrated by compare-and-swap
    cdef RemoteRegion words                # the lock words, then
    cdef object interruption               # the exception that a signal handler raised in a wait
    cdef FairLock lock
    cdef uint64_t ticket                   # of the last session, 0: there was none; and its number
    cdef uint32_t previous
    cdef unsigned char[16] uuid            # of the pool; zeros: not known yet
    # The last records of an earlier session, and the session, until a later one has confirmed that
    # they count, or that they never will.  Promise `replicated`: if they were not known to be
    # replicated; `persistent`, in a group: those that were acknowledged
    cdef doubt unconfirmed
    cdef uint32_t unconfirmed_session
    cdef uint64_t unconfirmed_epoch
    cdef uint64_t unconfirmed_ticket
    cdef bint is_closed                    # no further call begins
    cdef bint waits_ended                  # no call waits any more until a structure changes
    cdef list sleepers                     # a Watch for each thread that sleeps until that
    cdef bint has_ended                    # the connection is closed as well
    cdef bint is_forked
    cdef bint broken                       # the open transaction has lost its session
    cdef object open_batch                 # or None
    cdef object open_transaction           # or None; it keeps its structures alive
    cdef bint wants_operation_log          # c.session.logs_operations: whether this session has it
    cdef list lapsed                       # versions that no snapshot reads any more, but published
    # structure -> oldest retained version, when nothing was listed up to it
    cdef dict collected
    cdef uint64_t found_nothing_ns         # when other structures had nothing to free; 0: they had
    cdef bint crowded                      # a transaction has found no free block
    cdef bint forgetful                    # the pool's medium does not survive the machine's crash

    # The session
    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer,
                  uint32_t capacity, uint32_t *got) noexcept
    cdef int set_terms(self, str durability, bint sticky, bint waits_until_applied) except -1
    cdef int begin(self, uint64_t deadline) except -1
    cdef int begin_patiently(self) except -1
    cdef int raise_refused(self) except -1
    cdef int read_geometry(self, uint64_t size) except -1
    cdef int open_logs(self, uint64_t operations_tail, uint64_t redo_tail) except -1
    cdef int end(self) except -1
    cdef int forget_session(self) except -1
    cdef int connect_again(self) except -1
    cdef double seconds_left(self, uint64_t deadline)
    cdef int raise_unless_lost(self) except -1
    # Whether the last records of an earlier session count.
    cdef bint records_count(self, uint32_t session, uint64_t epoch, uint64_t ticket,
                            const doubt *written) except -1
    # The wait for replication failed (promise_await): raises, or as raise_or_retry().  wrote: the
    # call is an operation, and its records are durable.
    cdef int unreplicated(self, instance *s, int waited, bint wrote) except CALL_RAISED
    # Waits until everything written and read is replicated: OK, or a status of a lost session.
    cdef int await_replicated(self) except? -1
    cdef object not_in_time(self, bint wrote)
    # In a group: raises unless the back-end is still the primary.  LOST: the session is lost too.
    cdef int raise_unless_serving(self) except -1
    cdef int keep_unconfirmed(self) except -1
    # Raises OutcomeUnknown if unconfirmed records are gone.
    cdef int confirm_written(self) except -1
    cdef int finish(self) except -1
    # End the open scope: a transaction is discarded, a batch is written.
    cdef int discard_transaction(self) except -1
    cdef int end_abandoned(self) except -1
    # Open instances.
    cdef int add_instance(self, instance *s) except -1
    cdef bint mark_gone(self, instance *s) noexcept
    cdef void close_gone(self) noexcept
    # Nothing is kept any more for a snapshot of this session: now, or at the end of the present
    # call.  It waits for nobody and may be called by a finalizer.
    cdef void end_snapshot(self, instance *s, uint64_t version, uint64_t ticket) noexcept
    cdef void end_lapsed(self) noexcept
    # Calls: acquire_call, ensure_session, then the work; raise_or_retry or raise_for its status;
    # release_call.
    cdef int acquire_call(self, object timeout) except -1
    cdef int ensure_session(self) except -1
    cdef int raise_for(self, int status) except -1
    # A call returned a status below 0.  Raises, or returns CALL_AGAIN, or HOLDS (operations only).
    cdef int raise_or_retry(self, instance *s, int status, bint operation,
                            int *result) except CALL_RAISED
    cdef void release_call(self) noexcept

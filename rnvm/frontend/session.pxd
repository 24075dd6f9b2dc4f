# A front-end's session at its back-end, which may be lost and begun anew during any call; and how each call begins and ends.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.fabric.fabric cimport Region, RemoteRegion
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.remote_arena cimport RemoteArena
from rnvm.frontend._baton cimport Baton
from rnvm.frontend.state cimport doubt, frontend, instance, journal

cdef class Attachment:
    cdef frontend c
    cdef readonly object address
    cdef readonly double timeout
    cdef readonly bint reconnect
    cdef readonly object structures        # weak: what is open here
    cdef object opener
    cdef object link
    cdef Channel channel
    cdef Region buffer
    cdef RemoteArena pool
    cdef RemoteRegion logs
    cdef bint swapping                     # locks are settled by compare-and-swap
    cdef RemoteRegion words                # in these
    cdef object interruption               # what a signal handler raised during a wait
    cdef Baton baton                       # threads that share it take turns
    cdef uint64_t ticket                   # of the last session, 0: there was none; and which it was
    cdef uint32_t previous
    cdef unsigned char[16] uuid            # of the pool; zeros: none is known
    cdef bint is_closed                    # nothing more is begun
    cdef bint has_ended                    # nothing of the connection is left
    cdef bint is_forked
    cdef bint broken                       # the transaction under way lost its session
    cdef object open_batch                 # the one that is under way, or None
    cdef object open_transaction           # it keeps its structures alive
    cdef int settled                       # what an operation answered of which it is known by now that it holds
    cdef bint oplog                        # was asked for: c.oplog says whether this session does it
    cdef bint forgetful                    # the pool's medium does not survive the machine

    # The session
    cdef int call(self, uint8_t opcode, const void *question, uint32_t n, void *answer, uint32_t capacity, uint32_t *got) noexcept
    cdef int begin(self, uint64_t deadline) except -1
    cdef int begin_patiently(self) except -1
    cdef int take_geometry(self, uint64_t size) except -1
    cdef int begin_journal(self, journal *j, uint64_t at, uint64_t offset, uint64_t size, uint64_t tail) except -1
    cdef int end(self) except -1
    cdef int forget_session(self) except -1
    cdef int connect_again(self) except -1
    cdef int unless_lost(self) except -1
    cdef int outcome(self, uint32_t session, uint64_t epoch, uint64_t ticket, const doubt *written) except -1
    cdef int finish(self) except -1
    # What is under way is ended: a transaction discarded, a batch written.
    cdef int end_transaction(self) except -1
    cdef int end_orphans(self) except -1
    # Calls: enter, ready, then what is to be done; again or raise_for what that answered; leave.
    cdef int enter(self, object timeout) except -1
    cdef int ready(self) except -1
    cdef int raise_for(self, int found) except -1
    # A call answered below 0.  Raises, or returns whether the operation holds after all; else it is to be done once more.
    cdef int again(self, instance *s, int found, bint operation) except -1
    cdef void leave(self) noexcept
    cdef void reap(self) noexcept

# What a back-end knows of its front-ends: who holds and who waits for which lock, whose session has ended and how.
# Private memory of the service's thread.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.backend.events cimport event_queue
from rnvm.pool.state cimport pool

cdef enum:
    NOBODY = 0xffffffff        # in place of a session
    UNNAMED = 0x7fffffffffffffff  # in place of a process of this host that cannot be named
    FENCE_POINTS = 8           # a front-end that comes back may need several attempts, each of which begins and ends a session

cdef struct fence_point:       # an epoch that was cut off, and where: that judges its last records
    uint64_t epoch
    uint64_t operations
    uint64_t memory
    uint64_t ticket            # of the session that wrote them; 0: it was another back-end's, before this one began

cdef struct client_session:    # of a session
    const char *activity       # memory that it writes: a word for each naming entry, odd while inside, another one each time
    uint64_t process           # pid | start time << 22; 0: none of this host; UNNAMED
    bint attached              # its front-end is connected
    bint quiet                 # nobody stores into its rings any more
    uint64_t ticket            # for which its rings are given out, or 0; read by another thread
    uint64_t proof             # the same, kept when it is fenced: who says it had the session; 0: that was before we began
    fence_point[FENCE_POINTS] fence_points  # the last ones, in turn
    uint32_t fenced_epochs     # how many there have been

cdef struct lock:              # of a structure
    uint32_t holder            # RNVM_SHARED: those who settle it among themselves
    uint64_t epoch
    uint64_t revoked           # when it was asked back, or 0
    uint64_t offered           # when it was granted, as long as the holder has not been inside since
    uint64_t activity          # what stood on its desk then, or in the word
    uint64_t watched           # a word that others wait for to change, and since when
    uint64_t since
    uint64_t orphans           # highest operation of dead writers that is to be executed again, or 0

cdef struct waiter:
    uint32_t index             # of the structure
    uint32_t session
    bint shared                # it wants the lock together with others

cdef struct lock_manager:
    pool *p
    client_session *each
    lock *locks
    const char *words          # of structures, for locks that are shared: front-ends alone change them; NULL: there are none
    waiter *waiters            # in the order in which they came; a session waits for one lock at a time
    uint32_t waiting
    uint64_t now
    uint64_t lease
    bint lasting               # rings are memory that outlives the back-end: whoever mapped them before may still store there
    uint64_t fenced            # how many were
    uint64_t granted
    uint64_t stolen            # locks taken back from holders that were not inside
    event_queue events
    # Takes its rings away from a session, so that it can store into them no more; NULL where that cannot be done.
    void (*cut_off)(void *owner, uint32_t session) noexcept nogil
    void *owner

# 0, or -1: the medium failed.
cdef int lock_manager_begin(lock_manager *g) noexcept nogil
# Everything that the session has written is applied.
cdef int lock_manager_catch_up(lock_manager *g) noexcept nogil
# GRANTED, WAITING, or -1.
cdef int lock_request(lock_manager *g, uint32_t index, uint32_t session) noexcept nogil
# The lock for all who settle it by compare-and-swap.  word: the caller's own that stands there, or 0.  GRANTED: he is inside;
# WAITING; ABANDONED: *dead stands there, and nothing will come of the session that it names; or -1.
cdef int lock_share(lock_manager *g, uint32_t index, uint32_t session, uint64_t word, uint64_t *dead) noexcept nogil
cdef int lock_leave(lock_manager *g, uint32_t index, uint32_t session) noexcept nogil
cdef uint64_t lock_word(const lock_manager *g, uint32_t index) noexcept nogil
# Takes locks back that others wait for, and grants them.  0, or -1.
cdef int locks_tick(lock_manager *g) noexcept nogil
# What a front-end has written until now counts, and nothing later; its locks are free.  reason: of events.pxd.
cdef int lock_manager_fence(lock_manager *g, uint32_t session, uint32_t reason) noexcept nogil
# Where this epoch of a session was cut off; NULL: it was not, or that is too long ago.
cdef const fence_point *lock_manager_fence_point(const lock_manager *g, uint32_t session, uint64_t epoch) noexcept nogil
# Fences all: nothing that they do from now on counts.
cdef int lock_manager_end(lock_manager *g) noexcept nogil
# Publishes how far the holders' transactions are applied, and which operations are still orphans.
cdef void locks_publish(lock_manager *g) noexcept nogil

cdef enum:
    GRANTED = 0
    WAITING = 1
    ABANDONED = 2

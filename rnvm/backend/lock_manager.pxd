# The lock manager: which session holds or waits for which lock, which sessions have ended and how.
# Private memory of the service's thread.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.backend.events cimport event_queue
from rnvm.pool.state cimport pool

cdef enum:
    NOBODY = 0xffffffff        # in place of a session
    UNNAMED = 0x7fffffffffffffff  # in place of a process of this host that cannot be named
    # a reconnecting front-end may need several attempts; each begins and ends a session
    FENCE_POINTS = 8

# an epoch that was fenced, and where; decides whether its last records count
cdef struct fence_point:
    uint64_t epoch
    uint64_t operations
    uint64_t memory
    uint64_t ticket            # of the session that wrote them; 0: an earlier back-end's

cdef struct client_session:    # per session
    # memory that the session writes: a word per naming entry, odd while inside, a new value each
    # time
    const char *activity
    uint64_t process           # pid | start time << 22; 0: not of this host; UNNAMED
    bint attached              # its front-end is connected
    bint maps                  # it maps the pool
    bint quiet                 # no process stores into its rings any more
    uint64_t ticket            # under which its rings are shared, or 0; read by another thread
    # the ticket, kept after fencing: proves a claim to the session; 0: from before this back-end
    uint64_t proof
    fence_point[FENCE_POINTS] fence_points  # the last ones, in turn
    uint32_t fenced_epochs     # how many there have been

cdef struct lock:              # per structure
    uint32_t holder            # RNVM_SHARED: front-ends arbitrate by compare-and-swap
    uint64_t epoch
    uint64_t revoked           # time of the revocation, or 0
    uint64_t insisted          # time of the first request that was not patient, or 0
    uint64_t offered           # time of the grant if the holder was not inside since, else 0
    uint64_t activity          # the holder's activity word, or the lock word, at that time
    uint64_t watched           # a lock word that waiters expect to change, and since when
    uint64_t since
    uint64_t orphans           # highest operation of dead writers that must be re-executed, or 0

cdef struct waiter:
    uint32_t index             # of the structure
    uint32_t session
    bint shared                # it wants the lock in shared (compare-and-swap) mode
    bint patient               # the holder must not be fenced for it

cdef struct lock_manager:
    pool *p
    client_session *each
    lock *locks
    # lock words of structures in shared mode, written by front-ends alone; NULL: none
    const char *words
    waiter *waiters            # in order of arrival; a session waits for one lock at a time
    uint32_t waiting
    uint64_t now
    uint64_t lease
    # rings are memory that outlives the back-end: processes that mapped them before may still store
    # there
    bint lasting
    uint64_t fenced            # number of sessions fenced
    uint64_t granted
    uint64_t stolen            # locks revoked from holders that were not inside
    event_queue events
    # Takes its rings away from a session, so that it cannot store into them any more; NULL if that
    # is impossible.
    void (*cut_off)(void *owner, uint32_t session) noexcept nogil
    void *owner
    # Waits until the mirrors have room for one more step, and returns how many bytes a step may
    # publish; 0: no mirror follows.  NULL: none can.
    uint64_t (*await_room)(lock_manager *g) noexcept nogil

# Returns 0, or -1: the medium failed.
cdef int lock_manager_begin(lock_manager *g) noexcept nogil
# Applies everything that the session has written.
cdef int lock_manager_catch_up(lock_manager *g) noexcept nogil
# Applies all durable transactions.
cdef void lock_manager_replay(lock_manager *g) noexcept nogil
# Returns LOCK_GRANTED, LOCK_WAITING, or -1.  patient: the holder is not fenced for that.
cdef int lock_request(lock_manager *g, uint32_t index, uint32_t session,
                      bint patient) noexcept nogil
# Requests the lock in shared mode, in which front-ends arbitrate by compare-and-swap.  word: the
# caller's own word if it is in the lock word, or 0.  patient: as above.  Returns LOCK_GRANTED (the
# caller is inside), LOCK_WAITING, LOCK_ABANDONED (*dead is the word found, and the session that it
# names will never finish), or -1.
cdef int lock_share(lock_manager *g, uint32_t index, uint32_t session, uint64_t word,
                    bint patient, uint64_t *dead) noexcept nogil
cdef int lock_leave(lock_manager *g, uint32_t index, uint32_t session) noexcept nogil
# Whether a session other than this one is inside; *word: the word that changes when it leaves.
cdef bint lock_occupied(const lock_manager *g, uint32_t index, uint32_t session,
                        uint64_t *word) noexcept nogil
cdef uint64_t lock_word(const lock_manager *g, uint32_t index) noexcept nogil
# Revokes contended locks and grants them to waiters.  Returns 0, or -1.
cdef int locks_tick(lock_manager *g) noexcept nogil
# Fences a session: its records up to now count, later ones do not; its locks are free.  reason:
# FENCE_... of events.pxd.
cdef int lock_manager_fence(lock_manager *g, uint32_t session, uint32_t reason) noexcept nogil
# Returns where this epoch of a session was fenced; NULL: it was not, or too long ago.
cdef const fence_point *lock_manager_fence_point(const lock_manager *g, uint32_t session,
                                                 uint64_t epoch) noexcept nogil
# Fences all sessions: nothing that they write from now on counts.
cdef int lock_manager_end(lock_manager *g) noexcept nogil
# Publishes how far the holders' transactions are applied and which operations are still orphans.
cdef void locks_publish(lock_manager *g) noexcept nogil

cdef enum:
    LOCK_GRANTED = 0
    LOCK_WAITING = 1
    LOCK_ABANDONED = 2

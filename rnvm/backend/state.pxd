# The state of a back-end as plain C, shared by the modules of its service.
#
# Only the worker's thread uses it.
#
# connections   connections of front-ends and their sessions: attach, detach, cleanup of ended ones
# rpc_handlers  calls that need no interpreter
# mirrors       mirrors that follow the pool
# retained      the oldest version of a structure that a session uses
# promises      responses that wait until they are replicated
# openings      which sessions have opened a structure
# watches       structures for whose changes front-ends wait
# service       the class that owns all of it, calls that need the interpreter, the regular work

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_copy_out
from rfp.protocol.server.service cimport response
from rnvm.backend.lock_manager cimport lock_manager, locks_tick
from rnvm.backend.mirrors cimport mirror_list
from rnvm.backend.watches cimport watch_list
from rnvm.format.messages cimport RNVM_STOPPED
from rnvm.media.medium cimport replicated
from rnvm.pool.blocks cimport blocks_reclaim
from rnvm.pool.replay cimport pool_checkpoint

cdef struct version_use:           # of a session, as its word for a structure shows it
    uint64_t word
    uint64_t epoch
    uint64_t since             # time in ns since when the word names this version
    bint given_up

cdef struct backend:
    lock_manager g
    version_use **uses                 # per multi-version structure, for each session; or NULL
    uint64_t snapshot_ns               # for which the memory of an open snapshot is kept
    # per structure, for each session: its epoch when it opened the structure; or NULL
    uint64_t **opened
    uint32_t opened_index              # of the structure that was opened last
    bint opened_by_another     # by one session alone that maps the pool, before
    uint64_t opened_as_of              # number of sessions fenced when openings were last counted
    watch_list watched
    mirror_list mirrors
    uint64_t checkpointed              # time in ns
    uint64_t swept
    uint64_t applied                   # transactions since then
    uint64_t transactions
    uint64_t collected_ns              # time when some were collected last
    uint64_t checkpoints
    uint32_t flags
    unsigned char[16] uuid             # of the pool
    int file                           # descriptor of the pool's file, or -1: it cannot be removed
    bint removed                       # no process can open the file any more
    bint stopped                       # the medium failed, or the file was removed
    bint stop_reported                 # an event has reported the stop
    bint collecting                    # on its own, not only on request
    bint replaying
    bint asked                         # a call waits until it has collected
    void *held                         # of promises_hold(), for tests alone
    uint64_t frozen_until              # for tests alone: in place of mirrors.r.until; 0: none
    uint64_t *max_sleep_ns             # how long the worker may sleep
    void *owner                        # the PoolService


cdef inline void reply(response *answer, const void *bytes, uint32_t n) noexcept nogil:
    rfp_copy_out(answer.payload, bytes, n)
    answer.length = n

cdef inline int fail(backend *s, response *answer) noexcept nogil:
    """Answer STOPPED: the medium failed, so no call may be acknowledged."""
    s.stopped = True
    answer.status = RNVM_STOPPED
    answer.length = 0
    return 0


cdef inline void backend_locks(backend *s) noexcept nogil:
    if not s.stopped and locks_tick(&s.g):
        s.stopped = True


cdef inline int backend_checkpoint(backend *s) noexcept nogil:
    if pool_checkpoint(s.g.p):
        s.stopped = True
        return -1
    s.checkpointed = s.g.now
    s.applied = 0
    s.checkpoints += 1
    # Readers that validate by sequence cannot see returned blocks: all that is written there next
    # comes after a transaction that moved the sequence.
    s.g.p.reclaim_epoch += 1
    blocks_reclaim(s.g.p, s.g.p.reclaim_epoch)
    return 0

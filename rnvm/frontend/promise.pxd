# What a session of promise `replicated` has read, and the wait for it before each answer.
#
# Two numbers of frames, which only rise while the session lasts:
#
#   state    of all that it has read: applied data, other sessions' log records
#   own      of its own log records
#
# Every byte of the pool's state in this process is in a frame up to the greater one: each read of a
# state loads a frame word after its last data (frame_words.pxd: the back-end stores in the opposite
# order), and gives it to promise_note().  An answer waits until that frame is replicated.  A wait
# that failed leaves the numbers as they are: the next answer waits for them too.
#
# Sessions of other promises: all functions return at once.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport doubt, frontend, instance
from rnvm.frontend.status cimport OK

cpdef enum:                    # for _skip_steps()
    PROMISE_GATE = 1           # an answer waits
    PROMISE_STATE = 2          # frame words of states are noted
    PROMISE_OWN = 4            # and those of own records
    PROMISE_CACHED = 8         # also if all nodes were in the cache
    PROMISE_ORDER = 16         # a frame word is loaded after the state
    PROMISE_SERVES = 32        # in a group: the serving word is loaded after it
    PROMISE_STORED = 64        # own records that count when stored are waited for

# Whether frame words are loaded too early, for tests only.
cdef bint promise_loads_early() noexcept nogil

# A new session: nothing was read or written.
cdef void promise_begin(frontend *fe) noexcept nogil

# The frame word of a state that was read, loaded after it.
cdef inline void promise_note(frontend *fe, uint64_t frame) noexcept nogil:
    if frame > fe.promise.state:
        note_state(fe, frame)
cdef void note_state(frontend *fe, uint64_t frame) noexcept nogil
# Loads or READs the structure's frame word, after its data were read: OK, or the READ's status.
cdef int promise_note_line(instance *s) noexcept nogil
# The session's own records are durable.  frame: its word, loaded after that; 0: it was not read.
cdef void promise_note_own(frontend *fe, uint64_t frame) noexcept nogil
# Own records contain an operation of another session: it is a state that was read.
cdef int promise_reexecuted(frontend *fe) noexcept nogil
# The last own records that were written are in doubt again: the session was lost before their call
# could answer.
cdef void promise_in_doubt(frontend *fe) noexcept nogil
# Own records were written and are durable.  stored: they may be in no frame yet.
cdef void promise_wrote(frontend *fe, const doubt *written, bint stored) noexcept nogil

# Waits until all that was read (own: and written) is replicated: OK, UNREPLICATED after the
# deadline, LOST ...
cdef inline int promise_await(frontend *fe, bint own) noexcept nogil:
    if not fe.session.replicated or fe.promise.state <= fe.promise.acked and (
            not own or fe.promise.own <= fe.promise.acked and not fe.promise.unread
            and not fe.promise.stored):
        fe.promise.written.any = fe.promise.written.any and not own
        return promise_serves(fe) if fe.session.guarded else OK
    return await_frames(fe, own)
# In a group: waits until the back-end is known to be the primary still, after the last load: OK,
# LOST (another one may be the primary), UNREPLICATED after the deadline ...
cdef int promise_serves(frontend *fe) noexcept nogil
cdef int await_frames(frontend *fe, bint own) noexcept nogil
# Whether a change may be logged: OK, FEW_MIRRORS, or the status of a READ.
cdef int promise_allows(frontend *fe) noexcept nogil
# The structure is gone: waits until that is replicated: OK, UNREPLICATED, LOST ...
cdef int promise_gone(frontend *fe) noexcept nogil

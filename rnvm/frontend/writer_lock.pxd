# A structure's writer lock, as a front-end holds it.
#
# Two nested pairs: lock_acquire() / lock_release() get it from the back-end and give it back;
# lock_acquire_kept() / lock_release_kept() bracket each operation while it is held in between.

from rfp.fabric.fabric cimport remote_region
from rnvm.frontend.state cimport frontend, instance

# The back-end's activity words of this session.
cdef void activity_open(frontend *fe, remote_region *words) noexcept nogil

# Waits for the lock: until the waiters before us had it, and its holder is outside.  OK: s.holds,
# and we are inside.
cdef int lock_acquire(instance *s) noexcept nogil
# Gives the lock back, if we hold it.
cdef int lock_release(instance *s) noexcept nogil
# Enters with the lock that was kept.  OK: s.holds if it is still ours.
cdef int lock_acquire_kept(instance *s) noexcept nogil
# Leaves: the lock is kept, unless others wait for it.
cdef int lock_release_kept(instance *s) noexcept nogil
# Over a network, in a call that uses structure `s`: gives back the kept locks of all other
# structures that front-ends wait for.  One READ for each, all in one round trip, at most each 10 ms
# and each 1/64 of a lease.
cdef int locks_poll_others(const instance *s) noexcept nogil

# Within a batch or a transaction, before cached nodes are used: validates that the lock is still
# ours.  Mapped: one load.  Over a network: a READ, at most twice a lease unless others wait.
cdef int lock_validate(instance *s) noexcept nogil
# Whether all locks that were acquired have been ours until now: for a transaction that writes
# nothing, and so has no record that would show it.
cdef int locks_confirm(frontend *fe) noexcept nogil
# Confirms the result of reading under the lock: `status`, or another one if the lock was lost
# meanwhile.  A process that was stopped for longer than a lease may have lost it; then the nodes
# it fetched are of different states.
cdef int lock_confirm(instance *s, int status) noexcept nogil

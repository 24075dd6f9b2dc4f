# Structures whose changes the back-end reports: threads of front-ends sleep on their sequence, the
# first word of their status line (rnvm/frontend/watch.pyx has the protocol).

from libc.stdint cimport uint32_t, uint64_t
from rnvm.backend.lock_manager cimport lock_manager

cdef struct watch:
    uint32_t index             # of the structure's naming entry
    uint32_t structure         # its id
    uint64_t noted             # number of its last transaction that was reported
    uint64_t orphans           # operations of dead writers, as they were reported

cdef struct watch_list:
    watch *items               # room for one of each structure
    uint32_t count

# Begins to watch a structure.  Changes up to now are reported first: only a change after this call
# may end the watch.
cdef void watches_add(watch_list *w, lock_manager *g, uint32_t index) noexcept nogil
# Wakes a sleeper for each transaction that was applied since the last call.  Ends a watch for which
# no thread sleeps.
cdef void watches_report(watch_list *w, lock_manager *g) noexcept nogil
# Wakes all sleepers: the back-end stops.
cdef void watches_end(watch_list *w, lock_manager *g) noexcept nogil
# No structure is watched, and none opened by one session alone: after a restart.
cdef void watches_clear(lock_manager *g) noexcept nogil
# Shows in its line whether one session alone has opened a structure.
cdef void show_alone(lock_manager *g, uint32_t index, bint alone) noexcept nogil

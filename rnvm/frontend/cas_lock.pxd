# The writer lock of front-ends that arbitrate it among themselves by compare-and-swap (AsymNVM):
# no call, unless another front-end held it since.

from rfp.fabric.fabric cimport remote_region
from rnvm.frontend.state cimport frontend, instance
from rnvm.frontend.status_line cimport status_line

# The back-end's lock words; NULL: this front-end does not use them.
cdef void cas_open(frontend *fe, remote_region *words) noexcept nogil

# Waits for the lock.  OK: s.holds.
cdef int cas_acquire(instance *s) noexcept nogil
cdef int cas_release(instance *s) noexcept nogil
# *applied: whether everything acknowledged is applied, as far as the line, and then the lock word,
# can show.
cdef int cas_all_applied(instance *s, const status_line *seen, bint *applied) noexcept nogil

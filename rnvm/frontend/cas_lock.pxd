# The writer lock of front-ends that settle by compare-and-swap who of them has it (AsymNVM): no call, unless another one had it.

from rnvm.frontend.state cimport instance
from rnvm.frontend.status_line cimport line

# Waits for the lock.  OK: s.holds.
cdef int swap_acquire(instance *s) noexcept nogil
cdef int swap_release(instance *s) noexcept nogil
# Whether all that was acknowledged is applied, as far as a look at the line, and then at the word, can tell.
cdef int swap_applied(instance *s, const line *seen, bint *applied) noexcept nogil

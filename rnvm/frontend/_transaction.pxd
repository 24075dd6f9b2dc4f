# The present transaction of a front-end: operations done on the nodes here, and the record that says what they have changed.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport frontend, instance

# One operation on the nodes here: what apply answered; below 0 nothing of it is left.
cdef int transaction_do(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil
# What was changed, as one record of the memory log.
cdef int transaction_write(frontend *fe) noexcept nogil
# Writes what the batch or the transaction has changed, and waits until it holds.
cdef int transaction_commit(frontend *fe) noexcept nogil
# For a front-end that keeps nothing here: waits until the back-end has applied what was written.
cdef int transaction_await(frontend *fe) noexcept nogil
# What is whole in anybody's log is applied when this answers OK.
cdef int transactions_apply(frontend *fe) noexcept nogil

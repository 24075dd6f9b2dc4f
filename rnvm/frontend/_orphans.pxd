# Operations of dead writers that are durable and in no transaction: whoever has the lock executes them.

from rnvm.frontend.state cimport instance

# Each of them once, before anything of ours; under the lock, as its grant has said which they are.
cdef int orphans_execute(instance *s) noexcept nogil

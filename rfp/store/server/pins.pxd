# Pins: while one is held, or until its lease has surely ended, its record's memory is not reused, whatever becomes of the key.
#
# A pin belongs to the session that got it.  Its deadline is set by the first tick() after it was granted, so it never ends
# before the client's own reckoning of it, however long the worker stood still in between.

from libc.stdint cimport uint8_t, uint64_t
from rfp.store.layout cimport kv_record
from rfp.store.server.records cimport partition, pin, session_resources

# peer: session.peer.
cdef session_resources *session_resources_open(partition *p, uint64_t peer) noexcept nogil
# Releases all; the caller knows that no READ of this client can be accepted any more.
cdef void session_resources_close(partition *p, session_resources *h) noexcept nogil
# The pin, or NULL when the session holds as much as it may.
cdef pin *pin_grant(partition *p, session_resources *h, kv_record *record) noexcept nogil
# A pin that the session does not hold is counted and nothing else.
cdef void pin_release(partition *p, session_resources *h, uint64_t id) noexcept nogil
# Ends the leases that have passed.
cdef void pins_tick(partition *p) noexcept nogil

# Pins: while a pin is held, or until its lease has certainly ended, its record's memory is not
# reused, even if the key changes.
#
# A pin belongs to the session that received it.  The first tick() after the grant sets its
# deadline.  So a pin never ends before its lease ends by the client's own clock, however long the
# worker was stopped in between.

from libc.stdint cimport uint8_t, uint64_t
from rfp.store.layout cimport kv_record
from rfp.store.server.records cimport partition, pin, session_resources

# peer: session.peer.
cdef session_resources *session_resources_open(partition *p, uint64_t peer) noexcept nogil
# Releases all pins; the caller guarantees that no READ of this client can be accepted any more.
cdef void session_resources_close(partition *p, session_resources *h) noexcept nogil
# Returns the pin, or NULL if the session holds its maximum.
cdef pin *pin_grant(partition *p, session_resources *h, kv_record *record) noexcept nogil
# Releases a pin.  A pin that the session does not hold is only counted.
cdef void pin_release(partition *p, session_resources *h, uint64_t id) noexcept nogil
# Ends the leases that have expired.
cdef void pins_tick(partition *p) noexcept nogil

# Pins of views: they keep the memory of records that client processes use in place.
#
# Such a pin has no lease.  It belongs to a client process, not to a session, and is shared by all
# views of its record in that process, which count themselves in the process's view table
# (view_table.h).  It ends when the worker finds that no view holds it, or when the process has
# ended.
#
# The control thread opens and ends holders; the worker owns them in between:
#
#   holders_open    control thread    pushes the holder onto `handed`
#   adopt           worker            takes it from there, before it grants a pin
#   holders_end     control thread    sets `ending`
#   views_tick      worker            drops the pins, forgets the holder, sets `ended`
#
# and the control thread frees it after `ended`.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from rfp.store.layout cimport kv_record
from rfp.store.messages cimport kv_viewed
from rfp.store.server.records cimport partition, view_holder

cdef enum:
    TICK_PINS = 512            # examined by one tick(), and by one request that finds no memory

cdef view_holder *holders_open(partition *p, uint64_t peer, uint64_t *words) noexcept nogil
cdef void holders_end(partition *p, view_holder *h) noexcept nogil
cdef bint holders_ended(view_holder *h) noexcept nogil
# Fills in the place of a record and the pin of this client process; returns a kv_status.  May move
# the record.
cdef uint8_t view_grant(partition *p, uint64_t peer, kv_record *record,
                        kv_viewed *granted) noexcept nogil
# For a request that needs memory: drops pins that no view holds, of records that have left the
# index; returns whether it has dropped one.  It does nothing within a millisecond of the last time,
# unless the request must fail otherwise.
cdef bint views_reap(partition *p, bint last_chance) noexcept nogil
# Drops pins that no view holds, a part of them at a time, and the pins of processes that have
# ended; returns whether it has more to do now.
cdef bint views_tick(partition *p) noexcept nogil
# Returns the first invariant that does not hold, or NULL.
cdef const char *views_check(partition *p) noexcept nogil

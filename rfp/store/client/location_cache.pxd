# The location cache: for the hash of a key, the place where its record was read or named last.
#
# An entry proves nothing: the reader validates what it READs there (located_read.pxd).  Two keys
# with one hash share an entry.  The table has sets of LOCATION_WAYS entries, each set in two cache
# lines; a new entry replaces the least recently used one of its set, which samples the whole.
# Callers hold the GIL.  No function allocates, except location_put() once.

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    LOCATION_WAYS = 8

cdef struct location:
    uint64_t hash
    # 0: no entry.  From the top: time of the last use (15 bits, in units of the cache's clock),
    # whether the record has an expiry (1), then length and offset as a slot has them (layout.h).
    uint64_t place

cdef class LocationCache:
    """A bounded table from hashes to places."""
    cdef location *entries
    cdef void *memory              # that contains the entries
    cdef readonly uint64_t limit   # entries at most
    cdef readonly uint64_t used    # entries in use
    cdef uint64_t set_mask
    cdef uint64_t uses             # of entries: the clock
    cdef int clock_shift

    # NULL: none.  The pointer is valid until the next call.
    cdef location *find(self, uint64_t hash) noexcept
    # slot: as the index contains it.  Returns whether the entry is there now: False without memory.
    cdef bint put(self, uint64_t hash, uint64_t slot, bint expires) noexcept
    cdef void drop(self, location *entry) noexcept
    cdef location *set_of(self, uint64_t hash) noexcept
    cdef void use(self, location *entry, uint64_t place) noexcept
    cdef bint allocate(self) noexcept

cdef inline uint64_t location_slot(const location *entry, uint64_t tag) noexcept nogil:
    # The slot word of the index, whose tag an entry does not contain.
    return tag << 48 | entry.place & ((<uint64_t> 1 << 48) - 1)

cdef inline bint location_expires(const location *entry) noexcept nogil:
    return entry.place >> 48 & 1

"""The location cache (the contract is in location_cache.pxd)."""

from libc.stdlib cimport calloc, free

from rfp.core.limits cimport RFP_LINE
from rfp.store.layout cimport kv_slot_length

from rfp.errors import out_of_bounds

LOCATIONS_MAX = 1 << 28

cdef enum:
    # Units of the clock in which as many entries are used as the cache has; an entry that was not
    # used for 2^15 units looks young again.
    UNITS_PER_ROUND = 64
    USED_SHIFT = 49

cdef uint64_t UNITS = 1 << 15
cdef uint64_t EXPIRES = <uint64_t> 1 << 48


cdef class LocationCache:
    """A bounded table from the hash of a key to the place of its record.

    Args:
        limit: entries at most, rounded up to a power of two and at least one set; 16 bytes each,
            allocated with the first entry.
    """

    def __cinit__(self, object limit):
        if not 1 <= limit <= LOCATIONS_MAX:
            raise out_of_bounds("location_cache", limit, 1, LOCATIONS_MAX)
        self.limit = LOCATION_WAYS
        while self.limit < <uint64_t> limit:
            self.limit *= 2
        self.set_mask = self.limit // LOCATION_WAYS - 1
        self.clock_shift = 0
        while self.limit >> self.clock_shift > UNITS_PER_ROUND:
            self.clock_shift += 1

    def __dealloc__(self):
        free(self.memory)

    cdef location *set_of(self, uint64_t hash) noexcept:
        # The low 16 bits choose the worker.
        return self.entries + (hash >> 16 & self.set_mask) * LOCATION_WAYS

    cdef location *find(self, uint64_t hash) noexcept:
        cdef location *entry
        cdef int i
        if self.entries == NULL:
            return NULL
        entry = self.set_of(hash)
        for i in range(LOCATION_WAYS):
            if entry.hash == hash and entry.place:
                self.use(entry, entry.place)
                return entry
            entry += 1
        return NULL

    cdef void use(self, location *entry, uint64_t place) noexcept:
        cdef uint64_t now = (self.uses >> self.clock_shift) % UNITS
        self.uses += 1
        entry.place = now << USED_SHIFT | place & ((<uint64_t> 1 << USED_SHIFT) - 1)

    cdef bint put(self, uint64_t hash, uint64_t slot, bint expires) noexcept:
        cdef uint64_t now = (self.uses >> self.clock_shift) % UNITS, age, oldest = 0
        cdef location *entry
        cdef location *chosen = NULL
        cdef int i
        if not kv_slot_length(slot):               # an empty place, or a length that it cannot say
            return False
        if self.entries == NULL and not self.allocate():
            return False
        entry = self.set_of(hash)
        for i in range(LOCATION_WAYS):
            if entry.place and entry.hash == hash:
                chosen = entry
                break
            age = UNITS if not entry.place else (now - (entry.place >> USED_SHIFT)) % UNITS
            if chosen == NULL or age > oldest:
                chosen = entry
                oldest = age
            entry += 1
        if not chosen.place:
            self.used += 1
        chosen.hash = hash
        self.use(chosen, slot & (EXPIRES - 1) | (EXPIRES if expires else 0))
        return True

    cdef bint allocate(self) noexcept:
        self.memory = calloc(self.limit * sizeof(location) + RFP_LINE, 1)
        if self.memory == NULL:
            return False
        self.entries = <location *> (
            (<uint64_t> self.memory + RFP_LINE - 1) // RFP_LINE * RFP_LINE)
        return True

    cdef void drop(self, location *entry) noexcept:
        if entry.place:
            self.used -= 1
        entry.place = 0

    @property
    def bytes(self):
        """Return the memory of the table in bytes."""
        return 0 if self.entries == NULL else self.limit * sizeof(location)

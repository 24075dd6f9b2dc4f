# cython: boundscheck=True, wraparound=True, cdivision=False
"""The parts of located reads, one by one."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t
from libc.string cimport memset

from rfp.store.client.located_read cimport located_check, located_record
from rfp.store.client.location_cache cimport (
    LocationCache, location, location_expires, location_slot,
)
from rfp.store.client.server_clock cimport (
    server_clock, server_clock_is_before, server_clock_note,
)


def whole_record(bytes copy not None, uint64_t seed, bytes key not None):
    """Return (value, version, expiry in ms) if the copy is a whole record of the key, else None."""
    cdef located_record found
    cdef const char *base = PyBytes_AS_STRING(copy)
    if not located_check(base, len(copy), seed, PyBytes_AS_STRING(key), len(key), &found):
        return None
    begin = found.value - base
    return copy[begin:begin + found.value_length], found.version, found.expiry


def put(LocationCache cache not None, uint64_t hash, uint64_t slot, bint expires=False):
    """Remember a place; return whether the cache has it now."""
    return cache.put(hash, slot, expires)


def find(LocationCache cache not None, uint64_t hash):
    """Return (slot, expires), or None.  The tag of the slot is that of the hash."""
    cdef location *entry = cache.find(hash)
    if entry == NULL:
        return None
    return location_slot(entry, hash >> 48), location_expires(entry)


def drop(LocationCache cache not None, uint64_t hash):
    """Forget a place."""
    cdef location *entry = cache.find(hash)
    if entry != NULL:
        cache.drop(entry)


cdef class ServerClock:
    """The server's clock as a client knows it; all times in ns."""
    cdef server_clock c

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))

    def note(self, uint64_t word, *, uint64_t posted, uint64_t now):
        """Note a word that a READ, posted at a time, has brought."""
        server_clock_note(&self.c, word, posted, now)

    def is_before(self, uint64_t time, *, uint64_t now):
        """Return whether a time of the server's clock is certainly in the future."""
        return server_clock_is_before(&self.c, time, now)

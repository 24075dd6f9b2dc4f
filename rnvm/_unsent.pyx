# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Pages that are to be sent (the contract is in _unsent.pxd)."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc
from rnvm._layout cimport RNVM_PAGE, rfp_copy_out
from rnvm._persistence cimport medium_flush, medium_write
from rnvm._state cimport pool

cdef enum:
    ROOM = 1024                # pages, at first


cdef int unsent_begin(pool *p, bint in_lines) noexcept nogil:
    if in_lines:
        return 0
    p.unsent = <uint64_t *> calloc((p.g.size // RNVM_PAGE + 64) // 64, sizeof(uint64_t))
    return 0 if p.unsent != NULL else -1


cdef void unsent_end(pool *p) noexcept nogil:
    free(p.unsent)
    free(p.unsent_pages)


cdef bint room(pool *p, uint64_t pages) noexcept nogil:
    cdef uint64_t wanted = 2 * p.unsent_room if p.unsent_room else ROOM
    cdef uint64_t *grown
    if p.unsent_count + pages <= p.unsent_room:
        return True
    wanted = max(wanted, p.unsent_count + pages)
    grown = <uint64_t *> realloc(p.unsent_pages, wanted * sizeof(uint64_t))
    if grown == NULL:
        return False
    p.unsent_pages = grown
    p.unsent_room = wanted
    return True


cdef void unsent_write(pool *p, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    cdef uint64_t page = offset // RNVM_PAGE, last = (offset + n - 1) // RNVM_PAGE
    if p.unsent == NULL or not n or not room(p, last - page + 1):
        medium_write(p.m, offset, source, n)
        return
    rfp_copy_out(p.m.base + offset, source, n)
    while page <= last:
        if not p.unsent[page >> 6] >> (page & 63) & 1:
            p.unsent[page >> 6] |= <uint64_t> 1 << (page & 63)
            p.unsent_pages[p.unsent_count] = page
            p.unsent_count += 1
        page += 1


cdef void unsent_send(pool *p) noexcept nogil:
    cdef uint64_t page, at
    while p.unsent_count:
        p.unsent_count -= 1
        page = p.unsent_pages[p.unsent_count]
        p.unsent[page >> 6] &= ~(<uint64_t> 1 << (page & 63))
        at = page * RNVM_PAGE
        medium_flush(p.m, at, min(<uint64_t> RNVM_PAGE, p.m.length - at))

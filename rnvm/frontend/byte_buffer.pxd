# A growable buffer of bytes.  Zeroed memory is an empty one; bytes, length and room may be read.

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    BUFFER_BYTES_MIN = 4096    # of the first allocation

cdef struct byte_buffer:
    char *bytes
    uint64_t length
    uint64_t room

# Makes room for n more bytes.  False: no memory, and the buffer is as before.
cdef inline bint buffer_reserve(byte_buffer *b, uint64_t n) noexcept nogil:
    cdef uint64_t room = b.room
    cdef char *grown
    if n <= room - b.length:
        return True
    while n > room - b.length:
        room = 2 * room if room else BUFFER_BYTES_MIN
    grown = <char *> realloc(b.bytes, room)
    if grown == NULL:
        return False
    b.bytes = grown
    b.room = room
    return True

# Appends n bytes.  False: no memory, and nothing was appended.
cdef inline bint buffer_append(byte_buffer *b, const void *bytes, uint64_t n) noexcept nogil:
    if not buffer_reserve(b, n):
        return False
    if n:
        memcpy(b.bytes + b.length, bytes, n)
    b.length += n
    return True

# Drops all bytes from `length` on; the memory stays.
cdef inline void buffer_truncate(byte_buffer *b, uint64_t length) noexcept nogil:
    b.length = length

cdef inline void buffer_free(byte_buffer *b) noexcept nogil:
    free(b.bytes)
    b.bytes = NULL
    b.length = b.room = 0

# cython: boundscheck=True, wraparound=True, cdivision=False
"""A file in memory that records every write and sync."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from rnvm.media.file cimport file

from rfp.errors import FabricError


cdef int write_tape(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil:
    with gil:
        tape = <RecordingFile> f.owner
        tape.outside = not tape.area[0] <= at < tape.area[1]
        tape.events.append((at, PyBytes_FromStringAndSize(<const char *> bytes, n)))
    return 0


cdef int sync_tape(file *f) noexcept nogil:
    if f.broken:
        return f.broken
    with gil:
        tape = <RecordingFile> f.owner
        if not (tape.deaf and tape.outside):
            tape.events.append(None)
    return 0


cdef int log_tape(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil:
    cdef int error = write_tape(f, bytes, n, at)
    return error if error else sync_tape(f)


cdef class RecordingFile(File):
    """A file in memory, and everything that was written to it.

    Args:
        content: The initial durable content.
        area: Offsets of the write-ahead area in it.
        deaf: Plant a disk that ignores a sync after a write outside the area.
    """

    def __init__(self, bytes content not None, tuple area=(0, 0), bint deaf=False):
        self.content = content
        self.area = area
        self.deaf = deaf
        self.events = []
        self.f.owner = <void *> self
        self.f.write = write_tape
        self.f.sync = sync_tape
        self.f.log = log_tape

    cdef bytes load(self, uint64_t length, char *to):
        if length > <uint64_t> len(self.content):
            raise FabricError(f"the file ends at {len(self.content)} of {length} bytes")
        memcpy(to, PyBytes_AS_STRING(self.content), length)

# A file that records every write and sync, for tests of the file medium.

from rnvm.media.file cimport File


cdef class RecordingFile(File):
    """A file in memory."""
    cdef readonly bytes content        # the initial content
    cdef readonly list events          # (offset, bytes) for a write, None for a sync
    cdef public bint deaf              # planted: ignore a sync after a write outside the area
    cdef readonly tuple area           # offsets of its begin and end
    cdef bint outside                  # the last write was outside

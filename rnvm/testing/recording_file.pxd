# A file that remembers every write and sync, for tests of what writes to it.

from rnvm.media.file cimport File


cdef class RecordingFile(File):
    """A file in memory."""
    cdef readonly bytes content        # at first
    cdef readonly list events          # (offset, bytes) for a write, None for a sync
    cdef public bint deaf              # planted: syncs between a write outside the area and one inside do nothing
    cdef readonly tuple area           # offsets of its begin and end
    cdef bint outside                  # the last write was

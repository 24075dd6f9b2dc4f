# Catch-up: a fuzzy copy of the primary's pool, chunk by chunk, while frames are applied in between.
# docs/replication.md proves it.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry, rnvm_header
from rnvm.format.replication cimport rnvm_identity
from rnvm.media.medium cimport medium

cdef enum:
    CHUNK_MAX = 1 << 18        # bytes of a chunk

# Marks the copy durably as not whole (*i becomes its new record, without an identity), before
# anything is copied.  header: the primary's.  A medium with another header gets zeros instead.
# Returns 0; 1: it had another header, so the medium must be closed and opened again, because it may
# use that header's write-ahead area; -1: the medium failed.
cdef int copier_begin(medium *m, const rnvm_header *header, rnvm_identity *i) noexcept nogil
# Writes those lines of a chunk (private memory, of the primary's pool from `at` on) that differ
# from the copy's, except headers and parts that are each copy's own.  Returns the bytes written.
cdef int64_t copier_chunk(medium *m, const rnvm_geometry *g, uint64_t at, const char *bytes,
                          uint64_t n) noexcept nogil
# After all chunks are written and all frames published before the end of the last READ are applied:
# formats the copy's own write-ahead area if it has no header, writes the header, then the mark
# RNVM_WHOLE with the new identity.  Returns 0; -1: the medium failed.
cdef int copier_end(medium *m, const rnvm_geometry *g, rnvm_header *header,
                    rnvm_identity *i) noexcept nogil

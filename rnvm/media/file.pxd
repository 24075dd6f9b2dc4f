# The medium of pools in ordinary files: memory shared by peers of this host, a file, and in the
# file the write-ahead area.
#
#   write, flush        drain                             area full, or too much for a frame
#   memory + a note --> a frame with all notes' bytes --> write_back(): pages to their places
#                       (one write, one sync)             (then no frame is needed)
#
# A write or flush only changes the memory and adds a note.  A drain puts the bytes of all notes
# into one frame behind the last one in the area, with one write and one sync; so the logs of eight
# sessions cost as much as those of one.  Pages go to their own places when the area is full, or
# when there was more to make durable than a frame takes; write_back() has the order.  Each drain of
# a file without an area (no pool yet, or a pool that was made in memory) writes back.

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.system cimport pthread_mutex_t
from rnvm.media.medium cimport Medium, medium
from rnvm.media.wal cimport wal

cdef extern from "rnvm/media/group_commit.h" nogil:
    struct rnvm_group_commit:
        uint64_t begun
        int error
    void rnvm_group_commit_open(rnvm_group_commit *g)
    void rnvm_group_commit_close(rnvm_group_commit *g)
    int rnvm_group_commit_do(rnvm_group_commit *g, bint more, int (*job)(void *) noexcept nogil,
                             void *subject)


cdef struct file:              # a file that is written at offsets and synced: 0, or an errno
    int (*write)(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil
    int (*sync)(file *f) noexcept nogil
    # write and sync, of whole pages that are in pages
    int (*log)(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil
    void *owner
    int fd
    int direct                 # the same file opened with O_DIRECT, or -1
    int broken                 # for tests: syncs fail with this errno


cdef struct note:              # bytes written or flushed since the last drain began
    uint64_t begin             # multiples of 8
    uint64_t end


cdef struct file_medium:       # medium.state
    medium *m
    file *file                 # NULL: nothing survives
    rnvm_group_commit group
    pthread_mutex_t lock       # protects the fields below
    note *notes
    uint32_t count
    bint overflown             # no room for a note, or more must be written back than was noted
    bint used                  # something was written or flushed
    uint64_t *dirty            # bit: this page has changed since it was last written back
    # Used only by the thread that makes a frame or writes back.
    note *taken
    uint64_t *going            # pages being written back
    wal area
    uint64_t generation        # of the next frame; 0: the area must be reset first
    uint64_t sequence
    uint64_t end               # its offset in the file
    char *frame
    uint64_t longest           # maximum bytes of a frame
    uint64_t syncs
    uint64_t frames
    uint64_t written_back


cdef class File:
    """A file as the medium uses it."""
    cdef file f
    cdef bytes load(self, uint64_t length, char *to)   # raises if the file has fewer bytes


cdef class FileMedium(Medium):
    """Memory that peers share, and the file that it is written to."""
    cdef file_medium i
    cdef File file
    cdef int memory            # the memfd
    cdef bint locked           # lock and group commit are initialised
    cdef uint64_t mapped
    cdef int allocate(self) except -1
    cdef void release(self) noexcept

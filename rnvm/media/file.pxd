# The medium of pools in ordinary files: memory that peers of this host share, a file, and in it the write-ahead area.
#
# What is sent only changes the memory and is noted.  A drain puts the bytes of all that was noted into one frame behind the last
# one in the area, with one write and one sync; so what eight sessions have logged costs as much as what one has.  Pages go to
# their own places when the area is full, or when there was more to be made durable than a frame takes; write_back() has the
# order.  A file without an area (no pool yet, or one that was made in memory) is written back by each drain.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.media.medium cimport Medium, medium
from rnvm.media.wal cimport wal

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from "rnvm/media/group_commit.h" nogil:
    struct rnvm_group_commit:
        uint64_t begun
        int error
    void rnvm_group_commit_open(rnvm_group_commit *g)
    void rnvm_group_commit_close(rnvm_group_commit *g)
    int rnvm_group_commit_do(rnvm_group_commit *g, bint more, int (*job)(void *) noexcept nogil, void *subject)


cdef struct file:              # a file that is written at places and synced: 0, or an errno
    int (*write)(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil
    int (*sync)(file *f) noexcept nogil
    int (*log)(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil     # both, of whole pages that lie in pages
    void *owner
    int fd
    int direct                 # the same file past the page cache, or -1
    int broken                 # tests: syncs fail with this


cdef struct note:              # bytes that were sent since the last drain began
    uint64_t begin             # multiples of 8
    uint64_t end


cdef struct file_medium:       # medium.state
    medium *m
    file *file                 # NULL: nothing survives
    rnvm_group_commit group
    pthread_mutex_t lock       # over what follows
    note *notes
    uint32_t count
    bint overflown             # there was no room for a note, or more is to be written back than was noted
    bint used                  # something was sent
    uint64_t *dirty            # bit: this page was changed since it was last written back
    # What only he who makes a frame or writes back touches.
    note *taken
    uint64_t *going            # pages that are being written back
    wal area
    uint64_t generation        # of the next frame; 0: the area must begin anew before there can be one
    uint64_t sequence
    uint64_t end               # where it stands in the file
    char *frame
    uint64_t longest           # bytes of a frame
    uint64_t syncs
    uint64_t frames
    uint64_t written_back


cdef class File:
    """A file as an image uses it."""
    cdef file f
    cdef bytes load(self, uint64_t length, char *to)   # raises where it has fewer bytes


cdef class FileMedium(Medium):
    """Memory that peers share, and the file that it is written to."""
    cdef file_medium i
    cdef File file
    cdef int memory            # the memfd
    cdef bint locked           # the lock and the group are there
    cdef uint64_t mapped
    cdef int allocate(self) except -1
    cdef void release(self) noexcept

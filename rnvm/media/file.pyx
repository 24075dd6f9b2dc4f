"""Pools in ordinary files: notes, frames, write-back."""

import contextlib
import os

from libc.errno cimport EINTR, EINVAL, EIO, ENXIO, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport munmap
from posix.uio cimport RWF_DSYNC, iovec, pwritev2
from posix.unistd cimport close as close_fd, fdatasync, lseek, pread, pwrite
from rfp.core.core cimport rfp_copy_in, rfp_copy_out, rfp_store64
from rfp.core.limits cimport system_page
from rfp.core.memfd cimport rfp_memfd_create, rfp_memfd_map_empty, rfp_memfd_map_new, rfp_memfd_seal
from rfp.core.system cimport (
    SEEK_DATA, SEEK_HOLE, aligned_alloc, pthread_mutex_destroy, pthread_mutex_init,
    pthread_mutex_lock, pthread_mutex_unlock,
)
from rnvm.format.layout cimport RNVM_PAGE, rnvm_up
from rnvm.format.wal cimport (
    RNVM_WAL_FRAMES, rnvm_frame, rnvm_frame_crc, rnvm_range, rnvm_wal_header,
)
from rnvm.media.medium cimport medium_operations, raise_failed
from rnvm.media.wal cimport (
    WAL_SAME_GENERATION, wal_bugs, wal_header, wal_read, wal_room, wal_scan,
)

from rfp.core.forks import live
from rfp.errors import FabricError, InvalidArgument

cdef enum:
    RANGES_MAX = 4096          # between two drains
    FRAME_BYTES_MAX = 1 << 20  # bytes of a frame; more is written back at once
    LOADED_AT_ONCE = 1 << 20       # bytes of a file that are read at once


cdef object refused(str what, str hint=None, int error=0):
    """Return the exception for a failed call.  error: the errno; 0: that of the last call."""
    error = error or errno
    failure = FabricError(f"{what}: {os.strerror(error)}", hint=hint)
    failure.errno = error
    return failure


# The file


cdef int write_file(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil:
    cdef const char *source = <const char *> bytes
    cdef ssize_t done
    while n:
        done = pwrite(f.fd, source, n, at)
        if done > 0:
            source += done
            at += done
            n -= done
        elif done == 0:
            return EIO
        elif errno != EINTR:
            return errno
    return 0


cdef int sync_file(file *f) noexcept nogil:
    if f.broken:
        return f.broken
    while fdatasync(f.fd):
        if errno != EINTR:
            return errno
    return 0


cdef int log_file(file *f, const void *bytes, uint64_t n, uint64_t at) noexcept nogil:
    """Write past the page cache, and return when it is durable.

    That spares the kernel the search for other dirty pages.
    """
    cdef iovec part
    cdef ssize_t done
    cdef int error
    part.iov_base = <void *> bytes
    part.iov_len = n
    while f.direct >= 0 and part.iov_len and not f.broken:
        done = pwritev2(f.direct, &part, 1, at, RWF_DSYNC)
        if done > 0:
            part.iov_base = <char *> part.iov_base + done
            part.iov_len -= done
            at += done
        elif done == 0:
            return EIO
        elif errno == EINVAL or errno == EOPNOTSUPP:
            # This file system does not support it, or not in this way.  The rest takes the ordinary
            # way, which syncs everything.
            close_fd(f.direct)
            f.direct = -1
        elif errno != EINTR:
            return errno
    if not part.iov_len:
        return 0
    error = f.write(f, part.iov_base, part.iov_len, at)
    return error if error else f.sync(f)


cdef class File:
    """A file as the medium uses it; tests have others.

    Args:
        fd: Duplicated; the caller keeps its own.
        direct: Log past the page cache, if the file system can do that.
    """

    def __cinit__(self):
        self.f.fd = self.f.direct = -1

    def __init__(self, int fd, bint direct=True):
        self.f.write = write_file
        self.f.sync = sync_file
        self.f.log = log_file
        self.f.fd = os.dup(fd)
        if direct:
            with contextlib.suppress(OSError):
                self.f.direct = os.open(f"/proc/self/fd/{fd}",
                                        os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def __dealloc__(self):
        if self.f.fd >= 0:
            close_fd(self.f.fd)
        if self.f.direct >= 0:
            close_fd(self.f.direct)

    cdef bytes load(self, uint64_t length, char *to):
        cdef uint64_t at = 0, end
        cdef int error
        cdef char *buffer
        size = os.lseek(self.f.fd, 0, os.SEEK_END)
        if size < length:
            raise FabricError(f"cannot read the pool's file: it ends at {size} of {length} bytes",
                              hint="check whether a program truncated it")
        buffer = <char *> malloc(LOADED_AT_ONCE)
        if buffer == NULL:
            raise MemoryError("cannot allocate memory to read a pool's file")
        try:
            while data_from(self.f.fd, length, &at, &end):
                with nogil:
                    error = load_range(self.f.fd, at, end, to, buffer)
                if error == EIO:
                    raise FabricError(f"cannot read the pool's file from {at} to {end}",
                                      hint="check whether a program truncated it or the disk fails")
                if error:
                    raise refused("cannot read the pool's file", None, error)
                at = end
        finally:
            free(buffer)


cdef bint data_from(int fd, uint64_t length, uint64_t *begin, uint64_t *end):
    """Find the next range from `*begin` on that contains data.

    The holes between are zeros and need not be read.
    """
    cdef int64_t found = lseek(fd, begin[0], SEEK_DATA) if begin[0] < length else -1
    end[0] = length
    if found < 0:  # there is no more data, or (a device) the kernel does not know
        return begin[0] < length and errno != ENXIO
    begin[0] = found
    found = lseek(fd, found, SEEK_HOLE)
    if found >= 0:
        end[0] = min(<uint64_t> found, length)
    return begin[0] < length


cdef int load_range(int fd, uint64_t at, uint64_t end, char *to, char *buffer) noexcept nogil:
    """Read a range of a file to the same offset in zeroed memory; return 0, or an errno.

    Pages of zeros are not copied, so they take no memory.
    """
    cdef ssize_t got
    cdef uint64_t place, n
    while at < end:
        got = pread(fd, buffer, min(end - at, <uint64_t> LOADED_AT_ONCE), at)
        if got == 0:
            return EIO
        if got < 0:
            if errno != EINTR:
                return errno
            continue
        place = 0
        while place < <uint64_t> got:
            n = min(RNVM_PAGE - (at + place) % RNVM_PAGE, got - place)
            if buffer[place] or memcmp(buffer + place, buffer + place + 1, n - 1):
                memcpy(to + at + place, buffer + place, n)
            place += n
        at += got
    return 0


# Notes


cdef inline void mark(file_medium *i, uint64_t begin, uint64_t end) noexcept nogil:
    cdef uint64_t page = begin // RNVM_PAGE, last = (end - 1) // RNVM_PAGE
    while page <= last:
        i.dirty[page >> 6] |= <uint64_t> 1 << (page & 63)
        page += 1


cdef void send(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    """Note a range that was stored before."""
    cdef file_medium *i = <file_medium *> m.state
    cdef uint64_t begin = offset & ~<uint64_t> 7
    cdef uint64_t end = min(rnvm_up(offset + n, 8), rnvm_up(m.length, 8))
    cdef uint64_t behind = i.area.at + i.area.size
    if i.file == NULL:
        return
    if not i.area.at or end <= i.area.at or begin >= behind:
        take_down(i, begin, end)
        return
    # Only the medium itself writes the area.
    take_down(i, begin, i.area.at)
    take_down(i, behind, end)


cdef void take_down(file_medium *i, uint64_t begin, uint64_t end) noexcept nogil:
    cdef note *last
    if begin >= end:
        return
    pthread_mutex_lock(&i.lock)
    i.used = True
    mark(i, begin, end)
    last = &i.notes[i.count - 1] if i.count else NULL
    if last != NULL and begin <= last.end and end >= last.begin:
        last.begin = min(last.begin, begin)
        last.end = max(last.end, end)
    elif i.count < RANGES_MAX:
        i.notes[i.count].begin = begin
        i.notes[i.count].end = end
        i.count += 1
    else:
        i.overflown = True
    pthread_mutex_unlock(&i.lock)


# Making durable


cdef int put(file_medium *i, const void *bytes, uint64_t n, uint64_t at) noexcept nogil:
    return i.file.write(i.file, bytes, n, at)


cdef int sync(file_medium *i) noexcept nogil:
    i.syncs += 1
    return i.file.sync(i.file)


cdef uint64_t make_frame(file_medium *i, uint32_t count) noexcept nogil:
    """Build a frame from all notes taken; return its length, or 0: it would be too long."""
    cdef rnvm_frame *frame = <rnvm_frame *> i.frame
    cdef rnvm_range *range_
    cdef uint64_t length = sizeof(rnvm_frame)
    cdef uint64_t room = min(i.longest, i.area.at + i.area.size - i.end)
    cdef uint32_t each
    for each in range(count):
        length += sizeof(rnvm_range) + i.taken[each].end - i.taken[each].begin
        if length > room:
            return 0
    length = sizeof(rnvm_frame)
    for each in range(count):
        range_ = <rnvm_range *> (i.frame + length)
        range_.offset = i.taken[each].begin
        range_.length = i.taken[each].end - i.taken[each].begin
        # Peers may store there during this copy: each word is the old or the new one, and both are
        # right.
        rfp_copy_in(range_ + 1, i.m.base + range_.offset, range_.length)
        length += sizeof(rnvm_range) + range_.length
    frame.length = <uint32_t> length
    frame.generation = i.generation
    frame.sequence = i.sequence
    frame.ranges = count
    frame.reserved = 0
    frame.crc = rnvm_frame_crc(i.area.seed, frame)
    memset(i.frame + length, 0, wal_room(length) - length)
    return length


cdef int append(file_medium *i, uint64_t length) noexcept nogil:
    cdef uint64_t whole = wal_room(length)
    cdef int error = i.file.log(i.file, i.frame, whole, i.end)
    i.syncs += 1
    i.end += whole
    i.sequence += 1
    i.frames += 1
    return error


cdef int write_pages(file_medium *i) noexcept nogil:
    """Write the pages in `going`, adjacent ones with one write."""
    cdef uint64_t page = 0, first, pages = (i.m.length + RNVM_PAGE - 1) // RNVM_PAGE, at
    cdef int error
    while page < pages:
        if not page & 63 and not i.going[page >> 6]:
            page += 64
            continue
        if not i.going[page >> 6] >> (page & 63) & 1:
            page += 1
            continue
        first = page
        while page < pages and i.going[page >> 6] >> (page & 63) & 1:
            page += 1
        at = first * RNVM_PAGE
        i.written_back += page - first
        error = put(i, i.m.base + at, min(page * RNVM_PAGE, i.m.length) - at, at)
        if error:
            return error
    return 0


cdef int begin_anew(file_medium *i) noexcept nogil:
    """Reset the area: no earlier frame counts any more.

    Write one header copy after the other, so that a crash leaves one of them whole.
    """
    cdef rnvm_wal_header header
    cdef uint64_t generation = i.generation if i.generation else i.area.used
    cdef int copy, error
    if not wal_bugs() & WAL_SAME_GENERATION:
        generation += 1
    wal_header(&i.area, generation, &header)
    for copy in range(2):
        error = put(i, &header, sizeof(header), i.area.at + <uint64_t> copy * RNVM_PAGE)
        if not error:
            error = sync(i)
        if error:
            return error
    i.generation = generation
    i.sequence = 0
    i.end = i.area.at + RNVM_WAL_FRAMES
    return 0


cdef int write_back(file_medium *i) noexcept nogil:
    """Write pages to their places, durably, then reset the area.

    Only then may new frames overwrite the old ones, which are not needed any more.  A crash before
    the header is durable finds all frames, and applies them to pages of which any may have been
    written: the content of a frame was durable, and later writes may be there or not.
    """
    cdef uint64_t words = (i.m.length // RNVM_PAGE + 64) // 64
    cdef int error
    pthread_mutex_lock(&i.lock)
    memcpy(i.going, i.dirty, words * sizeof(uint64_t))
    memset(i.dirty, 0, words * sizeof(uint64_t))
    pthread_mutex_unlock(&i.lock)
    error = write_pages(i)
    if not error:
        error = sync(i)
    if not error and i.area.at:
        error = begin_anew(i)
    return error


cdef int make_durable(void *subject) noexcept nogil:
    """Make all notes durable: with a frame or, if that is impossible, a write-back."""
    cdef file_medium *i = <file_medium *> subject
    cdef note *notes
    cdef uint32_t count
    cdef bint overflown
    cdef uint64_t length = 0
    pthread_mutex_lock(&i.lock)
    notes = i.taken
    i.taken = i.notes
    i.notes = notes
    count = i.count
    overflown = i.overflown
    i.count = 0
    i.overflown = False
    pthread_mutex_unlock(&i.lock)
    if not count and not overflown:
        return 0
    if i.generation and not overflown:
        length = make_frame(i, count)
    return append(i, length) if length else write_back(i)


# The verbs


cdef void file_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    rfp_copy_out(m.base + offset, source, n)
    send(m, offset, n)


cdef void file_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(m.base + offset, value)
    send(m, offset, sizeof(value))


cdef int file_drain(medium *m) noexcept nogil:
    cdef file_medium *i = <file_medium *> m.state
    cdef bint more
    if m.error:
        return -1
    if i.file == NULL:
        return 0
    pthread_mutex_lock(&i.lock)
    more = i.count or i.overflown
    pthread_mutex_unlock(&i.lock)
    m.error = rnvm_group_commit_do(&i.group, more, make_durable, i)
    return -1 if m.error else 0


cdef medium_operations file_operations = medium_operations(file_write, file_write64, send,
                                                           file_drain)


cdef void take_over(void *context, uint64_t offset, const void *bytes, uint64_t n) noexcept nogil:
    """Copy a frame's range into memory; its page must be written back before the frame may go."""
    cdef file_medium *i = <file_medium *> context
    # A range beyond the end belongs to a growth that was cut off.
    if offset <= i.m.length and n <= i.m.length - offset:
        memcpy(i.m.base + offset, bytes, n)
        mark(i, offset, offset + n)


cdef bint accounted():
    """Return whether this system grants only memory that it has (vm.overcommit_memory)."""
    with contextlib.suppress(OSError), open("/proc/sys/vm/overcommit_memory") as file:
        return file.read().strip() == "2"
    return False


cdef class FileMedium(Medium):
    """Memory that peers of this host can share (a sealed memfd), and the file it is written to.

    The file is read into memory now, including the content of its write-ahead area, and is not
    changed before something is written.

    Args:
        length: Bytes.
        fd: The file; the medium duplicates the descriptor.  -1: no file, and nothing survives.
        file: An object to use instead of a descriptor.

    Raises:
        FabricError: No memory, or the file cannot be read.
    """

    def __cinit__(self):
        self.memory = -1

    def __init__(self, uint64_t length, int fd=-1, File file=None):
        if self.memory >= 0 or not length:
            raise InvalidArgument(f"cannot create an image of {length} bytes",
                                  hint="give at least 1 byte, and create it once")
        self.memory = rfp_memfd_create()
        if self.memory < 0:
            raise refused("cannot create a memory file")
        self.mapped = rnvm_up(length, system_page)
        # Parts of a pool that were never used take no memory: unless the system gives memory only
        # to processes that reserve it first, and kills the process (SIGBUS) if a page is missing
        # later.
        if accounted():
            self.c.base = rfp_memfd_map_new(self.memory, self.mapped)
        else:
            self.c.base = rfp_memfd_map_empty(self.memory, self.mapped)
        if self.c.base == NULL:
            raise refused(f"cannot allocate memory for a pool of {length} bytes",
                          hint="free some memory, or use a DAX device or file system")
        if rfp_memfd_seal(self.memory, 1):
            raise refused("cannot seal the memory file")
        self.c.length = length
        live.add(self)
        self.c.state = &self.i
        self.i.m = &self.c
        if fd >= 0:
            file = File(fd)
        if file is not None:
            self.file = file
            file.load(length, self.c.base)
            self.allocate()
            self.i.file = &file.f
        self.c.ops = &file_operations

    cdef int allocate(self) except -1:
        """Allocate the state that a file needs, and read its area."""
        cdef file_medium *i = &self.i
        cdef uint64_t words = (self.c.length // RNVM_PAGE + 64) // 64
        rnvm_group_commit_open(&i.group)
        pthread_mutex_init(&i.lock, NULL)
        self.locked = True
        i.notes = <note *> calloc(RANGES_MAX, sizeof(note))
        i.taken = <note *> calloc(RANGES_MAX, sizeof(note))
        i.dirty = <uint64_t *> calloc(words, sizeof(uint64_t))
        i.going = <uint64_t *> calloc(words, sizeof(uint64_t))
        wal_scan(&self.c, self.c.length, &i.area)
        if i.area.at:
            i.longest = min(<uint64_t> FRAME_BYTES_MAX, i.area.size - RNVM_WAL_FRAMES)
            i.frame = <char *> aligned_alloc(RNVM_PAGE, i.longest)
            if i.frame == NULL:
                raise MemoryError("cannot allocate memory for the frames of a pool")
        if i.notes == NULL or i.taken == NULL or i.dirty == NULL or i.going == NULL:
            raise MemoryError("cannot allocate memory for the dirty pages of a pool")
        wal_read(&self.c, &i.area, take_over, i)
        # An area that contains frames, or anything unexpected, is reset when something is first
        # made durable.
        i.overflown = i.area.at and (i.area.frames or i.area.behind or not i.area.alike)
        return 0

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        if self.c.base != NULL:
            munmap(self.c.base, self.mapped)
            self.c.base = NULL
        if self.memory >= 0:
            close_fd(self.memory)
            self.memory = -1
        if self.locked:
            rnvm_group_commit_close(&self.i.group)
            pthread_mutex_destroy(&self.i.lock)
            self.locked = False
        free(self.i.notes)
        free(self.i.taken)
        free(self.i.dirty)
        free(self.i.going)
        free(self.i.frame)
        self.i.notes = self.i.taken = NULL
        self.i.dirty = self.i.going = NULL
        self.i.frame = NULL
        self.i.file = NULL
        self.file = None

    def _forget(self):
        Medium._forget(self)
        self.locked = False                     # another thread may have held it
        self.release()

    cpdef int fileno(self):
        """Return the memory file's descriptor, which peers of this host map."""
        return self.memory

    cpdef close(self):
        """Write everything to its place, and release memory and file.

        The file is whole without its area afterwards.  May be called again.  No thread may be in
        drain().  A file to which nothing was written is not changed, nor is one that has failed.

        Raises:
            StorageFailed: It fails now; the area has all that was made durable before.
            CallerError: A back-end serves it.
        """
        cdef int failed = 0
        self.check_unserved()
        if self.c.base != NULL and self.i.file != NULL and self.i.used and not self.c.error:
            with nogil:
                failed = write_back(&self.i)
            self.c.error = failed
        live.discard(self)
        self.release()
        Medium.close(self)
        if failed:
            raise_failed(&self.c)

    @property
    def counters(self):
        """Return the counts of syncs, of frames written to the area, and of pages written back."""
        return {"syncs": self.i.syncs, "frames": self.i.frames, "pages": self.i.written_back}

    def break_sync(self, int error):
        """Make syncs fail with this errno from now on, like a broken disk.  For tests."""
        if self.i.file != NULL:
            self.i.file.broken = error

# cython: boundscheck=True, wraparound=True, cdivision=False
"""Regions over files, for the shm provider: memory that outlives its processes.

For example a pool on persistent memory.

A file cannot be sealed as a memfd is: any process that may write to it may also truncate it, and
then an access faults.  So the file under such a region must be one that only its owner and the
peers that the owner trusts can open.
"""

import os
import stat

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from posix.mman cimport (
    MADV_DONTFORK, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)

from rfp.core.descriptor cimport (
    RFP_DESCRIPTOR_VERSION, RFP_FILE_MAGIC, RFP_PROVIDER_SHM, rfp_descriptor_sum,
    rfp_file_descriptor,
)
from rfp.core.limits cimport RFP_MAPPED_BYTES_MAX, system_page
from rfp.core.system cimport MAP_SHARED_VALIDATE, MAP_SYNC
from rfp.fabric.fabric cimport REMOTE_READ, REMOTE_WRITE, local_region, take_descriptor
from rfp.fabric.shm.region cimport ShmRegion, ShmRemoteRegion

from rfp.core.forks import live
from rfp.errors import Closed, FabricError, HandshakeFailed, InvalidArgument


cdef bint possible(uint64_t offset, uint64_t length, uint32_t rights):
    """Return whether peers could map such a range with these rights.

    Atomics need a device that takes part in them, so a file region does not grant them.
    """
    return (not offset % system_page and not length % system_page
            and 0 < length <= RFP_MAPPED_BYTES_MAX and offset <= RFP_MAPPED_BYTES_MAX
            and not rights & ~(REMOTE_READ | REMOTE_WRITE))


cdef class ShmFileRegion(ShmRegion):
    """A range of a file that is mapped in this process."""
    cdef object keeper
    cdef int fd
    cdef uint64_t offset

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        self.end()

    cdef void end(self) noexcept:
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)

    cpdef bytes descriptor(self):
        """Return the bytes that a peer's attach() needs, beside fileno().

        Raises:
            Closed: the region is closed.
        """
        cdef rfp_file_descriptor d
        self.shared()
        d.magic, d.version, d.provider = RFP_FILE_MAGIC, RFP_DESCRIPTOR_VERSION, RFP_PROVIDER_SHM
        d.length, d.offset, d.rights = self.c.length, self.offset, self.c.rights
        d.key, d.reserved = self.c.key, 0
        d.checksum = rfp_descriptor_sum(&d, sizeof(d))
        return PyBytes_FromStringAndSize(<char *> &d, sizeof(d))

    cpdef int fileno(self) except? -2:
        """Return the file descriptor to send along: read-only, unless peers may write."""
        self.shared()
        return self.fd

    cdef int shared(self) except -1:
        if self.c.base == NULL:
            raise Closed("the region is closed")
        return 0

    cpdef close(self):
        """Close the region; peers keep the mappings that they have.

        Call it only if no thread can still post to the region or use it.
        """
        self.end()
        self.keeper = None
        ShmRegion.close(self)

    def _forget(self):
        self.close()


def share(object keeper, uint64_t base, int fd, uint64_t offset, uint64_t length, uint32_t rights):
    """Return the region of ShmFabric.share_file()."""
    cdef ShmFileRegion region = ShmFileRegion.__new__(ShmFileRegion)
    if not possible(offset, length, rights) or base == 0:
        raise InvalidArgument(
            f"{length} bytes at {offset} of a file cannot be shared with rights {rights:#x}",
            hint="share whole pages, readable and writable")
    try:
        # Opened again, so that a peer with read access cannot map it writable by mistake.
        region.fd = os.open(f"/proc/self/fd/{fd}",
                            (os.O_RDWR if rights & REMOTE_WRITE else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        failure = FabricError(f"cannot open the file for peers: {error.strerror}",
                              hint="check `ulimit -n`")
        failure.errno = error.errno
        raise failure from None
    region.keeper = keeper
    region.offset = offset
    region.c = local_region(base=<char *> base, length=length,
                            key=int.from_bytes(os.urandom(4), "little") | 1, rights=rights)
    live.add(region)
    return region


def attach(bytes descriptor, int fd):
    """Return the region of ShmFabric.attach() for a descriptor of share_file().

    fd is closed in any case.
    """
    cdef rfp_file_descriptor d
    cdef ShmRemoteRegion region
    try:
        take_descriptor(descriptor, &d, sizeof(d), RFP_FILE_MAGIC, RFP_PROVIDER_SHM, "file")
        if not possible(d.offset, d.length, d.rights):
            raise HandshakeFailed("invalid file region from the peer: "
                                  f"{d.length} bytes at {d.offset} "
                                  f"with rights {d.rights:#x}")
        if fd < 0:
            raise HandshakeFailed("the peer sent no file descriptor with its region")
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            if found.st_size < d.offset + d.length:
                raise HandshakeFailed(f"the peer's file has {found.st_size} bytes "
                                      f"instead of {d.offset + d.length}",
                                      hint="check whether a program truncated it")
        elif not stat.S_ISCHR(found.st_mode):
            raise HandshakeFailed("cannot map the peer's memory: it is neither a file nor a device")
        region = ShmRemoteRegion.__new__(ShmRemoteRegion)
        region.c.base = map_range(fd, d.offset, d.length, d.rights & REMOTE_WRITE)
        if region.c.base == NULL:
            failure = FabricError(
                f"cannot map {d.length} bytes of the peer's file: {os.strerror(errno)}")
            failure.errno = errno
            raise failure
        region.c.length, region.c.rights, region.c.key = d.length, d.rights, d.key
        live.add(region)
        return region
    finally:
        if fd >= 0:
            os.close(fd)


cdef char *map_range(int fd, uint64_t offset, uint64_t length, bint writable) noexcept nogil:
    cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
    # With MAP_SYNC on persistent memory, flushed lines are durable without a call to the file
    # system.
    cdef void *base = mmap(NULL, length, protection, MAP_SHARED_VALIDATE | MAP_SYNC, fd, offset)
    if base == MAP_FAILED:
        base = mmap(NULL, length, protection, MAP_SHARED, fd, offset)
    if base == MAP_FAILED:
        return NULL
    if madvise(base, length, MADV_DONTFORK):
        munmap(base, length)
        return NULL
    return <char *> base

# cython: boundscheck=True, wraparound=True, cdivision=False
"""Operations that no signal handler may interrupt half-way.

Python runs signal handlers between two instructions of its own code, and an exception they raise
(Ctrl-C) ends that code there: after a system call has created a file descriptor and before an
object owns it, after bytes were taken from a socket and before they were kept.  Compiled code has
no such point.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

import threading

from rfp.core import clock
from rfp.errors import CallerError, ConnectionFailed, DeadlineExceeded, RfpError

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, ...)
    enum:
        F_DUPFD_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int close_fd "close"(int fd)

cdef extern from "<sys/syscall.h>" nogil:
    long syscall(long number, ...)
    enum:
        SYS_pidfd_open

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    ssize_t recvmsg(int sock, msghdr *message, int flags)
    int getsockopt(int sock, int level, int name, void *value, socklen_t *length)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *c)
    unsigned char *CMSG_DATA(cmsghdr *c)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    enum:
        MSG_CMSG_CLOEXEC
        MSG_CTRUNC
        SOL_SOCKET
        SCM_RIGHTS

cdef enum:
    # Words of ancillary data: more than the kernel's limit of file descriptors in one message.
    ROOM = 256


cdef class Descriptor:
    """A file descriptor that is closed with the last reference to this object, unless taken."""
    cdef readonly int fd

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        self.close()

    cpdef int take(self):
        """Return the file descriptor, or -1; the caller must close it."""
        cdef int fd = self.fd
        self.fd = -1
        return fd

    cpdef close(self):
        """Close the file descriptor.  Safe to call again."""
        cdef int fd = self.take()
        if fd >= 0:
            close_fd(fd)

    def __reduce__(self):
        raise TypeError("a file descriptor cannot be copied")


cdef Descriptor owned(int fd):
    """Return an owner of fd.  Raises OSError, from errno, if fd is negative."""
    cdef Descriptor made
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    made = Descriptor.__new__(Descriptor)
    made.fd = fd
    return made


def duplicate(int fd):
    """Return another number for the same file.  Raises OSError."""
    return owned(fcntl(fd, F_DUPFD_CLOEXEC, 0))


def peer_pidfd(int sock, int option):
    """Return a pidfd of the process at the other end of a Unix socket.  Raises OSError.

    option: SO_PEERPIDFD.
    """
    cdef int fd = -1
    cdef socklen_t length = sizeof(fd)
    return owned(-1 if getsockopt(sock, SOL_SOCKET, option, &fd, &length) < 0 else fd)


def pidfd_open(int pid):
    """Return a pidfd of a process.  Raises OSError."""
    return owned(<int> syscall(SYS_pidfd_open, pid, 0))


def receive(int sock, Py_ssize_t count, list kept not None, int most):
    """Receive bytes and the file descriptors that come with them.

    Args:
        sock: the socket.
        count: most bytes to take.
        kept: list to which the file descriptors are appended.
        most: number of file descriptors to accept; there may be room for one more.

    Returns:
        The bytes, or None if nothing is there; and whether all file descriptors arrived.

    Raises:
        OSError: the system call failed.
    """
    cdef uint64_t room[ROOM]
    cdef msghdr message
    cdef iovec place
    cdef cmsghdr *each
    cdef ssize_t got
    cdef size_t i
    cdef int fd
    data = PyBytes_FromStringAndSize(NULL, count)
    memset(&message, 0, sizeof(message))
    place.iov_base = PyBytes_AS_STRING(data)
    place.iov_len = count
    message.msg_iov = &place
    message.msg_iovlen = 1
    message.msg_control = room
    message.msg_controllen = min(<size_t> sizeof(room), CMSG_SPACE(most * sizeof(int)))
    got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC)
    if got < 0:
        if errno == EAGAIN:
            return None, True
        PyErr_SetFromErrno(OSError)
    each = CMSG_FIRSTHDR(&message)
    while each != NULL:
        if each.cmsg_level == SOL_SOCKET and each.cmsg_type == SCM_RIGHTS:
            for i in range((each.cmsg_len - CMSG_LEN(0)) // sizeof(int)):
                memcpy(&fd, CMSG_DATA(each) + i * sizeof(int), sizeof(int))
                kept.append(owned(fd))
        each = CMSG_NXTHDR(&message, each)
    return data[:got], not message.msg_flags & MSG_CTRUNC


def hand_over(function, first, owner, *more):
    """Return `function(first, fd, *more)`, which owns the file descriptor from here on.

    owner: a Descriptor, or the number.
    """
    return function(first, (<Descriptor> owner).take() if isinstance(owner, Descriptor) else owner,
                    *more)


def in_turn(connection, deadline, function, *arguments):
    """Return `function(*arguments)`, with exclusive use of the connection.

    An exception that ends it in the middle of a message closes the connection too, since nothing
    marks the start of the next message.
    """
    connection._check()
    if not connection._lock.acquire(True,
                                    max(0.0, min((deadline - clock.now_ns()) / 1e9,
                                                 threading.TIMEOUT_MAX))):
        connection._check()
        raise DeadlineExceeded("timed out waiting for another thread on the control channel",
                               hint="give a larger timeout=")
    try:
        connection._check()
        if connection._inside:
            raise CallerError("this thread is inside another call of this connection",
                              hint="do not use a handle in a signal handler or "
                                   "finalizer that may interrupt its calls")
        connection._inside = True
        try:
            result = function(*arguments)
            connection._torn = False
            return result
        except BaseException as error:
            if connection._torn:
                connection._torn = False
                if not connection.closed:
                    connection._fail(
                        ConnectionFailed(f"{type(error).__name__} interrupted a call on it"))
            if connection.closed and isinstance(error, (OSError, ValueError)) \
                    and not isinstance(error, RfpError):
                # close() was called in the meantime, and its socket is gone
                connection._check()
            raise
        finally:
            connection._inside = False
    finally:
        connection._lock.release()

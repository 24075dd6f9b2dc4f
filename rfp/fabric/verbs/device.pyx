# cython: boundscheck=True, wraparound=True, cdivision=False
"""libibverbs, an opened device, and a protection domain."""

import os

cimport cython
from libc.errno cimport EACCES, EMFILE, ENFILE, EPERM, errno
from posix.unistd cimport close as close_fd
from rfp.core.verbs cimport (
    IBV_PORT_ACTIVE, ibv_device, rfp_verbs_open, rfp_verbs_path, rfp_verbs_query_port,
)

from rfp.core.forks import live
from rfp.errors import FabricError, Unsupported
from rfp.fabric import memory_limits

cdef bint library_is_open = False


cdef object device_error(str what, int error, str hint=None):
    """Return the exception for a refusal by the device or the kernel, with its reason."""
    if hint is None and error in (EACCES, EPERM):
        hint = "give this user access to /dev/infiniband/uverbs* " \
               "(container: --device=/dev/infiniband), or run `rfp doctor`"
    elif hint is None and error in (EMFILE, ENFILE):
        hint = "check `ulimit -n`"
    failure = FabricError(f"{what}: {os.strerror(error) if error else 'no reason given'}",
                          hint=hint)
    failure.errno = error
    return failure


cdef const rfp_verbs *open_library() except NULL:
    """Open libibverbs once, and return its table.  Raises Unsupported."""
    global library_is_open
    cdef const char *missing
    if not library_is_open:
        missing = rfp_verbs_open(&verbs)
        if missing != NULL:
            raise Unsupported(
                f"cannot use RDMA on this machine: {missing.decode(errors='replace')}",
                hint="run `apt install libibverbs1 ibverbs-providers` or `dnf install libibverbs`")
        # Before any registration.  A no-op if the kernel itself keeps registered pages out of a
        # child.
        verbs.fork_init()
        library_is_open = True
    return &verbs


def library():
    """Return the path of libibverbs.

    Raises:
        Unsupported: it is not installed.
    """
    return rfp_verbs_path(open_library()).decode(errors="replace")


def devices():
    """Return the names of the devices for which libibverbs has a plugin.

    Raises:
        Unsupported: libibverbs is not installed.
        FabricError: the devices cannot be listed.
    """
    cdef ibv_device **list_
    cdef int n = 0
    open_library()
    list_ = verbs.get_device_list(&n)
    if list_ == NULL:
        raise device_error("cannot list the RDMA devices", errno)
    try:
        return [verbs.get_device_name(list_[i]).decode() for i in range(n)]
    finally:
        verbs.free_device_list(list_)


cdef class Device:
    """An opened device.

    Args:
        choice: device, port and GID (rfp.fabric.verbs.select_device.choose).

    Raises:
        Unsupported: libibverbs is not installed.
        FabricError: the device cannot be opened.
    """

    def __init__(self, choice):
        cdef ibv_device **list_
        cdef int n = 0
        cdef int error
        open_library()
        self.choice = choice
        list_ = verbs.get_device_list(&n)
        if list_ == NULL:
            raise device_error("cannot list the RDMA devices", errno)
        try:
            for i in range(n):
                if verbs.get_device_name(list_[i]).decode() == choice.device:
                    self.context = verbs.open_device(list_[i])
                    error = errno
                    break
            else:
                raise FabricError("libibverbs has no provider plugin "
                                  f"for the device {choice.device}",
                                  hint="run `apt install ibverbs-providers`")
        finally:
            verbs.free_device_list(list_)
        if self.context == NULL:
            raise device_error(f"cannot open {choice.device}", error)
        live.add(self)
        error = verbs.query_device(self.context, &self.limits)
        if not error:
            error = rfp_verbs_query_port(<const rfp_verbs *>&verbs, self.context, choice.port,
                                         &self.port)
        if not error and verbs.query_gid(self.context, choice.port, choice.gid_index, &self.gid):
            error = errno or EPERM
        if error:
            raise device_error(f"cannot query port {choice.port} and GID {choice.gid_index} "
                               f"of {choice.device}", error)
        if self.port.state != IBV_PORT_ACTIVE:
            raise FabricError(f"port {choice.port} of {choice.device} is not active",
                              hint="check its link with `rfp doctor`")

    def __dealloc__(self):
        if self.context != NULL:
            verbs.close_device(self.context)

    def _forget(self):
        if self.context != NULL:
            close_fd(self.context.cmd_fd)
            close_fd(self.context.async_fd)
            self.context = NULL


@cython.no_gc_clear                     # destroyed before the device
cdef class Domain:
    """A protection domain: its memory is reached only through queue pairs of the same domain.

    Raises:
        FabricError: the device provides no more domains.
    """

    def __init__(self, Device device not None):
        self.device = device
        if device.context == NULL:
            raise device_error("cannot use a device that another process opened", EPERM)
        self.pd = verbs.alloc_pd(device.context)
        if self.pd == NULL:
            raise device_error(f"cannot create a protection domain on {device.choice.device}",
                               errno)
        live.add(self)

    def __dealloc__(self):
        if self.pd != NULL:
            verbs.dealloc_pd(self.pd)

    def _forget(self):
        self.pd = NULL


def check_lockable(length):
    """Check that this process may pin `length` more bytes of memory.

    Raises:
        FabricError: it may not; the hint is the remedy.
    """
    lockable = memory_limits.lockable()
    if length > lockable:
        raise memory_is_not_lockable(length, lockable)


def memory_is_not_lockable(length, lockable):
    return FabricError(
        f"cannot register {length} bytes: this process may pin only {lockable} more (ulimit -l)",
        hint="add the line `* - memlock unlimited` to /etc/security/limits.conf and log in again; "
             "for a service LimitMEMLOCK=infinity, "
             "for a container --ulimit memlock=-1 or --cap-add IPC_LOCK")

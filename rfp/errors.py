"""What can go wrong, in three families: the server refused, the caller erred, the connection failed.

Every error carries a hint: what to do about it.

>>> try:
...     raise OutOfMemory("no room for 1 MiB", hint="give the server more memory=")
... except RfpError as error:
...     print(error)
no room for 1 MiB (give the server more memory=)
"""

from __future__ import annotations

import errno
from typing import Any


class RfpError(Exception):
    """The base of all errors of this package.

    message: what happened, with the names and numbers that matter.  hint: the way out, or None.  results: where a call for many
    keys was cut off, the list that it would have returned, with None for what is not known.
    """

    results: list[Any] | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


def not_copied(thing: object, hint: str) -> WrongType:
    """What copy.copy(), copy.deepcopy() and pickle raise for an object that owns memory, rings or a session of this process."""
    return WrongType(f"a {type(thing).__name__} cannot be copied or pickled", hint=hint)


# The server refused: it is alive, it understood, and it says no.


class ServerRefused(RfpError):
    """The server answered, and the answer is no.  Nothing was changed."""


class OutOfMemory(ServerRefused):
    """The server has no room and may evict nothing more."""


class QuotaExceeded(ServerRefused):
    """This client has as much of the server (pins, uploads, rings, connections) as one client may."""


class TooLarge(ServerRefused, ValueError):
    """A key or value is longer than this server takes."""


class NotANumber(ServerRefused, ValueError):
    """incr() of a value that is not a decimal 64-bit integer, or a sum beyond it."""


class Conflict(ServerRefused):
    """A conditional put did not apply.  version: of the value that stands there, or None if there is none."""

    def __init__(self, message: str, *, version: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.version = version


class AlreadyExists(Conflict):
    """put(if_absent=True) of a key that has a value."""


class VersionMismatch(Conflict):
    """put(if_version=n) over a value with another version."""


class Unsupported(ServerRefused):
    """This server does not offer what was asked for."""


class PoolRefused(ServerRefused):
    """A pool of persistent structures cannot be opened or made here.  It was not changed."""


class NotAPool(PoolRefused):
    """The file is something else, or a pool whose making was never finished."""


class PoolInUse(PoolRefused):
    """Another process has the pool open."""


class PoolTooNew(PoolRefused):
    """The pool was made by a later version of this package, which this one does not understand."""


class PoolTooOld(PoolRefused):
    """The pool was made by an earlier version of this package, whose layout this one does not read."""


class PoolDamaged(PoolRefused):
    """The pool is not whole.  findings: what is wrong, one text each."""

    def __init__(self, message: str, *, findings: list[str] | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = findings or []


class VolatileMedium(PoolRefused):
    """The pool's file would not survive the machine, and nobody said that this is meant."""


class NotFound(ServerRefused):
    """There is no structure of this name."""


class StructureDamaged(ServerRefused):
    """A structure's nodes do not fit together."""


class Empty(ServerRefused, LookupError):
    """The structure has nothing to give."""


class LeaseEnded(ServerRefused, LookupError):
    """The value that was reserved has been given back, given to somebody else, or acknowledged."""


class HandlerFailed(ServerRefused):
    """The RPC server's handler raised an exception."""


# The caller erred: nothing was sent.


class CallerError(RfpError):
    """The call cannot be right, whatever the server's state."""


class InvalidArgument(CallerError, ValueError):
    """An argument is out of its range."""


class WrongType(CallerError, TypeError):
    """An argument is of a type that cannot be taken."""


class WrongBuffer(CallerError, BufferError):
    """An object's memory cannot be used: it is not contiguous, or it is read-only."""


class WrongKind(InvalidArgument):
    """The name belongs to a structure of another kind, format or codec."""


class InvalidAddress(InvalidArgument):
    """An address does not follow `shm://PATH` or `rdma://HOST:PORT`, or has options that it should not."""


class Undecodable(CallerError, ValueError):
    """The codec of a structure raised an exception for bytes that are stored there; it is the `__cause__`.

    raw: the bytes of the value, or of the key that could not be decoded.  key: the bytes of its key, in a mapping.  token: of the
    reservation, where `Queue.reserve()` has taken it; ack() and nack() take that.
    """

    def __init__(
        self, message: str, *, raw: bytes = b"", key: bytes | None = None, token: bytes | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.raw = raw
        self.key = key
        self.token = token


class Closed(CallerError):
    """The handle was closed."""


class Forked(CallerError):
    """The handle belongs to the parent process: a child must connect by itself."""


class Busy(CallerError):
    """All slots wait for the answers of calls that timed out."""


# The connection failed.


class ConnectionFailed(RfpError, ConnectionError):
    """The server cannot be reached, or went away."""


class HandshakeFailed(ConnectionFailed):
    """The server and this client do not fit together (version, rights, format)."""


class OutcomeUnknown(ConnectionFailed):
    """The connection was lost after a change had been sent: it may or may not have happened."""


class DeadlineExceeded(RfpError, TimeoutError):
    """The call's deadline passed.  A change may still happen."""


class FabricError(RfpError, OSError):
    """The operating system or the device refused something that the fabric needs."""


def explained(error: OSError, what: str) -> FabricError:
    """What to raise where the system refused something: a FabricError that says what for, and whose limit it was."""
    hints = {
        errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
        errno.ENFILE: "the whole system has no more files (fs.file-max)",
    }
    failure = FabricError(f"{what}: {error.strerror or error}", hint=hints.get(error.errno or 0))
    failure.errno = error.errno
    return failure


class RequestFailed(FabricError):
    """A one-sided operation failed.  verb: its name; status: of its completion, as `rfp.fabric.fabric` numbers them."""

    def __init__(self, message: str, *, verb: str = "", status: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verb = verb
        self.status = status


class AddressInUse(FabricError):
    """Another server has this address."""


class StorageFailed(FabricError):
    """A pool's medium did not take what had to be durable.  Nothing that was not acknowledged before is promised."""

"""The errors of this package, in three families: refused, invalid call, connection failed.

An error's hint says how to correct it, unless the message itself names what is expected.

>>> try:
...     raise OutOfMemory("the server has no room for 1 MiB", hint="start it with a larger memory=")
... except RfpError as error:
...     print(error)
the server has no room for 1 MiB (start it with a larger memory=)

One wording for one kind of error:

>>> print(out_of_bounds("workers", 100, 1, 64))
workers must be between 1 and 64, got 100
>>> print(bad_choice("mode", "x", ("auto", "fetch", "reply")))
invalid mode 'x' (expected auto, fetch or reply)
"""

from __future__ import annotations

import errno
import queue
from collections.abc import Iterable
from typing import Any


class RfpError(Exception):
    """Base class of all errors of this package.

    Args:
        message: what happened, with the names and numbers that matter.
        hint: how to correct it, or None.

    Attributes:
        results: if a call for many keys was interrupted, the list that it would have returned, with
            None for unknown results.
    """

    results: list[Any] | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


# The server refused: it runs, it decoded the request, and it refused it.


class ServerRefused(RfpError):
    """The server refused the request.  Nothing was changed."""


class OutOfMemory(ServerRefused):
    """The server has no free memory and may not evict anything more."""


class QuotaExceeded(ServerRefused):
    """This client already holds its share of the server (pins, uploads, rings, connections)."""


class TooLarge(ServerRefused, ValueError):
    """A key or value exceeds the server's limit."""


class NotANumber(ServerRefused, ValueError):
    """The value of an incr() is not a decimal 64-bit integer, or the sum exceeds 64 bits."""


class Conflict(ServerRefused):
    """A conditional put did not apply, or a read transaction cannot go on.

    Attributes:
        version: the version of the stored value; None if the key has none, or in a read
            transaction.
    """

    def __init__(
        self, message: str, *, version: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.version = version


class AlreadyExists(Conflict):
    """put(if_absent=True) of a key that has a value, or the creation of a group that exists."""


class VersionMismatch(Conflict):
    """put(if_version=n) over a value, or a change of a group's state, that has another version."""


class ReadConflict(Conflict):
    """Data that a read transaction had read was changed before its last query.  Repeat it."""


class Unsupported(ServerRefused):
    """The server does not support the requested operation."""


class NotReplicated(ServerRefused):
    """Fewer mirrors are in sync than the pool's changes require.  Nothing was changed."""


class PoolRefused(ServerRefused):
    """A pool of persistent structures cannot be opened or created.  It was not changed."""


class NotAPool(PoolRefused):
    """The file is not a pool, or the creation of the pool did not complete."""


class PoolInUse(PoolRefused):
    """Another process has the pool open."""


class PoolTooNew(PoolRefused):
    """A later version of this package created the pool, in a format unknown to this version."""


class PoolTooOld(PoolRefused):
    """An earlier version of this package created the pool, in a format no longer supported."""


class PoolDamaged(PoolRefused):
    """The pool is damaged.

    Attributes:
        findings: the damages, one text each.
    """

    def __init__(
        self, message: str, *, findings: list[str] | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.findings = findings or []


class VolatileMedium(PoolRefused):
    """The pool's file would not survive a restart of the machine; assume_persistent is not set."""


class NotFound(ServerRefused):
    """There is no structure with this name."""


class GroupNotFound(ServerRefused):
    """The coordinator has no state of this group.  This is never a reason to create one."""


class GroupDamaged(ServerRefused):
    """The coordinator contains something else than the state of a group under the group's name."""


class CoordinatorRefused(ServerRefused):
    """The coordinator refused the call: no permission, a wrong password, or no space."""


class StructureDamaged(ServerRefused):
    """The nodes of a structure are inconsistent."""


class SnapshotTooOld(ServerRefused):
    """The snapshot has ended: its memory was used again, or its session was lost."""


class Empty(ServerRefused, LookupError, queue.Empty):
    """The structure contains no value to return; also a queue.Empty of the standard library."""


class LeaseEnded(ServerRefused, LookupError):
    """The reservation has ended: the value was returned, reserved again, or acknowledged."""


class HandlerFailed(ServerRefused):
    """The handler of the RPC server raised an exception."""


# The caller erred: nothing was sent.


class CallerError(RfpError):
    """The call is invalid, whatever the state of the server.  Nothing was sent."""


class InvalidArgument(CallerError, ValueError):
    """An argument is out of bounds, or not one of the choices."""


class WrongType(CallerError, TypeError):
    """An argument has the wrong type."""


class WrongBuffer(CallerError, BufferError):
    """The memory of a buffer cannot be used: it is not contiguous, or it is read-only."""


class WrongKind(InvalidArgument):
    """The name belongs to a structure of another kind, format or codec."""


class InvalidAddress(InvalidArgument):
    """An address is not of the form `shm://PATH` or `rdma://HOST:PORT`, or has invalid options."""


class Undecodable(CallerError, ValueError):
    """The codec of a structure raised an exception for stored bytes; it is the `__cause__`.

    Attributes:
        raw: the bytes of the value, or of the key, that could not be decoded.
        key: in a mapping, the bytes of the key.
        token: the token of the reservation, if `Queue.reserve()` took the value: for ack() or
            nack().
    """

    def __init__(
        self,
        message: str,
        *,
        raw: bytes = b"",
        key: bytes | None = None,
        token: bytes | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.raw = raw
        self.key = key
        self.token = token


class Closed(CallerError):
    """The handle is closed."""


class Forked(CallerError):
    """The handle belongs to the parent process; a child process must connect itself."""


class Busy(CallerError):
    """All slots wait for the responses of calls that timed out."""


# The connection failed.


class ConnectionFailed(RfpError, ConnectionError):
    """The server cannot be reached, or the connection to it was lost."""


class HandshakeFailed(ConnectionFailed):
    """The server and this client are incompatible (version, rights, format)."""


class CoordinatorUnavailable(ConnectionFailed):
    """No majority of the coordinator's nodes answered in time.  Nothing was changed."""


class OutcomeUnknown(ConnectionFailed):
    """The connection was lost after a change had been sent: it may or may not have been made."""


class DeadlineExceeded(RfpError, TimeoutError):
    """The deadline of the call passed.  A change may still be made."""


class FabricError(RfpError, OSError):
    """The operating system or the device refused an operation that the fabric needs."""


class RequestFailed(FabricError):
    """A one-sided operation failed.

    Attributes:
        verb: the name of the operation.
        status: the status of its completion, as numbered by `rfp.fabric.fabric`.
    """

    def __init__(
        self, message: str, *, verb: str = "", status: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.verb = verb
        self.status = status


class AddressInUse(FabricError):
    """Another server listens at this address."""


class StorageFailed(FabricError):
    """The medium of a pool failed to make a write durable.

    Only operations that were acknowledged earlier are durable.
    """


# One wording for each kind of error.


def out_of_bounds(
    name: str, value: object, low: object, high: object, *, hint: str | None = None
) -> InvalidArgument:
    """Return the error for an argument that must be between low and high, both included."""
    low, high = (f"{each:g}" if isinstance(each, float) else each for each in (low, high))
    return InvalidArgument(
        f"{name} must be between {low} and {high}, got {shown(value)}", hint=hint
    )


def bad_choice(name: str, value: object, choices: Iterable[str]) -> InvalidArgument:
    """Return the error for an argument that must be one of the choices."""
    return InvalidArgument(f"invalid {name} {shown(value)} (expected {either(choices)})")


def either(choices: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: object) -> str:
    """Return repr(value), cut to 60 characters, except of integers too long for Python to print."""
    text = repr(value) if type(value) is not int or -1e30 < value < 1e30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def not_copied(thing: object, hint: str) -> WrongType:
    """Return the error of copy and pickle for an object that owns memory, rings or a session."""
    return WrongType(f"a {type(thing).__name__} cannot be copied or pickled", hint=hint)


def explained(error: OSError, what: str) -> FabricError:
    """Return the FabricError for an OSError; what: the failed operation ("cannot X")."""
    hints = {
        errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
        errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    }
    failure = FabricError(f"{what}: {error.strerror or error}", hint=hints.get(error.errno or 0))
    failure.errno = error.errno
    return failure

"""Specifications of the fields of control messages: a small validator, declared with the field.

A message is a dataclass whose fields are `Annotated[type, Spec]`; the spec defines the JSON form of
the value and its bounds.  `encode` takes a value of ours, `decode` one of the peer's; both check
the same bounds.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfp.control.uninterrupted import Descriptor, hand_over
from rfp.errors import HandshakeFailed

if TYPE_CHECKING:
    from rfp.fabric.fabric import Fabric, RemoteRegion


class Invalid(ValueError):
    """A value is out of bounds; the message names the field and the reason."""


def _number(fd: int | Descriptor) -> int:
    return fd.fd if isinstance(fd, Descriptor) else fd


class Handle:
    """Memory that one side offers the other.

    It consists of a descriptor of the fabric and, on shm, a file descriptor.  The file descriptor
    of a received message belongs to the message until `take()` or `attach()`.
    """

    __slots__ = ("_fd", "descriptor")

    def __init__(self, descriptor: bytes, fd: int | Descriptor = -1) -> None:
        self.descriptor = descriptor
        self._fd = fd

    @property
    def fd(self) -> int:
        """The file descriptor, or -1 if there is none."""
        return _number(self._fd)

    def take(self) -> int:
        """Return the file descriptor, or -1 if there is none; the caller must close it."""
        fd, self._fd = self._fd, -1
        return fd.take() if isinstance(fd, Descriptor) else fd

    def attach(self, fabric: Fabric, files: bool = False) -> RemoteRegion:
        """Return the memory, attached over the fabric that made the descriptor.

        files: whether a range of a file is accepted too.
        """
        return hand_over(fabric.attach, self.descriptor, self._fd, files)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and (self.descriptor, self.fd) == (
            other.descriptor,
            other.fd,
        )

    def __repr__(self) -> str:
        return f"Handle({len(self.descriptor)} bytes, fd={self.fd})"


class Spec:
    """Specification of a field."""

    def encode(self, value: Any, fds: list[int], where: str) -> Any:
        """Return the JSON form of a value; append file descriptors to send along to `fds`."""
        return self.check(value, where)

    def decode(self, value: Any, fds: Fds, where: str) -> Any:
        """Return the value of a JSON form; take its file descriptors out of `fds`."""
        return self.check(value, where)

    def check(self, value: Any, where: str) -> Any:
        raise NotImplementedError


class Fds:
    """The file descriptors that came with a message; each belongs to exactly one field."""

    def __init__(self, fds: Sequence[int | Descriptor]) -> None:
        self._fds = list(fds)
        self._used = [False] * len(fds)

    def use(self, index: int, where: str) -> int | Descriptor:
        if index >= len(self._fds) or self._used[index]:
            raise Invalid(
                f"{where} names file descriptor {index}, which "
                "is missing or belongs to another field"
            )
        fd = self._fds[index]
        self._used[index] = True
        return fd

    def check_all_used(self) -> None:
        if not all(self._used):
            raise Invalid(f"{self._used.count(False)} file descriptors belong to no field")


@dataclass(frozen=True)
class Integer(Spec):
    low: int
    high: int
    multiple: int = 1

    def check(self, value: Any, where: str) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise Invalid(
                f"{where} must be between {self.low} and {self.high}, got {_shown(value)}"
            )
        if value % self.multiple:
            raise Invalid(f"{where} must be a multiple of {self.multiple}, got {value}")
        return value


@dataclass(frozen=True)
class Flag(Spec):
    def check(self, value: Any, where: str) -> bool:
        if type(value) is not bool:
            raise Invalid(f"{where} must be true or false, got {_shown(value)}")
        return value


@dataclass(frozen=True)
class Text(Spec):
    """Printable text (a peer's text is printed on terminals)."""

    limit: int

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > self.limit or not value.isprintable():
            raise Invalid(
                f"{where} must be printable text of at most "
                f"{self.limit} characters, got {_shown(value)}"
            )
        return value


@dataclass(frozen=True)
class Binary(Spec):
    """Opaque bytes: base64 in JSON."""

    limit: int
    exactly: bool = False  # the length must be the limit

    def encode(self, value: Any, fds: list[int], where: str) -> str:
        return base64.b64encode(self.check(value, where)).decode()

    def decode(self, value: Any, fds: Fds, where: str) -> bytes:
        try:
            return self.check(base64.b64decode(value, validate=True), where)
        except (TypeError, ValueError, binascii.Error) as error:
            if isinstance(error, Invalid):
                raise
            raise Invalid(f"{where} must be base64, got {_shown(value)}") from None

    def check(self, value: Any, where: str) -> bytes:
        if (
            not isinstance(value, bytes)
            or len(value) > self.limit
            or (self.exactly and len(value) != self.limit)
        ):
            raise Invalid(
                f"{where} must be a string of "
                f"{'' if self.exactly else 'at most '}{self.limit} bytes"
            )
        return value


@dataclass(frozen=True)
class Memory(Spec):
    """A `Handle`: {"descriptor": base64}, and "fd": the index of its file descriptor, if any."""

    limit: int = 256  # bytes of the descriptor

    def encode(self, value: Any, fds: list[int], where: str) -> dict[str, Any]:
        if not isinstance(value, Handle):
            raise Invalid(f"{where} must be a Handle")
        body: dict[str, Any] = {
            "descriptor": Binary(self.limit).encode(value.descriptor, fds, where)
        }
        if value.fd >= 0:
            body["fd"] = len(fds)
            fds.append(value.fd)
        return body

    def decode(self, value: Any, fds: Fds, where: str) -> Handle:
        if not isinstance(value, dict):
            raise Invalid(f"{where} must be an object, got {_shown(value)}")
        descriptor = Binary(self.limit).decode(value.get("descriptor"), fds, f"{where}.descriptor")
        index = value.get("fd")
        if index is None:
            return Handle(descriptor)
        fd = fds.use(Integer(0, 255).check(index, f"{where}.fd"), where)
        # The fabric checks seals and size; check here that it is a file and not a terminal or
        # device.
        if not stat.S_ISREG(os.fstat(_number(fd)).st_mode):
            raise Invalid(f"the file descriptor of {where} is not memory")
        return Handle(descriptor, fd)


@dataclass(frozen=True)
class Socket(Spec):
    """One end of a Unix socket pair, as a `Handle` without a descriptor: {"fd": its index}."""

    def encode(self, value: Any, fds: list[int], where: str) -> dict[str, Any]:
        if not isinstance(value, Handle) or value.fd < 0:
            raise Invalid(f"{where} must be a Handle with a file descriptor")
        fds.append(value.fd)
        return {"fd": len(fds) - 1}

    def decode(self, value: Any, fds: Fds, where: str) -> Handle:
        if not isinstance(value, dict):
            raise Invalid(f"{where} must be an object, got {_shown(value)}")
        fd = fds.use(Integer(0, 255).check(value.get("fd"), f"{where}.fd"), where)
        if not _is_connected_unix_stream(_number(fd)):
            raise Invalid(f"the file descriptor of {where} is not a Unix socket")
        return Handle(b"", fd)


def _is_connected_unix_stream(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    sock = socket.socket(fileno=fd)
    try:
        sock.getpeername()
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
    except OSError:
        return False
    finally:
        sock.detach()


@dataclass(frozen=True)
class Maybe(Spec):
    """A value, or None (null)."""

    item: Spec

    def encode(self, value: Any, fds: list[int], where: str) -> Any:
        return None if value is None else self.item.encode(value, fds, where)

    def decode(self, value: Any, fds: Fds, where: str) -> Any:
        return None if value is None else self.item.decode(value, fds, where)


@dataclass(frozen=True)
class Many(Spec):
    """A list of values."""

    item: Spec
    limit: int

    def encode(self, value: Any, fds: list[int], where: str) -> list[Any]:
        return [
            self.item.encode(item, fds, f"{where}[{i}]")
            for i, item in enumerate(self.check(value, where))
        ]

    def decode(self, value: Any, fds: Fds, where: str) -> list[Any]:
        return [
            self.item.decode(item, fds, f"{where}[{i}]")
            for i, item in enumerate(self.check(value, where))
        ]

    def check(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > self.limit:
            raise Invalid(f"{where} must be a list of at most {self.limit} items")
        return value


@dataclass(frozen=True)
class Figures(Spec):
    """Named numbers and texts, in objects and lists up to a depth: the figures of a server."""

    depth: int = 4

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Invalid(f"{where} must be an object, got {_shown(value)}")
        self._check(value, self.depth, where)
        return value

    def _check(self, value: Any, depth: int, where: str) -> None:
        if isinstance(value, (dict, list)) and depth == 0:
            raise Invalid(f"{where} is nested too deeply")
        if isinstance(value, dict):
            for name, item in value.items():
                Text(64).check(name, f"a name in {where}")
                self._check(item, depth - 1, f"{where}.{name}")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._check(item, depth - 1, f"{where}[{index}]")
        elif isinstance(value, str):
            Text(1024).check(value, where)
        elif value is not None and not (isinstance(value, (int, float)) and abs(value) <= 2**64):
            raise Invalid(
                f"{where} must be text or a number of at most 64 bits, got {_shown(value)}"
            )


def failed(kind: str, error: Invalid) -> HandshakeFailed:
    """Return the exception for a peer's message with an invalid field."""
    return HandshakeFailed(f"invalid {kind!r} message from the peer: {error}")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."

"""The control channel: set-up, descriptors, file descriptors and the end of a connection.

No request travels here.  docs/protocol.md describes the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfp.address import Address
from rfp.control.connection import ControlConnection
from rfp.control.credentials import Credentials
from rfp.control.message import (
    Attach,
    Attached,
    Detach,
    GetMemory,
    GetStats,
    Hello,
    Map,
    Mapped,
    Message,
    Refused,
    SharedMemory,
    Stats,
    Welcome,
)
from rfp.control.schema import Handle
from rfp.control.unix import UnixConnection, connect_unix
from rfp.control.unix_listener import UnixListener
from rfp.core.clock import deadline_in

if TYPE_CHECKING:
    from rfp.control.tcp_listener import TcpListener

__all__ = [
    "Attach",
    "Attached",
    "ControlConnection",
    "Credentials",
    "Detach",
    "GetMemory",
    "GetStats",
    "Handle",
    "Hello",
    "Map",
    "Mapped",
    "Message",
    "Refused",
    "SharedMemory",
    "Stats",
    "UnixConnection",
    "UnixListener",
    "Welcome",
    "connect",
    "deadline_in",
    "listen",
]


def connect(
    address: Address,
    deadline: int,
    credentials: Credentials | None = None,
    *,
    start: str | None = None,
) -> ControlConnection:
    """Connect to the server at an address.

    Args:
        address: of the server.
        deadline: a clock.now_ns() time.
        credentials: secret and certificates; only for rdma addresses.
        start: hint of the error that no server listens there; None: that of `rfp serve`.

    Raises:
        ConnectionFailed: no server listens there.
        HandshakeFailed: the two sides do not accept each other.
        DeadlineExceeded: the deadline has passed.
    """
    if address.provider == "rdma":
        from rfp.control.tcp import connect_tcp  # here, because only rdma addresses need ssl

        return connect_tcp(address, deadline, credentials or Credentials(), start)
    return connect_unix(address, deadline, start)


def listen(
    address: Address, credentials: Credentials | None = None, *, allow_anyone: bool = False
) -> UnixListener | TcpListener:
    """Listen at an address, as the only server there; see UnixListener and TcpListener."""
    if address.provider == "rdma":
        from rfp.control.tcp_listener import TcpListener

        return TcpListener(address, credentials or Credentials(), allow_anyone=allow_anyone)
    return UnixListener(address)

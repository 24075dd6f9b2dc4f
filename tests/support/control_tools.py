"""Helpers of the tests of the control channel: deadlines, connections and messages."""

import array
import os
import socket

from rfp.control import Attach, Attached, Handle, Hello, UnixConnection, Welcome, deadline_in, frame


def soon() -> float:
    """A deadline long enough for calls that work, and short enough for a test that fails."""
    return deadline_in(5)


def memory(size: int = 4096) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def pair() -> tuple[UnixConnection, UnixConnection]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return UnixConnection(a), UnixConnection(b)


def raw_pair() -> tuple[socket.socket, UnixConnection]:
    """A socket that may send any bytes, and the connection at its other end."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return a, UnixConnection(b)


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg(
        [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    )


def hello(**changes) -> Hello:
    return Hello(**{"features": 1, "name": "test", "pid": 1, **changes})


def packed(message, number: int = 0) -> bytes:
    body, fds = message.to_message()
    return frame.pack(message.KIND, number, body, len(fds))


def welcome(fds=(), **changes) -> Welcome:
    """A Welcome with an arena for each fd except the last, which belongs to the field `bells`."""
    *arenas, bells = fds or [-1, -1]
    values = {
        "features": 0,
        "service": "kv",
        "slot_size": 512,
        "slots": 64,
        "hash": "xxh3-64",
        "seed": 2**64 - 1,
        "partitions": len(arenas),
        "arenas": [Handle(b"arena%d" % i, fd) for i, fd in enumerate(arenas)],
        "bells": Handle(b"bells", bells),
        "lease_ns": 10**9,
        "staging_size": 1 << 20,
        "max_value": 256 << 20,
        "name": "server",
        "pid": os.getpid(),
    }
    return Welcome(**{**values, **changes})


def attach(fd: int = -1, partitions: int = 1) -> Attach:
    return Attach(reply=Handle(b"reply", fd), pairs=[b"pair"] * partitions)


def attached(fds=(-1, -1, -1), partitions: int = 1, **changes) -> Attached:
    offsets = [64 * i for i in range(partitions)]
    values = {
        "channel": 7,
        "request": Handle(b"request", fds[0]),
        "response": Handle(b"response", fds[1]),
        "staging": Handle(b"staging", fds[2]),
        "request_offsets": offsets,
        "response_offsets": offsets,
        "staging_offsets": offsets,
        "reply_offsets": offsets,
        "pairs": [b"p"] * partitions,
    }
    return Attached(**{**values, **changes})

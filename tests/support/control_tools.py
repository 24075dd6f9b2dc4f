"""What the tests of the control channel share."""

import array
import os
import socket

from rfp.control import Attach, Attached, Handle, Hello, UnixConnection, Welcome, deadline_in, frame


def soon() -> float:
    """Long enough for anything that works, short enough for a test that does not."""
    return deadline_in(5)


def memory(size: int = 4096) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def pair() -> tuple[UnixConnection, UnixConnection]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return UnixConnection(a), UnixConnection(b)


def raw_pair() -> tuple[socket.socket, UnixConnection]:
    """A peer that may send anything, and the connection that must bear it."""
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
    """With an arena for each fd but the last, which is the bells'."""
    *arenas, bells = fds or [-1, -1]
    values = {
        "features": 0, "service": "kv", "slot_size": 512, "slots": 64, "hash": "xxh3-64", "seed": 2**64 - 1,
        "partitions": len(arenas),
        "arenas": [Handle(b"arena%d" % i, fd) for i, fd in enumerate(arenas)], "bells": Handle(b"bells", bells),
        "lease_ns": 10**9, "staging_size": 1 << 20, "max_value": 256 << 20, "name": "server", "pid": os.getpid(),
    }  # fmt: skip
    return Welcome(**{**values, **changes})


def attach(fd: int = -1, partitions: int = 1) -> Attach:
    return Attach(reply=Handle(b"reply", fd), pairs=[b"pair"] * partitions)


def attached(fds=(-1, -1, -1), partitions: int = 1, **changes) -> Attached:
    offsets = [64 * i for i in range(partitions)]
    values = {
        "channel": 7, "request": Handle(b"request", fds[0]), "response": Handle(b"response", fds[1]),
        "staging": Handle(b"staging", fds[2]),
        "request_offsets": offsets, "response_offsets": offsets, "staging_offsets": offsets, "reply_offsets": offsets,
        "pairs": [b"p"] * partitions,
    }  # fmt: skip
    return Attached(**{**values, **changes})

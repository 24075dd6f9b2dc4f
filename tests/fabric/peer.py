"""The other process of the two-process tests.

It connects over the socket that it was started with, then executes the commands of its input.

Started as `python peer.py SOCKET-FD FABRIC`; each line of its input is `VERB ARGUMENTS...`, and it
answers each with one line.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rfp.fabric.fabric import (
    COMPARE_SWAP,
    FETCH_ADD,
    READ,
    REMOTE_ATOMIC,
    REMOTE_READ,
    REMOTE_WRITE,
    SUCCESS,
    WRITE_NOTIFY,
    EventChannel,
    Fabric,
    QueuePair,
    Region,
    RemoteRegion,
)
from rfp.testing import litmus

LENGTH = 1 << 16
ALL = REMOTE_READ | REMOTE_WRITE | REMOTE_ATOMIC


class Side:
    """One process's end of a connection over a Unix socket."""

    def __init__(self, fabric: Fabric, control: socket.socket, *, pidfd: int = -1) -> None:
        self.control = control
        self.memory: Region = fabric.register(LENGTH, ALL)
        self.channel: EventChannel = fabric.event_channel(self.memory, 0)
        self.pair: QueuePair = fabric.queue_pair(self.channel, pidfd, control.fileno())
        region, fd = self.memory.descriptor(), self.memory.fileno()
        socket.send_fds(control, [region + self.pair.descriptor()], [fd] if fd >= 0 else [])
        message, fds, _, _ = socket.recv_fds(control, 4096, 1)
        self.theirs: RemoteRegion = fabric.attach(message[: len(region)], *fds)
        self.pair.connect(message[len(region) :], self.theirs)

    def add(self, rounds: int) -> None:
        for _ in range(rounds):
            assert (
                self.pair.execute(FETCH_ADD, self.memory, 1024, self.theirs, 128, 8, operand=1)
                == SUCCESS
            )

    def swap(self, rounds: int) -> None:
        """Add one, `rounds` times, by compare-and-swap."""
        for _ in range(rounds):
            seen = -1
            while True:
                assert self.pair.execute(READ, self.memory, 1024, self.theirs, 128, 8) == SUCCESS
                seen = int.from_bytes(self.memory.read(1024, 8), "little")
                assert (
                    self.pair.execute(
                        COMPARE_SWAP,
                        self.memory,
                        1024,
                        self.theirs,
                        128,
                        8,
                        compare=seen,
                        operand=seen + 1,
                    )
                    == SUCCESS
                )
                if int.from_bytes(self.memory.read(1024, 8), "little") == seen:
                    break

    def close(self) -> None:
        for each in (self.pair, self.channel, self.theirs, self.memory, self.control):
            each.close()


class Peer(Side):
    """Another process, with this process's end of the connection to it."""

    def __init__(self, fabric: Fabric, spec: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), spec],
                pass_fds=[theirs.fileno()],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self.pidfd = os.pidfd_open(self.process.pid)
        super().__init__(fabric, ours, pidfd=self.pidfd)

    def send(self, *words: object) -> None:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        super().close()
        os.close(self.pidfd)
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def another_process(
    fabric: Fabric, spec: str = "rfp.fabric.shm.region:ShmFabric"
) -> Iterator[Peer]:
    """Start a peer process and yield it.

    Args:
        spec: module:class of the other process's fabric.
    """
    with contextlib.closing(Peer(fabric, spec)) as peer:
        yield peer


def main() -> None:
    module, name = sys.argv[2].split(":")
    side = Side(
        getattr(importlib.import_module(module), name)(), socket.socket(fileno=int(sys.argv[1]))
    )
    for line in sys.stdin:
        verb, *arguments = line.split()
        result: object = None
        if verb == "add":
            side.add(int(arguments[0]))
        elif verb == "swap":
            side.swap(int(arguments[0]))
        elif verb == "read":
            result = side.memory.read(*map(int, arguments)).hex()
        elif verb == "write":
            side.memory.write(int(arguments[0]), bytes.fromhex(arguments[1]))
        elif verb == "pull":
            here, there, n = map(int, arguments)
            result = side.pair.execute(READ, side.memory, here, side.theirs, there, n)
        elif verb == "notify":
            here, there, n = map(int, arguments)
            result = side.pair.execute(WRITE_NOTIFY, side.memory, here, side.theirs, there, n)
        elif verb == "sleep":
            armed = side.channel.prepare_wait()
            print("armed", flush=True)
            result = side.channel.wait(armed, float(arguments[0]))
        elif verb == "sleeper":
            result = litmus.sleeper(
                side.channel, side.memory, int(arguments[0]), int(arguments[1]), step=10.0
            )
        elif verb == "publisher":
            litmus.publisher(side.memory, *map(int, arguments))
        elif verb == "holding":
            result = len([fd for fd in os.listdir("/proc/self/fd") if "memfd:rfp" in _target(fd)])
        elif verb == "hang_up":
            side.control.close()
        elif verb == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif verb == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        print(result, flush=True)


def _target(fd: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


if __name__ == "__main__":
    main()

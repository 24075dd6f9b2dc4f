"""Members in network namespaces of their own, each with a cable to the coordinator that can be cut.

Only the coordinator is reached over TCP: data goes over shared memory, which no cable cuts.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import needed
from polling import until

from tests.frontend.processes import Process

from .running import MEMBER, Group

CLONE_NEWNET = 0x40000000

# Takes a namespace of its own, and waits until its cable is there.
IN_A_NAMESPACE = """
import ctypes, os, sys, time
assert ctypes.CDLL(None).unshare(0x40000000) == 0
print(time.monotonic_ns(), "without a cable", flush=True)
while not os.path.exists(sys.argv[1] + ".cable"):
    time.sleep(0.01)
"""


def ip(*arguments: object, inside: int = 0) -> None:
    """Run ip(8), perhaps in the namespace of a process."""
    enter = ["nsenter", "--target", str(inside), "--net"] if inside else []
    subprocess.run([*enter, "ip", *map(str, arguments)], check=True, timeout=20)


def _set_namespace(call: str, *arguments: int) -> None:
    """Change the namespace of this thread, and of the processes that it will start."""
    function = getattr(ctypes.CDLL(None, use_errno=True), call)
    if function(*arguments):
        raise OSError(ctypes.get_errno(), f"{call} failed")


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread a network of its own, so that the machine's is left alone."""
    needed.program("ip")
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        try:
            _set_namespace("unshare", CLONE_NEWNET)
        except PermissionError:
            needed.absent("only root can make network namespaces")
        try:
            ip("link", "set", "lo", "up")
            yield
        finally:
            _set_namespace("setns", outside, CLONE_NEWNET)
    finally:
        os.close(outside)


class CabledGroup(Group):
    """A group whose members reach the coordinator by cables."""

    def __init__(self, address: str, folder: Path) -> None:
        super().__init__(address, folder)
        self._cables: dict[str, int] = {}
        self._number = 0

    def start(self, name: str) -> None:
        self._number += 1
        number = self._cables[name] = self._number
        member = self.members[name] = Process(
            IN_A_NAMESPACE + MEMBER,
            *self.arguments(name, self.address.replace("localhost", f"10.9.{number}.1")),
        )
        plugged = self.folder / f"{name}.pool.cable"
        plugged.unlink(missing_ok=True)
        until(member.printed)
        pid = member.running.pid
        ip("link", "add", f"cable{number}", "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("addr", "add", f"10.9.{number}.1/24", "dev", f"cable{number}")
        ip("addr", "add", f"10.9.{number}.2/24", "dev", "eth0", inside=pid)
        ip("link", "set", "eth0", "up", inside=pid)
        ip("link", "set", f"cable{number}", "up")
        plugged.touch()

    def cut(self, name: str) -> None:
        """Cut the member from the coordinator: neither end is told."""
        ip("link", "set", f"cable{self._cables[name]}", "down")

    def mend(self, name: str) -> None:
        ip("link", "set", f"cable{self._cables[name]}", "up")

    def until_registered(self, *names: str) -> None:
        until(lambda: self.registered() == set(names))

"""A private memcached with one worker thread."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection

from bench.peers.process import PeerProcess, program


def start(
    cpus: Collection[int] | None = None, *, memory: int = 1024, threads: int = 1
) -> PeerProcess:
    """Start it.

    Args:
        memory: MiB for records.

    Raises:
        PeerMissing: memcached is not installed.
        ConnectionFailed: it does not start.
    """
    command = [
        program("memcached", "memcached"),
        "-s",
        "{socket}",
        "-m",
        str(memory),
        "-t",
        str(threads),
    ]
    if os.geteuid() == 0:
        command += ["-u", pwd.getpwuid(0).pw_name]  # it refuses to run as root without -u
    return PeerProcess("memcached", command, cpus=cpus)

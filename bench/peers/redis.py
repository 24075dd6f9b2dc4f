"""A private redis-server: nothing is written to disk, nothing evicted."""

from __future__ import annotations

from collections.abc import Collection

from bench.peers.process import PeerProcess, program


def start(cpus: Collection[int] | None = None) -> PeerProcess:
    """Starts it; raises PeerMissing or ConnectionFailed."""
    command = [
        program("redis-server", "redis-server"),
        "--port",
        "0",
        "--unixsocket",
        "{socket}",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    return PeerProcess("redis", command, cpus=cpus)

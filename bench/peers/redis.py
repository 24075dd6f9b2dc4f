"""A private redis-server: nothing is written to disk, nothing evicted."""

from __future__ import annotations

from collections.abc import Collection

from bench.peers.process import PeerProcess, free_port, program


def start(cpus: Collection[int] | None = None, *, tcp: bool = False) -> PeerProcess:
    """Starts it; tcp: also on a free port of loopback, its `port`.  Raises PeerMissing or ConnectionFailed."""
    port = free_port() if tcp else 0
    quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    command = [program("redis-server", "redis-server"), "--port", str(port), "--unixsocket", "{socket}", *quiet]
    return PeerProcess("redis", command, cpus=cpus, port=port)

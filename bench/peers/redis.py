"""A private redis-server: nothing is evicted, and nothing written to disk unless it is asked for."""

from __future__ import annotations

from collections.abc import Collection

from bench.peers.process import PeerProcess, free_port, program


def start(cpus: Collection[int] | None = None, *, tcp: bool = False, sync: bool = False) -> PeerProcess:
    """Starts it; tcp: also on a free port of loopback, its `port`; sync: with an append-only file, synced before every answer.

    Raises PeerMissing or ConnectionFailed.
    """
    port = free_port() if tcp else 0
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if sync else ["--appendonly", "no"]
    quiet = ["--save", "", *durable, "--bind", "127.0.0.1"]
    command = [program("redis-server", "redis-server"), "--port", str(port), "--unixsocket", "{socket}", *quiet]
    return PeerProcess("redis", command, cpus=cpus, port=port)

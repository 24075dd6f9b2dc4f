"""A private redis-server without eviction; it writes to disk only if requested."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Collection, Iterable

from bench.peers.process import PeerProcess, free_port, program
from rfp.errors import RfpError

# Over TCP every user of the machine reaches the server: without the password a client may read, and
# nothing else.
STRANGERS = "user default on nopass ~* -@all +get +ping +config|get"


class RedisProcess(PeerProcess):
    """A redis-server; `password` is that of the user "loader", if it listens on TCP."""

    password = ""

    def __enter__(self) -> RedisProcess:
        return self

    def load(self, commands: Iterable[str]) -> None:
        """Execute commands, one a line, over the Unix socket.

        Raises:
            PeerMissing: redis-cli is not installed.
            RfpError: a command failed.
        """
        tool = [program("redis-cli", "redis-tools"), "-s", self.socket]
        environment = os.environ.copy()
        if self.password:
            tool += ["--user", "loader"]
            # Not in the command line, which every user may read.
            environment["REDISCLI_AUTH"] = self.password
        else:
            environment.pop("REDISCLI_AUTH", None)  # redis-cli would send it, and Redis refuse it
        text = "".join(command + "\r\n" for command in commands)
        done = subprocess.run(
            [*tool, "--pipe"],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode or "errors: 0" not in done.stdout:
            raise RfpError(
                f"Redis refused the records to load: {(done.stdout + done.stderr).strip()[-200:]}"
            )


def start(
    cpus: Collection[int] | None = None, *, tcp: bool = False, sync: bool = False
) -> RedisProcess:
    """Start it.

    Args:
        tcp: listen also on a free port of loopback, its `port`.
        sync: use an append-only file that is synced before every response.

    Raises:
        PeerMissing: redis-server is not installed.
        ConnectionFailed: it does not start.
    """
    port = free_port() if tcp else 0
    password = secrets.token_hex(16) if tcp else ""
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if sync else ["--appendonly", "no"]
    quiet = ["--save", "", *durable, "--bind", "127.0.0.1"]
    command = [
        program("redis-server", "redis-server"),
        "-",
        "--port",
        str(port),
        "--unixsocket",
        "{socket}",
        *quiet,
    ]
    users = f"{STRANGERS}\nuser loader on >{password} ~* +@all\n" if tcp else ""
    server = RedisProcess("redis", command, cpus=cpus, port=port, stdin=users)
    server.password = password
    return server

"""Redis through redis-py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.databases import Database
from bench.peers.process import package
from rfp.errors import ConnectionFailed

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Redis(Database):
    """GET and SET of whole records; redis.socket or redis.host and redis.port name the server."""

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        self._redis = package("redis")
        # A failure must be counted, not hidden by a retry.
        self._never = package("redis.retry").Retry(package("redis.backoff").NoBackoff(), 0)
        self.client = f"redis-py {self._redis.__version__}"
        self._peer = None
        self._where: dict[str, Any] = {
            "host": properties["redis.host"],
            "port": properties["redis.port"],
        }
        if properties["redis.socket"]:
            self._where = {"unix_socket_path": properties["redis.socket"]}
        elif private and not properties.given.keys() & {"redis.host", "redis.port"}:
            from bench.peers import redis as peer

            self._peer = peer.start(
                placement.server if placement else None, sync=properties["redis.sync"]
            )
            self._where = {"unix_socket_path": self._peer.socket}
        self._timeout = properties["redis.timeout"]
        try:
            client = self.connect()
            client.ping()
            client.close()
        except self._redis.RedisError as error:
            self.close()
            where = (
                self._where.get("unix_socket_path")
                or f"{self._where['host']}:{self._where['port']}"
            )
            raise ConnectionFailed(
                f"cannot connect to Redis at {where}: {error}",
                hint="start redis-server, set -p redis.host= -p redis.port=, or use `rfp-ycsb "
                "bench redis`, which starts one",
            ) from None

    def connect(self) -> RedisClient:
        client = self._redis.Redis(**self._where, socket_timeout=self._timeout, retry=self._never)
        return RedisClient(client, (self._redis.RedisError, OSError))

    def close(self) -> None:
        if self._peer is not None:
            self._peer.stop()


class RedisClient:
    def __init__(self, client: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.errors = errors
        self.read = client.get
        self.insert = self.update = client.set
        self.delete = client.delete
        self.ping = client.ping
        self.close = client.close

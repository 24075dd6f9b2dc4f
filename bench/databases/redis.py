"""Redis through redis-py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.databases import Database
from bench.peers.process import package_missing
from rfp.errors import ConnectionFailed

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties

try:
    import redis
    import redis.backoff
    import redis.retry
except ImportError:
    raise package_missing("redis") from None


class Redis(Database):
    """GET and SET of whole records; redis.socket or redis.host and redis.port name the server."""

    client = f"redis-py {redis.__version__}"

    def __init__(self, properties: Properties, *, private: bool, placement: Placement | None) -> None:
        self._peer = None
        self._where: dict[str, Any] = {"host": properties["redis.host"], "port": properties["redis.port"]}
        if properties["redis.socket"]:
            self._where = {"unix_socket_path": properties["redis.socket"]}
        elif private and not properties.given.keys() & {"redis.host", "redis.port"}:
            from bench.peers import redis as peer

            self._peer = peer.start(placement.server if placement else None)
            self._where = {"unix_socket_path": self._peer.socket}
        self._timeout = properties["redis.timeout"]
        try:
            client = self.connect()
            client.ping()
            client.close()
        except redis.RedisError as error:
            self.close()
            where = self._where.get("unix_socket_path") or f"{self._where['host']}:{self._where['port']}"
            raise ConnectionFailed(
                f"no Redis at {where}: {error}",
                hint="start redis-server, name another with -p redis.host= -p redis.port=, or let `rfp-ycsb bench redis` start one",
            ) from None

    def connect(self) -> RedisClient:
        # A failure is to be counted, not hidden by another try.
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return RedisClient(redis.Redis(**self._where, socket_timeout=self._timeout, retry=never))

    def close(self) -> None:
        if self._peer is not None:
            self._peer.stop()


class RedisClient:
    errors: tuple[type[BaseException], ...] = (redis.RedisError, OSError)

    def __init__(self, client: Any) -> None:
        self.read = client.get
        self.insert = self.update = client.set
        self.delete = client.delete
        self.ping = client.ping
        self.close = client.close

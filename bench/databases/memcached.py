"""memcached through pylibmc (C) or, if that is not installed, pymemcache (Python)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.databases import Database
from bench.peers.process import package
from rfp.errors import ConnectionFailed

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Memcached(Database):
    """get and set of whole records; memcached.hosts names the server."""

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        self._peer = None
        wanted = properties["memcached.client"]
        self._package = package(*([wanted] if wanted else CLIENTS))
        self.client = f"{self._package.__name__} {self._package.__version__}"
        self._timeout = properties["memcached.timeout"]
        self._where = properties["memcached.hosts"]
        if private and "memcached.hosts" not in properties.given:
            from bench.peers import memcached as peer

            self._peer = peer.start(
                placement.server if placement else None, memory=properties["memcached.memory"]
            )
            self._where = self._peer.socket
        client = self.connect()
        try:
            client.read(b"rfp-ycsb")
        except client.errors as error:
            self.close()
            raise ConnectionFailed(
                f"cannot connect to memcached at {self._where}: {error}",
                hint="start memcached, set -p memcached.hosts=, or use "
                "`rfp-ycsb bench memcached`, which starts one",
            ) from None
        finally:
            client.close()

    def connect(self) -> PylibmcClient:
        return CLIENTS[self._package.__name__](self._package, self._where, self._timeout)

    def close(self) -> None:
        if self._peer is not None:
            self._peer.stop()


class PylibmcClient:
    """libmemcached, in C."""

    def __init__(self, pylibmc: Any, where: str, timeout: float) -> None:
        milliseconds = int(timeout * 1000)
        behaviors = {
            "tcp_nodelay": True,
            "send_timeout": milliseconds * 1000,
            "receive_timeout": milliseconds * 1000,
        }
        client = pylibmc.Client([where], behaviors=behaviors | {"connect_timeout": milliseconds})
        self.errors: tuple[type[BaseException], ...] = (pylibmc.Error, OSError)
        self.read, self.read_many = client.get, client.get_multi
        self._set = client.set
        self.delete = client.delete
        self.close = client.disconnect_all

    def insert(self, key: bytes, value: bytes) -> None:
        # False is memcached's "not stored": no memory is left that it could evict.
        if not self._set(key, value):
            raise OSError("memcached did not store the value")

    update = insert


class PymemcacheClient(PylibmcClient):
    """pymemcache, in Python."""

    def __init__(self, pymemcache: Any, where: str, timeout: float) -> None:
        host, colon, port = where.rpartition(":")
        server: Any = (host, int(port)) if colon and port.isdigit() else where
        client = pymemcache.Client(
            server, connect_timeout=timeout, timeout=timeout, no_delay=True, default_noreply=False
        )
        self.errors = (pymemcache.MemcacheError, OSError)
        self.read, self.read_many = client.get, client.get_many
        self._set = client.set
        self.delete = client.delete
        self.close = client.close


CLIENTS: dict[str, type[PylibmcClient]] = {"pylibmc": PylibmcClient, "pymemcache": PymemcacheClient}

"""memcached through pylibmc (C) or, where that is not installed, pymemcache (Python)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.databases import Database
from bench.peers.process import package_missing
from rfp.errors import ConnectionFailed

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Memcached(Database):
    """get and set of whole records; memcached.hosts names the server."""

    def __init__(self, properties: Properties, *, private: bool, placement: Placement | None) -> None:
        self._peer = None
        self._make, self.client = _client(properties["memcached.client"])
        self._timeout = properties["memcached.timeout"]
        self._where = properties["memcached.hosts"]
        if private and "memcached.hosts" not in properties.given:
            from bench.peers import memcached as peer

            self._peer = peer.start(placement.server if placement else None, memory=properties["memcached.memory"])
            self._where = self._peer.socket
        client = self.connect()
        try:
            client.read(b"rfp-ycsb")
        except client.errors as error:
            self.close()
            raise ConnectionFailed(
                f"no memcached at {self._where}: {error}",
                hint="start memcached, name another with -p memcached.hosts=, or let `rfp-ycsb bench memcached` start one",
            ) from None
        finally:
            client.close()

    def connect(self) -> Any:
        return self._make(self._where, self._timeout)

    def close(self) -> None:
        if self._peer is not None:
            self._peer.stop()


def _client(wanted: str | None) -> tuple[Any, str]:
    """The class of client to use, and how to call it in results."""
    if wanted in (None, "pylibmc"):
        try:
            import pylibmc

            return PylibmcClient, f"pylibmc {pylibmc.__version__}"
        except ImportError:
            if wanted:
                raise package_missing("pylibmc") from None
    try:
        import pymemcache

        return PymemcacheClient, f"pymemcache {pymemcache.__version__}"
    except ImportError:
        raise package_missing("pymemcache" if wanted else "pylibmc (or pymemcache)") from None


class PylibmcClient:
    def __init__(self, where: str, timeout: float) -> None:
        import pylibmc

        milliseconds = int(timeout * 1000)
        behaviors = {"tcp_nodelay": True, "send_timeout": milliseconds * 1000, "receive_timeout": milliseconds * 1000}
        client = pylibmc.Client([where], behaviors=behaviors | {"connect_timeout": milliseconds})
        self.errors: tuple[type[BaseException], ...] = (pylibmc.Error, OSError)
        self.read, self.read_many = client.get, client.get_multi
        self._set = client.set
        self.delete = client.delete
        self.close = client.disconnect_all

    def insert(self, key: bytes, value: bytes) -> None:
        # False is memcached's "not stored": no memory left that it could evict.
        if not self._set(key, value):
            raise OSError("memcached did not store the value")

    update = insert


class PymemcacheClient:
    def __init__(self, where: str, timeout: float) -> None:
        import pymemcache

        host, colon, port = where.rpartition(":")
        server: Any = (host, int(port)) if colon and port.isdigit() else where
        client = pymemcache.Client(server, connect_timeout=timeout, timeout=timeout, no_delay=True, default_noreply=False)
        self.errors: tuple[type[BaseException], ...] = (pymemcache.MemcacheError, OSError)
        self.read, self.read_many = client.get, client.get_many
        self._set = client.set
        self.delete = client.delete
        self.close = client.close

    def insert(self, key: bytes, value: bytes) -> None:
        if not self._set(key, value):
            raise OSError("memcached did not store the value")

    update = insert

"""RocksDB: a log-structured merge tree in this process, through rocksdict."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from bench.databases.embedded import Embedded
from bench.peers.process import package

if TYPE_CHECKING:
    from bench.properties import Properties


class RocksDb(Embedded):
    """RocksDB with its defaults; every write is in its log, and with sync on the disk, before the
    call returns."""

    def open(self, path: str, properties: Properties) -> None:
        rocksdict = package("rocksdict")
        self.client = "rocksdict " + package("importlib.metadata").version("rocksdict")
        self._table = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
        options = rocksdict.WriteOptions()
        options.sync = self.sync
        self._table.set_write_options(options)

    def errors(self) -> tuple[type[BaseException], ...]:
        return (Exception,)  # rocksdict has no exception class of its own for RocksDB's errors

    def connect(self) -> RocksDbClient:
        return RocksDbClient(self._table, self.errors())

    def end(self) -> None:
        self._table.close()


class RocksDbClient:
    def __init__(self, table: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.errors = errors
        self.read = table.get
        self.insert = self.update = table.__setitem__
        self.delete = table.delete
        self._items = table.items

    def scan(self, key: bytes, count: int) -> list[tuple[bytes, bytes]]:
        return list(islice(self._items(from_key=key), count))

    def close(self) -> None:
        pass

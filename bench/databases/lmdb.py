"""LMDB: a B+tree mapped into this process, one transaction per operation."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from bench.databases.embedded import Embedded
from bench.peers.process import package

if TYPE_CHECKING:
    from bench.properties import Properties


class Lmdb(Embedded):
    """Each read is a read transaction, each write a write transaction."""

    def open(self, path: str, properties: Properties) -> None:
        self._lmdb = lmdb = package("lmdb")
        self.client = f"lmdb {lmdb.__version__}"
        self._environment = lmdb.open(
            path,
            map_size=properties["lmdb.mapsize"],
            sync=self.sync,
            metasync=self.sync,
            writemap=not self.sync,
            max_readers=1024,
        )

    def errors(self) -> tuple[type[BaseException], ...]:
        return (package("lmdb").Error,)

    def connect(self) -> LmdbClient:
        return LmdbClient(self._environment, self.errors())

    def end(self) -> None:
        self._environment.close()


class LmdbClient:
    def __init__(self, environment: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.errors = errors
        self._begin = environment.begin

    def read(self, key: bytes) -> Any:
        with self._begin() as transaction:
            return transaction.get(key)

    def scan(self, key: bytes, count: int) -> list[tuple[bytes, bytes]]:
        with self._begin() as transaction, transaction.cursor() as cursor:
            return list(islice(cursor, count)) if cursor.set_range(key) else []

    def insert(self, key: bytes, value: bytes) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(key, value)

    update = insert

    def delete(self, key: bytes) -> None:
        with self._begin(write=True) as transaction:
            transaction.delete(key)

    def close(self) -> None:
        pass

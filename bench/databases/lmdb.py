"""LMDB: a B+tree mapped into this process, one transaction per operation."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from bench.databases import Database
from bench.peers.process import package
from rfp.errors import InvalidArgument

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Lmdb(Database):
    """Each read is a read transaction, each write a write transaction; lmdb.sync decides whether it reaches the disk."""

    def __init__(self, properties: Properties, *, private: bool, placement: Placement | None) -> None:
        self._lmdb = lmdb = package("lmdb")
        self.client = f"lmdb {lmdb.__version__}"
        self._temporary = None
        path = properties["lmdb.path"]
        if path is None:
            if not private:
                raise InvalidArgument(
                    "load and run must use the same files", hint="-p lmdb.path=DIRECTORY, or rfp-ycsb bench lmdb"
                )
            path = self._temporary = tempfile.mkdtemp(prefix="rfp-ycsb-lmdb-")
        sync = properties["lmdb.sync"]
        try:
            self._environment = lmdb.open(
                path, map_size=properties["lmdb.mapsize"], sync=sync, metasync=sync, writemap=not sync, max_readers=1024
            )
        except lmdb.Error as error:
            self._remove()
            raise InvalidArgument(
                f"cannot open LMDB in {path}: {error}", hint="-p lmdb.path= names a directory to write to"
            ) from None

    def connect(self) -> LmdbClient:
        return LmdbClient(self._environment, (self._lmdb.Error,))

    def close(self) -> None:
        self._environment.close()
        self._remove()

    def _remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)


class LmdbClient:
    def __init__(self, environment: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.errors = errors
        self._begin = environment.begin

    def read(self, key: bytes) -> Any:
        with self._begin() as transaction:
            return transaction.get(key)

    def insert(self, key: bytes, value: bytes) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(key, value)

    update = insert

    def delete(self, key: bytes) -> None:
        with self._begin(write=True) as transaction:
            transaction.delete(key)

    def close(self) -> None:
        pass

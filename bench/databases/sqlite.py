"""SQLite: a B-tree in a file, with a write-ahead log; one transaction per operation."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from bench.databases.embedded import Embedded

if TYPE_CHECKING:
    from bench.properties import Properties

LOCK_WAIT_S = 60.0  # seconds for other threads' write transactions


class Sqlite(Embedded):
    """A table of keys and values, in the order of the keys."""

    client = f"sqlite3 {sqlite3.sqlite_version}"

    def open(self, path: str, properties: Properties) -> None:
        self._file = os.path.join(path, "ycsb.sqlite") if os.path.isdir(path) else path
        with SqliteClient(self._file, self.sync) as client:
            client.make()

    def errors(self) -> tuple[type[BaseException], ...]:
        return (sqlite3.Error,)

    def connect(self) -> SqliteClient:
        return SqliteClient(self._file, self.sync)


class SqliteClient:
    errors: tuple[type[BaseException], ...] = (sqlite3.Error,)

    def __init__(self, file: str, sync: bool) -> None:
        # The driver passes a connection to a thread that did not open it, and to no other.
        self._connection = sqlite3.connect(
            file, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
        )
        self._do = self._connection.execute
        self._do("PRAGMA journal_mode=WAL")
        self._do(f"PRAGMA synchronous={'FULL' if sync else 'OFF'}")

    def make(self) -> None:
        self._do(
            "CREATE TABLE IF NOT EXISTS usertable (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

    def read(self, key: bytes) -> bytes | None:
        row = self._do("SELECT value FROM usertable WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def scan(self, key: bytes, count: int) -> list[tuple[bytes, bytes]]:
        return self._do(
            "SELECT key, value FROM usertable WHERE key >= ? ORDER BY key LIMIT ?", (key, count)
        ).fetchall()

    def insert(self, key: bytes, value: bytes) -> None:
        self._do("INSERT OR REPLACE INTO usertable VALUES (?, ?)", (key, value))

    update = insert

    def delete(self, key: bytes) -> None:
        self._do("DELETE FROM usertable WHERE key = ?", (key,))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> SqliteClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

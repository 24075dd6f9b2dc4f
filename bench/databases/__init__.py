"""The databases that can be measured, behind one small interface.

A database is opened once and gives each thread a connection of its own: a bench._driver.Connection where the loop in C can
drive it (`native`), else a bench.python_driver.Client.  With `private=True` it starts a server for itself where it needs one
and the properties name none.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfp.errors import InvalidArgument, bad_choice

if TYPE_CHECKING:
    from bench._driver import Connection
    from bench.placement import Placement
    from bench.properties import Properties
    from bench.python_driver import Client


class Database:
    """One database, open.

    name: as the user calls it.  client: what speaks to it.  native: whether the loop in C drives it.  emulated: the emulated
    network between client and server, empty if there is none.  scans: whether its connections can `scan` (its keys are in order).
    """

    name = ""
    client = ""
    native = False
    emulated = ""
    scans = False

    def __init__(self, properties: Properties, *, private: bool, placement: Placement | None) -> None:
        raise NotImplementedError

    def connect(self) -> Connection | Client:
        """A connection for one thread."""
        raise NotImplementedError

    def verbs(self) -> dict[str, int]:
        """What its clients have posted so far, by name, where they post work requests: calls, writes, reads, switches."""
        return {}

    def close(self) -> None:
        """Closes the database, and stops the server if it is its own.  Connections are closed before."""

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Entry:
    """Where a database's class is found, and what is set for it by its name alone."""

    module: str
    kind: str
    meaning: str
    settings: tuple[tuple[str, str], ...] = ()


DATABASES = {
    "rfp": Entry("rfp", "Rfp", "this package's store, driven by a loop in C"),
    "rfp-python": Entry("rfp", "Rfp", "this package's store, driven through "
                                      "rfp.connect() and its methods", (("rfp.api", "python"),)),
    "rnvm-hashtable": Entry("rnvm", "RnvmHashTable", "this package's persistent hash table, structures.HashTable"),
    "rnvm-bptree": Entry("rnvm", "RnvmBPlusTree", "this package's persistent B+tree, structures.BPlusTree"),
    "redis": Entry("redis", "Redis", "Redis through redis-py"),
    "memcached": Entry("memcached", "Memcached", "memcached through pylibmc, else pymemcache"),
    "lmdb": Entry("lmdb", "Lmdb", "LMDB in this process, one transaction per operation"),
    "rocksdb": Entry("rocksdb", "RocksDb", "RocksDB in this process, through rocksdict"),
    "sqlite": Entry("sqlite", "Sqlite", "SQLite in this process, one transaction per operation"),
    "dict": Entry("in_process", "Dict", "a Python dict: the cost of the Python driver itself"),
    "inproc": Entry("in_process", "Inproc",
                    "a hash table in C in this process: the cost of the C driver itself"),
}


def settings(name: str) -> dict[str, str]:
    """What the name alone sets; raises InvalidArgument if there is no such database."""
    if name not in DATABASES:
        raise bad_choice("database", name, DATABASES)
    return dict(DATABASES[name].settings)


def open_database(name: str, properties: Properties, *, private: bool = False, placement: Placement | None = None) -> Database:
    """Opens a database; its connections take `properties`.

    private: start a server for it where none is named.  placement: the CPUs of that server.  Raises InvalidArgument, PeerMissing
    (bench.peers.process), ConnectionFailed.
    """
    settings(name)
    entry = DATABASES[name]
    kind: Any = getattr(importlib.import_module(f"bench.databases.{entry.module}"), entry.kind)
    database: Database = kind(properties, private=private, placement=placement)
    database.name = name
    return database


def only_private(name: str) -> InvalidArgument:
    """The error for load or run alone of a database that lives in one process."""
    return InvalidArgument(f"cannot run {name} in two commands: its data is in one process",
                           hint=f"use `rfp-ycsb bench {name}`")

"""The databases to measure, behind one small interface.

A database is opened once and gives each thread a connection of its own: a bench._driver.Connection
if the loop in C can drive it (`native`), else a bench.python_driver.Client.  With `private=True` it
starts a server for itself, if it needs one and the properties name none.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.kinds import STRUCTURES
from rfp.errors import InvalidArgument, bad_choice

if TYPE_CHECKING:
    from bench._driver import Connection
    from bench.placement import Placement
    from bench.properties import Properties
    from bench.python_driver import Client


class Database:
    """One database, open.

    Attributes:
        name: the name that the user gave.
        client: the client library.
        native: whether the loop in C drives it.
        emulated: the emulated network between client and server, empty if there is none.
        scans: whether its connections can `scan` (its keys are in order).
    """

    name = ""
    client = ""
    native = False
    emulated = ""
    scans = False

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        raise NotImplementedError

    def connect(self) -> Connection | Client:
        """Return a connection for one thread."""
        raise NotImplementedError

    def verbs(self) -> dict[str, int]:
        """Return the work requests that its clients have posted so far, by name, if they post any:
        calls, writes, reads, switches."""
        return {}

    def close(self) -> None:
        """Close the database, and stop its private server.  The caller closes the connections
        before."""

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Entry:
    """The location of a database's class, and the settings and arguments that its name implies."""

    module: str
    kind: str
    meaning: str
    settings: tuple[tuple[str, str], ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


# Largest overhead of a record in memory: key, header, entry and index.
RECORD_OVERHEAD_BYTES = 128

DATABASES = {
    "rfp": Entry("rfp", "Rfp", "this package's store, driven by a loop in C"),
    "rfp-python": Entry(
        "rfp",
        "Rfp",
        "this package's store, driven through rfp.connect() and its methods",
        (("rfp.api", "python"),),
    ),
    **{
        kind.database: Entry(
            "rnvm",
            "Mapping",
            f"this package's persistent {kind.meaning}, structures.{kind.name}",
            arguments={"kind": kind},
        )
        for kind in STRUCTURES
        if kind.mapping
    },
    "redis": Entry("redis", "Redis", "Redis through redis-py"),
    "memcached": Entry("memcached", "Memcached", "memcached through pylibmc, else pymemcache"),
    "lmdb": Entry("lmdb", "Lmdb", "LMDB in this process, one transaction per operation"),
    "rocksdb": Entry("rocksdb", "RocksDb", "RocksDB in this process, through rocksdict"),
    "sqlite": Entry("sqlite", "Sqlite", "SQLite in this process, one transaction per operation"),
    "dict": Entry("in_process", "Dict", "a Python dict: the cost of the Python driver itself"),
    "inproc": Entry(
        "in_process", "Inproc", "a hash table in C in this process: the cost of the C driver itself"
    ),
}


def settings(name: str) -> dict[str, str]:
    """Return the settings that the name implies; raise InvalidArgument if there is no such
    database."""
    if name not in DATABASES:
        raise bad_choice("database", name, DATABASES)
    return dict(DATABASES[name].settings)


def open_database(
    name: str, properties: Properties, *, private: bool = False, placement: Placement | None = None
) -> Database:
    """Open a database; its connections use `properties`.

    Args:
        private: start a server for it if the properties name none.
        placement: the CPUs of that server.

    Raises:
        InvalidArgument: unknown database, or invalid properties.
        PeerMissing (bench.peers.process): a program or package is not installed.
        ConnectionFailed: the server cannot be reached.
    """
    settings(name)
    entry = DATABASES[name]
    kind: Any = getattr(importlib.import_module(f"bench.databases.{entry.module}"), entry.kind)
    database: Database = kind(properties, private=private, placement=placement, **entry.arguments)
    database.name = name
    return database


def only_private(name: str) -> InvalidArgument:
    """Return the error for load or run alone of a database that exists in one process only."""
    return InvalidArgument(
        f"cannot run {name} in two commands: its data is in one process",
        hint=f"use `rfp-ycsb bench {name}`",
    )

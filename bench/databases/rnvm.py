"""This package's persistent mappings, through a front-end of its own for each thread."""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import islice
from typing import TYPE_CHECKING, Any

import rnvm
from bench.databases import RECORD_OVERHEAD_BYTES, Database
from bench.databases.rfp import emulation
from rfp import address as addresses
from rfp import units
from rfp.errors import InvalidArgument, RfpError
from rnvm import pools

if TYPE_CHECKING:
    from bench.kinds import Kind
    from bench.placement import Placement
    from bench.properties import Properties
    from rnvm.frontend.frontend import FrontEnd

MEMORY = "/dev/shm"
TABLE = "usertable"
# bytes of a pool per byte of records: nodes are half full, and some blocks wait for reuse
SPACE = 3
LOGS = 64 << 20
FRONT_ENDS = 16


class Mapping(Database):
    """A persistent mapping of one kind.

    rnvm.address names the back-end; without it, the back-end is in this process.

    rnvm.pool: the pool to serve, created if there is none; or a folder for a temporary one, by
    default in memory.
    """

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None, kind: Kind
    ) -> None:
        self._kind = kind.structure
        self.scans = kind.ordered
        self._properties = properties
        self._backend: rnvm.Backend | None = None
        self._temporary = ""
        self.client = f"rnvm.connect(), structures.{kind.name}"
        address = properties["rnvm.address"]
        if address is not None:
            self._place = addresses.parse(address)
        else:
            self._backend = self._embed(properties, private, placement)
            self._place = addresses.parse(self._backend.address)
        self.emulated = emulation(self._place)

    def _embed(
        self, properties: Properties, private: bool, placement: Placement | None
    ) -> rnvm.Backend:
        path = properties["rnvm.pool"] or MEMORY
        if os.path.isdir(path):
            if not private:
                raise InvalidArgument(
                    "load and run must use the same pool",
                    hint="set -p rnvm.pool=PATH, or -p rnvm.address= of "
                    "a served pool, or use `rfp-ycsb bench`",
                )
            self._temporary = tempfile.mkdtemp(prefix="rfp-ycsb-rnvm-", dir=path)
            path = os.path.join(self._temporary, "pool")
        try:
            if not os.path.exists(path):
                threads = properties["threadcount"] + 1
                if properties["rnvm.size"]:  # the pool may be too small for more logs
                    pools.create(
                        path, properties["rnvm.size"], front_ends=threads, assume_persistent=True
                    )
                else:
                    pools.create(
                        path,
                        size_for(properties),
                        front_ends=max(FRONT_ENDS, threads),
                        assume_persistent=True,
                    )
            return rnvm.Backend(path, cpus=sorted(placement.server) if placement else None)
        except BaseException:
            self._remove()
            raise

    def connect(self) -> MappingClient:
        given = self._properties
        fe = rnvm.connect(
            self._place,
            durability=given["rnvm.durability"],
            cache=units.size(given["rnvm.cache"]),
            timeout=given["rnvm.timeout"],
            secret_file=given["rnvm.secret_file"],
        )
        return MappingClient(fe, self._kind, given["rnvm.batch"])

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._remove()

    def _remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)


class MappingClient:
    """A front-end and the mapping.  batch: number of writes that become visible together; each is
    durable by itself."""

    errors: tuple[type[BaseException], ...] = (RfpError,)

    def __init__(self, fe: FrontEnd, kind: Any, batch: int) -> None:
        self._fe = fe
        self._batch = batch
        self._open: Any = None  # the open batch
        self._left = 0
        try:
            self._mapping = mapping = kind(fe, TABLE)
        except BaseException:
            fe.close()
            raise
        self.read = mapping.get
        if batch <= 1:
            self.insert = self.update = mapping.set  # type: ignore[method-assign]

    def insert(self, key: bytes, value: bytes) -> None:
        """Store a record."""
        self._count()
        self._mapping[key] = value

    update = insert

    def delete(self, key: bytes) -> None:
        """Remove a record if it exists."""
        self._count()
        self._mapping.pop(key, None)

    def scan(self, key: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """Return this many records, from a key on."""
        return list(islice(self._mapping.range(key, None), count))

    def _count(self) -> None:
        if self._batch <= 1:
            return
        if not self._left:
            if self._open is not None:
                self._open.__exit__(None, None, None)
            self._open = self._fe.batch()
            self._open.__enter__()
            self._left = self._batch
        self._left -= 1

    def close(self) -> None:
        """End the session, and the batch with it: the calling thread may not be the one that began
        the batch."""
        self._fe.close()


def size_for(properties: Properties) -> int:
    """Return the bytes of a pool for the records, and for the inserts of four runs.

    >>> from bench.properties import Properties
    >>> size_for(Properties({"recordcount": "1M"})) // 10**6
    3571
    """
    from bench._workload import operation_shares, record_size

    _, _, inserts, *_ = operation_shares(properties)
    records: int = properties["recordcount"] + 4 * int(properties["operationcount"] * inserts)
    return LOGS + SPACE * records * (record_size(properties) + RECORD_OVERHEAD_BYTES)

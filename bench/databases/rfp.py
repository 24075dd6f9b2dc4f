"""This package's store: driven by the loop in C (rfp.api=native), or through its Python client
(rfp.api=python)."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rfp
from bench.databases import RECORD_OVERHEAD_BYTES, Database
from rfp import address as addresses
from rfp.errors import InvalidArgument, RfpError

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Rfp(Database):
    """This package's store.

    rfp.address names the server; without it, or with port 0 of an RDMA address, the server is
    private and in this process.

    handle: the handle that rfp.connect() returned.
    """

    def __init__(
        self, properties: Properties, *, private: bool, placement: Placement | None
    ) -> None:
        self._properties = properties
        self._server: rfp.Server | None = None
        self._connections: list[Any] = []
        self.native = properties["rfp.api"] == "native"
        self.client = "C driver" if self.native else "rfp.connect()"
        mode = properties["rfp.mode"]
        if self.native and mode == "bypass":
            raise InvalidArgument(
                "the C driver does not support rfp.mode=bypass",
                hint="use -p rfp.api=python, or another rfp.mode",
            )
        access = {name: properties[f"rfp.{name}"] for name in ("secret_file", "tls_ca")}
        given = properties["rfp.address"]
        place = addresses.default() if given is None else addresses.parse(given)
        if private and (given is None or (place.provider == "rdma" and place.port == 0)):
            if given is None:
                place = addresses.unique()
            elif access["secret_file"] is None:
                access["secret"] = secrets.token_hex(32)
            if properties["rfp.network"]:
                place = replace(
                    place, options=addresses.parse(f"shm:///x?{properties['rfp.network']}").options
                )
            self._server = rfp.Server(
                properties["rfp.memory"] or memory_for(properties),
                workers=properties["rfp.workers"],
                address=place,
                cpus=sorted(placement.server) if placement else None,
                **{name: access[name] for name in access if name != "tls_ca"},
            )
            place = addresses.parse(self._server.address)
        self.emulated = emulation(place)
        self._timeout = properties["rfp.timeout"]
        try:
            self.handle = rfp.connect(place, mode=mode, timeout=self._timeout, **access)
        except BaseException:
            if self._server is not None:
                self._server.close()
            raise

    def connect(self) -> Any:
        if not self.native:
            return PythonClient(self.handle)
        from bench._rfp import StoreConnection
        from bench._workload import record_size

        connection = StoreConnection(self.handle, record_size(self._properties), self._timeout)
        self._connections.append(connection)
        return connection

    def verbs(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for channel in self.handle.connection.channels:
            counters = channel.counters
            total.update(
                calls=counters["submitted"],
                **{name: counters[name] for name in ("writes", "reads", "switches")},
            )
        return dict(total)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.handle.close()
        if self._server is not None:
            self._server.close()


class PythonClient:
    errors: tuple[type[BaseException], ...] = (RfpError,)

    def __init__(self, handle: rfp.Client) -> None:
        self.read = handle.get
        self.insert = self.update = handle.put
        self.delete = handle.delete

    def close(self) -> None:
        pass


def memory_for(properties: Properties) -> int:
    """Return the bytes for twice the records, and for the inserts of four runs.

    >>> from bench.properties import Properties
    >>> memory_for(Properties({"recordcount": "1M"})) // 10**6
    2336
    """
    from bench._workload import operation_shares, record_size

    _, _, inserts, *_ = operation_shares(properties)
    records: int = 2 * properties["recordcount"] + 4 * int(properties["operationcount"] * inserts)
    return max(256 << 20, records * (record_size(properties) + RECORD_OVERHEAD_BYTES))


def emulation(place: addresses.Address) -> str:
    """Return the options of an address that emulate a network, empty if there are none.

    >>> emulation(addresses.parse("shm:///run/rfp/default?rtt=2us&in_iops=1M"))
    'rtt=2us, in_iops=1M'
    """
    if place.provider != "shm" or not place.shm.emulated:
        return ""
    return str(place).partition("?")[2].replace("&", ", ")

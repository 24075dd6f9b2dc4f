"""This package's store: driven by the loop in C (rfp.api=native), or through its Python client (rfp.api=python)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rfp
from bench._rfp import RfpConnection
from bench.databases import Database
from bench.placement import pinned
from rfp.errors import RfpError

if TYPE_CHECKING:
    from bench.placement import Placement
    from bench.properties import Properties


class Rfp(Database):
    """rfp.address names the server; a private one is embedded in this process."""

    def __init__(self, properties: Properties, *, private: bool, placement: Placement | None) -> None:
        self._server: Any = None
        self._handle: Any = None
        self._api, self._mode = properties["rfp.api"], properties["rfp.mode"]
        self._timeout, self._window = properties["rfp.timeout"], properties["rfp.window"]
        self.native = self._api == "native"
        address = properties["rfp.address"]
        if address is None and private:
            # The worker threads keep the CPUs of the thread that starts them.
            with pinned(placement.server if placement else None):
                self._server = rfp.Server(memory=properties["rfp.memory"], workers=properties["rfp.workers"])
            address = self._server.address
        self.emulated = emulation(address or "")
        self.client = "C driver" if self.native else "rfp.connect()"
        try:
            self._handle = rfp.connect(address, timeout=self._timeout, mode=self._mode)
        except BaseException:
            self.close()
            raise

    def connect(self) -> Any:
        return RfpConnection(self._handle, self._window) if self.native else PythonClient(self._handle)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        if self._server is not None:
            self._server.close()


class PythonClient:
    errors: tuple[type[BaseException], ...] = (RfpError,)

    def __init__(self, handle: Any) -> None:
        self.read = handle.get
        self.insert = self.update = handle.put
        self.delete = handle.delete

    def close(self) -> None:
        pass


def emulation(address: str) -> str:
    """The options of an address that emulate a network, empty if there are none.

    >>> emulation("shm:///run/rfp/default?rtt=2us&name=x")
    'rtt=2us'
    """
    options = address.partition("?")[2].split("&")
    return ", ".join(option for option in options if option.partition("=")[0] in ("rtt", "in_iops", "out_iops"))

"""Connecting to a server, for the first time and again."""

from __future__ import annotations

import os
import sys

from rfp import address as addresses
from rfp import control
from rfp.address import Address
from rfp.control import Credentials
from rfp.control.message import printable
from rfp.errors import RfpError, explained
from rfp.fabric.fabric import Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.client.connection import Connection


class Opener:
    """A function that a handle calls, with a deadline (ns), for each connection.

    All its connections have the same fabric, with the device and the memory registered with it.

    Args:
        address: of the server; None: the default address.
        service: the name of the service that the server must serve.
        features: to request.
        fabric: None: one for the address, which close() closes.
        credentials: of this client.
        start: hint of the error that no server listens there; None: that of `rfp serve`.
    """

    def __init__(
        self,
        address: str | Address | None,
        service: str,
        *,
        features: int = 0,
        fabric: Fabric | None = None,
        credentials: Credentials | None = None,
        start: str | None = None,
    ) -> None:
        self.address = addresses.default() if address is None else addresses.parse(address)
        self.service = service
        self.features = features
        self.credentials = credentials
        self.start = start
        self.name = printable(
            os.path.basename(sys.argv[0] or "python") if sys.argv else "python", 128
        )
        self._opened = None if fabric else open_fabric(self.address)
        self.fabric: Fabric = fabric or self._opened  # type: ignore[assignment]

    def __call__(self, deadline: int) -> Connection:
        try:
            connection = control.connect(self.address, deadline, self.credentials, start=self.start)
            return Connection(
                self.address,
                self.fabric,
                connection,
                self.service,
                deadline,
                features=self.features,
                name=self.name,
            )
        except RfpError:
            raise
        except OSError as error:
            raise explained(error, f"cannot connect to {self.address}") from error

    def close(self) -> None:
        """Close the fabric unless it is the caller's.  Safe to call again."""
        if self._opened is not None:
            self._opened.close()

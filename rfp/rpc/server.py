"""A server for users' own services, on the same rings as the store."""

from __future__ import annotations

import os
from collections.abc import Callable

from rfp import address as addresses
from rfp import units
from rfp.address import Address
from rfp.control import Credentials
from rfp.core.limits import LINE, SLOTS_MAX
from rfp.errors import WrongType, out_of_bounds
from rfp.fabric.fabric import Fabric
from rfp.fabric.provider import open_fabric
from rfp.protocol.server.server import Host
from rfp.protocol.server.server_base import ServerBase
from rfp.protocol.wire import REQUEST_HEADER
from rfp.rpc.rpc import HandlerService


class RpcServer(ServerBase):
    """Executes calls with `handler(request: bytes) -> bytes`, one at a time, in its own thread.

    An exception of the handler is logged, and reaches the caller as HandlerFailed.

    Args:
        handler: the function.
        address: to listen at; None: a new one.
        max_message: longest request or response, in bytes.
        slots: calls that one client thread may have in flight.
        idle: "adaptive" or "spin", as in rfp.Server.
        secret: as in rfp.Server; likewise secret_file, tls_cert, tls_key, tls_ca and no_auth.

    >>> with RpcServer(lambda request: request[::-1]) as server:
    ...     from rfp import RpcClient
    ...     with RpcClient(server.address) as client:
    ...         client.call(b"abc")
    b'cba'
    """

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        address: str | Address | None = None,
        *,
        max_message: int | str = "64KiB",
        slots: int = 16,
        idle: str = "adaptive",
        fabric: Fabric | None = None,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        no_auth: bool = False,
    ) -> None:
        if not callable(handler):
            raise WrongType(f"handler must be a function of bytes, not {type(handler).__name__}")
        longest = units.size(max_message)
        if not 1 <= longest <= 1 << 19:
            raise out_of_bounds("max_message", max_message, "1B", "512KiB")
        if not 1 <= slots <= SLOTS_MAX:
            raise out_of_bounds("slots", slots, 1, SLOTS_MAX)
        place = addresses.unique() if address is None else addresses.parse(address)
        # An odd number of cache lines: the first lines of the slots then cover all sets of a cache.
        lines = -(-(longest + REQUEST_HEADER) // LINE) | 1
        credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
        service = HandlerService(handler)
        super().__init__()
        used = fabric or self._keep(open_fabric(place))
        try:
            self._host = Host(
                place,
                used,
                [service],
                service="rpc",
                slots=slots,
                slot_size=LINE * lines,
                idle=idle,
                credentials=credentials,
                allow_anyone=no_auth,
            )
        except BaseException:
            self._give_back()
            raise

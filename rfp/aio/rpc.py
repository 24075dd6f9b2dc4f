"""The RPC client on an event loop."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from rfp.address import Address
from rfp.aio.base import Connecting, LoopClient
from rfp.aio.messages import message_call
from rfp.aio.rings import Rings
from rfp.rpc.rpc import RpcClient as SynchronousClient

if TYPE_CHECKING:
    from typing_extensions import Self


class RpcClient(LoopClient):
    """Calls the handler of an RpcServer from one event loop; made by `RpcClient.connect()`.

    >>> import asyncio, rfp, rfp.aio
    >>> async def main(address):
    ...     async with rfp.aio.RpcClient.connect(address) as client:
    ...         return await client.call(b"hello")
    >>> with rfp.RpcServer(bytes.upper) as server:
    ...     asyncio.run(main(server.address))
    b'HELLO'
    """

    _sync: SynchronousClient
    _rings: Rings

    def _use(self, sync: SynchronousClient, rings: Rings) -> None:
        self._sync = sync
        self._rings = rings

    @classmethod
    def connect(
        cls,
        address: str | Address,
        *,
        timeout: float = 5.0,
        mode: str = "auto",
        reconnect: bool = True,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
    ) -> Connecting[Self]:
        """Connect to an RPC server; await the result, or use it with `async with`.

        Args:
            address: of the server.
            timeout: default limit of a call, in seconds.
            mode: "auto", "fetch" or "reply", as in rfp.connect().
            reconnect: whether to connect again after the server was lost.
            secret: as in rfp.connect(); likewise secret_file, tls_ca, tls_cert and tls_key.
        """
        make = functools.partial(
            SynchronousClient, address, timeout=timeout, mode=mode, reconnect=reconnect,
            secret=secret, secret_file=secret_file, tls_ca=tls_ca, tls_cert=tls_cert,
            tls_key=tls_key,
        )  # fmt: skip

        async def made() -> Self:
            client = cls()
            await client._connect(make)
            return client

        return Connecting(made)

    async def call(self, message: Any, *, timeout: float | None = None) -> bytes:
        """Send a message and return the handler's response, as bytes.

        Args:
            message: any contiguous buffer; it is copied before the first suspension.
            timeout: seconds; None: that of the client.

        Raises:
            TooLarge: the message or the response is longer than the server's max_message.
            HandlerFailed: the handler raised an exception.
            OutcomeUnknown: the connection was lost after the message had been sent.
            DeadlineExceeded: the timeout has passed.

        Cost:
            2 network round trips.
        """
        response: bytes = await self._run(message_call(self._sync, message, timeout))
        return response

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return f"<rfp.aio.RpcClient of {self._sync.connection.address}{state}>"

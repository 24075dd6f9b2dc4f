from collections.abc import Callable
from os import PathLike

from typing_extensions import Buffer

from rfp.address import Address
from rfp.protocol.client.client_base import ClientBase
from rfp.protocol.server.service import Service

RPC_MODES: tuple[str, ...]

class HandlerService(Service):
    def __new__(cls, handler: Callable[[bytes], bytes]) -> HandlerService: ...

class RpcClient(ClientBase):
    def __init__(
        self,
        address: str | Address | None,
        *,
        timeout: float = 5.0,
        reconnect: bool = True,
        mode: str = "auto",
        secret: str | bytes | None = None,
        secret_file: str | PathLike[str] | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
    ) -> None: ...
    def call(self, message: Buffer, *, timeout: float | None = None) -> bytes: ...

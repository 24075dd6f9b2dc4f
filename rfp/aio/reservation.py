"""The writer's side of views on an event loop."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from rfp.errors import not_copied
from rfp.store.client.reservation import Reservation as ThreadReservation

if TYPE_CHECKING:
    from rfp.aio.client import Client


class Reservation:
    """An asynchronous context manager whose block fills a value; `Client.reserve` returns one.

    Attributes:
        version: the version of the value, once the block has ended; None before.
    """

    def __init__(
        self, client: Client, reserved: ThreadReservation, key: bytes, options: dict[str, Any]
    ) -> None:
        self.version: int | None = None
        self.nbytes = reserved.nbytes
        self._client = client
        self._reserved = reserved
        self._key = key
        self._options = options
        self._buffer: memoryview | None = None

    async def __aenter__(self) -> memoryview:
        """Return the buffer: a writable memoryview of bytes."""
        self._buffer = self._reserved.__enter__()
        return self._buffer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None and kind is None:
            self.version = await self._client.put(self._key, buffer, **self._options)

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "reserve again")

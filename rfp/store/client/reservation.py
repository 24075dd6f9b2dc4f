"""The writer's side of views: a buffer that becomes a value as a whole.

The buffer is the client's own memory.  A buffer in the server's memory was rejected: a client could
go on writing after the end of the block, so the server would have to copy the value all the same;
and it would have to free the memory of a client that never ends its block.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from rfp.errors import CallerError, not_copied

if TYPE_CHECKING:
    from rfp.store.client.client import Client


class Reservation:
    """A context manager whose block fills a value; `Client.reserve` returns one.

    Attributes:
        version: the version of the value, once the block has ended; None before.
    """

    def __init__(
        self,
        client: Client,
        key: bytes,
        nbytes: int,
        *,
        ttl: float | None,
        if_absent: bool,
        if_version: int | None,
        timeout: float | None,
    ) -> None:
        self.version: int | None = None
        self.nbytes = nbytes
        self._client = client
        self._key = key
        self._ttl = ttl
        self._if_absent = if_absent
        self._if_version = if_version
        self._timeout = timeout
        self._buffer: memoryview | None = None
        self._entered = False

    def __enter__(self) -> memoryview:
        """Return the buffer: a writable memoryview of bytes."""
        if self._entered:
            raise CallerError(
                "a reservation can be entered once", hint="call reserve() for each value"
            )
        self._entered = True
        self._buffer = memoryview(bytearray(self.nbytes))
        return self._buffer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None and kind is None:
            self.version = self._client.put(
                self._key,
                buffer,
                ttl=self._ttl,
                if_absent=self._if_absent,
                if_version=self._if_version,
                timeout=self._timeout,
            )

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "reserve again")

    def __repr__(self) -> str:
        return f"<rfp.Reservation of {self.nbytes} bytes for {self._key!r}>"

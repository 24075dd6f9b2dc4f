"""The store's client on an event loop."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from rfp import connecting
from rfp.address import Address
from rfp.aio import calls
from rfp.aio.base import Connecting, LoopClient, _yield
from rfp.aio.calls import DirectClient
from rfp.aio.reservation import Reservation
from rfp.core import clock
from rfp.errors import RfpError, ServerRefused, WrongType
from rfp.store.client.views import View

SLICE = 2048  # items of a batch whose requests are under way or wait for a slot


def connect(
    address: str | Address | None = None,
    *,
    timeout: float = 5.0,
    mode: str = "auto",
    reconnect: bool = True,
    fetch: int | None = None,
    retries: int | None = None,
    location_cache: int = 65536,
    secret: str | bytes | None = None,
    secret_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> Connecting[Client]:
    """Connect to a store; await the result for a client, or use it with `async with`.

    The arguments are those of rfp.connect().  mode="bypass" counts as "fetch".

    Raises:
        ConnectionFailed: no server listens at the address.
        HandshakeFailed: the server and this client are not compatible.
        Unsupported: the server is too old to wake an event loop.

    >>> import asyncio, rfp, rfp.aio
    >>> async def main(address):
    ...     async with rfp.aio.connect(address) as kv:
    ...         await kv.put(b"k", b"v")
    ...         return await kv.get(b"k")
    >>> with rfp.Server(memory="16MiB") as server:
    ...     asyncio.run(main(server.address))
    b'v'
    """
    make = functools.partial(
        connecting.connect, address, timeout=timeout, mode=mode, reconnect=reconnect,
        fetch=fetch, retries=retries, location_cache=location_cache, secret=secret,
        secret_file=secret_file, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key,
    )  # fmt: skip

    async def made() -> Client:
        client = Client()
        await client._connect(make)
        return client

    return Connecting(made)


class Client(DirectClient, LoopClient):
    """The store of a server, for the tasks of one event loop; `rfp.aio.connect()` returns it.

    The methods are those of rfp.Client, as coroutines, with the same arguments and errors.  All
    tasks share one set of rings: what they submit in one turn of the loop is sent together, and
    calls that find no free slot wait in the order in which they came.

    `timeout=` limits one call, `asyncio.timeout()` a block.  A change that is cancelled may happen
    all the same, unless its request was still waiting.
    """

    async def _get(self, key: Any, method: str, buffer: Any, timeout: float | None) -> Any:
        """GET by a request, as `get`, `item` or `get_into`."""
        into = [buffer] if method == "get_into" else []
        if into and buffer is None:
            raise WrongType(
                "get_into needs a buffer, not None", hint="use get(), which returns new bytes"
            )
        call = calls.read_call(self._sync, key, method, buffer, timeout)
        value = await self._run(call)
        if not call.by_reference:
            return value
        left = calls.seconds_left(call.deadline_ns)
        call.release()
        return await self._in_thread(getattr(self._sync, method), key, *into, timeout=left)

    async def get_range(
        self, key: Any, offset: int, length: int, *, timeout: float | None = None
    ) -> bytes | None:
        """Return a part of the value of a key, or None if the key has no value.

        Cost:
            As rfp.Client.get_range().
        """
        call = calls.range_read_call(self._sync, key, offset, length, timeout)
        value: bytes | None = await self._run(call)
        if call.by_reference:
            left = calls.seconds_left(call.deadline_ns)
            value = await self._in_thread(self._sync.get_range, key, offset, length, timeout=left)
        return value

    async def put(
        self,
        key: Any,
        value: Any,
        *,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Store a value under a key; return its version, an int that only ever grows.

        The contents of the value must not change before the call has returned.  A cancelled put may
        have stored the value or not.

        Raises:
            AlreadyExists, VersionMismatch, TooLarge, OutOfMemory, OutcomeUnknown: as
                rfp.Client.put().

        Cost:
            As rfp.Client.put().
        """
        call = calls.store_call(self._sync, key, value, ttl, if_absent, if_version, timeout)
        if call.fits_into(self._rings):
            version: int = await self._run(call)
            return version
        left = calls.seconds_left(call.deadline_ns)
        call.release()
        return await self._in_thread(
            self._sync.put, key, value, ttl=ttl, if_absent=if_absent, if_version=if_version,
            timeout=left,
        )  # fmt: skip

    async def delete(self, key: Any, *, timeout: float | None = None) -> bool:
        """Delete a key; return whether it had a value.

        Cost:
            2 network round trips.
        """
        existed: bool = await self._run(calls.delete_call(self._sync, key, timeout))
        return existed

    async def exists(self, key: Any, *, timeout: float | None = None) -> bool:
        """Return whether a key has a value, without fetching it.

        Cost:
            2 network round trips.
        """
        found: bool = await self._run(calls.exists_call(self._sync, key, timeout))
        return found

    async def incr(self, key: Any, amount: int = 1, *, timeout: float | None = None) -> int:
        """Add to a value that is a decimal 64-bit integer; return the sum.  A missing key is 0.

        Cost:
            2 network round trips.
        """
        total: int = await self._run(calls.incr_call(self._sync, key, amount, timeout))
        return total

    async def touch(
        self, key: Any, ttl: float | None = None, *, timeout: float | None = None
    ) -> bool:
        """Set a new time to live; return whether the key has a value.

        Cost:
            2 network round trips.
        """
        found: bool = await self._run(calls.touch_call(self._sync, key, ttl, timeout))
        return found

    # Many keys

    async def get_many(
        self, keys: Iterable[Any], *, timeout: float | None = None
    ) -> list[bytes | None]:
        """Return the values of many keys, as a list in their order; None for a key without one.

        Cost:
            As rfp.Client.get_many().
        """
        calls.deadline_of(self._sync, timeout)
        names = calls.checked_keys(keys)
        deadline = calls.deadline_of(self._sync, timeout)
        self._check()
        values: list[bytes | None] = [None] * len(names)
        rest: list[int] = []
        begin = 0
        while begin < len(names):
            if begin:
                await _yield()
            begin = self._read_directly(names, values, begin, rest)
        if rest:
            await self._many("get_many", names, None, 0, deadline, values, rest)
        return values

    async def get_ranges(
        self, ranges: Iterable[tuple[Any, int, int]], *, timeout: float | None = None
    ) -> list[bytes | None]:
        """Return parts of many values, as a list; None for a key without a value.  Not atomic.

        Cost:
            As rfp.Client.get_ranges().
        """
        calls.deadline_of(self._sync, timeout)
        names, values = calls.checked_ranges(ranges)
        return await self._all("get_ranges", names, values, 0, timeout)

    async def exists_many(self, keys: Iterable[Any], *, timeout: float | None = None) -> list[bool]:
        """Return a list of whether each key has a value.  Not atomic.

        Cost:
            As rfp.Client.exists_many().
        """
        calls.deadline_of(self._sync, timeout)
        return await self._all("exists_many", calls.checked_keys(keys), None, 0, timeout)

    async def delete_many(self, keys: Iterable[Any], *, timeout: float | None = None) -> list[bool]:
        """Delete many keys; return a list of whether each had a value.  Not atomic.

        Cost:
            As rfp.Client.delete_many().
        """
        calls.deadline_of(self._sync, timeout)
        return await self._all("delete_many", calls.checked_keys(keys), None, 0, timeout)

    async def put_many(
        self,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> list[int | ServerRefused]:
        """Store many values; return a list with each one's version, or the ServerRefused for it.

        An error that ends the whole call is raised with the attribute `results`.

        Cost:
            As rfp.Client.put_many().
        """
        ttl_ms = calls.expiry_ms(ttl)
        calls.deadline_of(self._sync, timeout)
        names, values = calls.checked_items(items)
        return await self._all("put_many", names, values, ttl_ms, timeout)

    async def get_into_many(
        self, keys: Iterable[Any], buffers: Iterable[Any], *, timeout: float | None = None
    ) -> list[Any]:
        """Fetch the values of many keys, each into its buffer; return a list of their lengths.

        Runs in a thread of the client.  A cancelled call returns once the buffers are not used any
        more.

        Cost:
            As rfp.Client.get_into_many().
        """
        kwargs = {} if timeout is None else {"timeout": timeout}
        return await self._in_thread(
            self._sync.get_into_many, calls.checked_keys(keys), list(buffers), **kwargs
        )

    async def view(self, key: Any, *, timeout: float | None = None) -> View | None:
        """Return a View of the value of a key, or None if it has none: a read-only buffer.

        Runs in a thread of the client.

        Cost:
            As rfp.Client.view().
        """
        kwargs = {} if timeout is None else {"timeout": timeout}
        return await self._in_thread(self._sync.view, key, **kwargs)

    async def view_many(
        self, keys: Iterable[Any], *, timeout: float | None = None
    ) -> list[View | None]:
        """Return views of the values of many keys, as a list; None for a key without one.

        Runs in a thread of the client.

        Cost:
            As rfp.Client.view_many().
        """
        kwargs = {} if timeout is None else {"timeout": timeout}
        return await self._in_thread(self._sync.view_many, calls.checked_keys(keys), **kwargs)

    def reserve(
        self,
        key: Any,
        nbytes: int,
        *,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> Reservation:
        """Return a Reservation: a writable buffer that becomes the value at the end of an
        `async with`.

        Cost:
            As rfp.Client.reserve().
        """
        options: dict[str, Any] = {
            "ttl": ttl, "if_absent": if_absent, "if_version": if_version, "timeout": timeout,
        }  # fmt: skip
        reserved = self._sync.reserve(key, nbytes, **options)
        return Reservation(self, reserved, key, options)

    async def _all(
        self,
        operation: str,
        names: list[bytes],
        values: list[Any] | None,
        ttl_ms: int,
        timeout: float | None,
    ) -> list[Any]:
        deadline = calls.deadline_of(self._sync, timeout)
        self._check()
        results: list[Any] = [None] * len(names)
        await self._many(
            operation, names, values, ttl_ms, deadline, results, list(range(len(names)))
        )
        return results

    async def _many(
        self,
        operation: str,
        names: list[bytes],
        values: list[Any] | None,
        ttl_ms: int,
        deadline: int,
        results: list[Any],
        positions: list[int],
    ) -> None:
        """Make one pass over the items, then request the rest alone; an error has the results."""
        rest: list[int] = []
        try:
            while positions:
                rings = self._rings
                if not rings.usable:
                    rings = await self._connected(deadline)
                # A slice: requests that wait for a slot would only take memory.
                part, positions = positions[:SLICE], positions[SLICE:]
                batch = calls.batch_calls(
                    self._sync, rings, operation, names, values, ttl_ms, part, rest, deadline
                )
                positions = sorted([*await self._send(rings, batch, results, rest), *positions])
            await self._alone(operation, names, values, ttl_ms, deadline, results, sorted(rest))
        except RfpError as error:
            error.results = results
            raise

    async def _send(
        self, rings: Any, batch: Sequence[Any], results: list[Any], rest: list[int]
    ) -> list[int]:
        """Make requests of a batch; return the positions whose requests must be made again."""
        again: list[int] = []
        failed: RfpError | None = None
        try:
            for call in batch:
                rings.start(call, False)
            for call in batch:
                if not call.finished:
                    await call
        except BaseException:
            for call in batch:
                call.leave()
            raise
        for call in batch:
            if call.answered and call.error is None:
                call.spread(results, rest)
                continue
            try:
                if call.answered:
                    call.result()
                call.raise_or_retry()
                again += call.positions
            except RfpError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return again

    async def _alone(
        self,
        operation: str,
        names: list[bytes],
        values: list[Any] | None,
        ttl_ms: int,
        deadline: int,
        results: list[Any],
        positions: list[int],
    ) -> None:
        """Make the requests of items that do not fit into a batch, in the order of the items."""
        for position in positions:
            left = calls.seconds_left(deadline)
            name = names[position]
            value: Any = None if values is None else values[position]
            if operation == "get_many":
                results[position] = await self.get(name, timeout=left)
            elif operation == "get_ranges":
                offset, length = calls.range_of(value)
                results[position] = await self.get_range(name, offset, length, timeout=left)
            elif operation == "exists_many":
                results[position] = await self.exists(name, timeout=left)
            elif operation == "delete_many":
                results[position] = await self.delete(name, timeout=left)
            else:
                try:
                    results[position] = await self.put(
                        name, calls.value_of(value), ttl=ttl_ms / 1000 if ttl_ms else None,
                        timeout=left,
                    )  # fmt: skip
                except ServerRefused as error:
                    results[position] = error

    # All keys

    async def scan(
        self,
        prefix: Any = b"",
        cursor: int = 0,
        count: int = 128,
        *,
        timeout: float | None = None,
    ) -> tuple[int, list[bytes]]:
        """Return (cursor, keys): the next keys of a scan, and where to continue it.

        Cost:
            2 network round trips.
        """
        call = calls.scan_step(self._sync, prefix, cursor, count, timeout)
        keys: list[bytes] = await self._run(call)
        return call.cursor, keys

    async def scan_iter(
        self, prefix: Any = b"", *, count: int = 128, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Return an asynchronous iterator over the keys with a prefix, as scan() finds them.

        A key may come more than once.

        Cost:
            That of scan(), about once for each 100 keys of the server.
        """
        cursor: int | None = None
        while cursor != 0:
            cursor, keys = await self.scan(prefix, cursor or 0, count, timeout=timeout)
            for key in keys:
                yield key

    async def clear(self, prefix: Any = b"", *, timeout: float | None = None) -> int:
        """Delete all keys with a prefix; return their number.  Not atomic.

        Cost:
            As rfp.Client.clear().
        """
        call = calls.clear_step(self._sync, prefix, timeout)
        deleted: int = 0
        while True:
            deleted += int(await self._run(call))
            if call.cursor == 0:
                return deleted
            if clock.now_ns() > call.deadline_ns:
                call.expire()
            call.again()

    # The server

    async def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's counters, as a dict, as rfp.Client.stats().

        "client" has the counters of this loop's rings, with the turns of the loop, the wake-ups by
        the descriptor, and the calls whose responses came at once.

        Cost:
            2 network round trips for each worker.
        """
        partitions = [
            await self._run(calls.stats_call(self._sync, worker, timeout))
            for worker in range(self._sync.connection.partitions)
        ]
        found: dict[str, Any] = calls.totals(self._sync, self._rings, partitions)
        return found

    async def ping(self, *, timeout: float | None = None) -> float:
        """Return the seconds in which every worker, one after the other, answers.

        Cost:
            2 network round trips for each worker.
        """
        began = clock.now_ns()
        for worker in range(self._sync.connection.partitions):
            await self._run(calls.ping_call(self._sync, worker, timeout))
        return (clock.now_ns() - began) / 1e9

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return f"<rfp.aio.Client of {self._sync.connection.address}{state}>"

"""What clients on an event loop have in common: connecting, calls, connecting again, closing.

A client consists of a synchronous handle, which has the connection, and of Rings, by which the loop
uses it.  Set-ups that block (connecting, attaching, closing) and the transfer of large values run
the handle in a few threads of the client's own.  No other call needs a thread.
"""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from rfp.aio.rings import Call, Interruption, Rings, begin_close, is_forked, open_channel
from rfp.core import clock
from rfp.errors import (
    CallerError,
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    Forked,
    HandshakeFailed,
    Unsupported,
    not_copied,
)
from rfp.protocol.client.client_base import PAUSE_S_MAX, PAUSE_S_MIN

Result = TypeVar("Result")
C = TypeVar("C", bound="Closable")

TRANSFERS_MAX = 4  # of a client, for set-ups and large values
ATTEMPT_NS = 1_000_000_000  # of one attempt to connect again


class Closable(Protocol):
    async def close(self) -> None: ...


class Connecting(Generic[C]):
    """The result of connect(): await it, or use it with `async with`.

    Args:
        make: returns the client, not connected yet.
    """

    def __init__(self, make: Callable[[], Awaitable[C]]) -> None:
        self._make = make
        self._client: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._make().__await__()

    async def __aenter__(self) -> C:
        self._client = await self._make()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


class LoopClient:
    """Base of the clients on an event loop."""

    # Attributes of the subclasses.
    _sync: Any
    _rings: Any

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(TRANSFERS_MAX, "rfp-aio")
        # Connecting and closing never wait for a thread that transfers values.
        self._setup = ThreadPoolExecutor(1, "rfp-aio-setup")
        self._closed = False
        self._closing: Future[None] | None = None
        self._attempt: asyncio.Future[None] | None = None  # to connect again
        self._in_threads: set[Interruption] = set()

    def _use(self, sync: Any, rings: Rings) -> None:
        """Set the handle and the rings of a new connection."""
        raise NotImplementedError

    async def _connect(self, connect: Callable[[], Any]) -> None:
        """Connect with the synchronous function, in a thread."""

        def work() -> tuple[Any, Any, int]:
            sync = connect()
            try:
                return sync, *open_channel(sync, clock.now_ns() + int(sync.timeout * 1e9))
            except BaseException:
                sync.close()
                raise

        made = self._setup.submit(work)
        try:
            sync, channel, identity = await asyncio.shield(asyncio.wrap_future(made))
            self._use(sync, Rings(sync, channel, identity, self._loop))
        except BaseException:
            self._closed = True
            # A cancelled task must not wait for a server: the thread closes what it opens.
            self._setup.submit(_close_result, made)
            self._shut_down()
            raise

    def _shut_down(self) -> None:
        """Let the threads end once they have done what they do."""
        self._pool.shutdown(wait=False)
        self._setup.shutdown(wait=False)

    # Calls

    async def _run(self, call: Call) -> Any:
        """Make a call and return its value; repeat it while that is safe and useful."""
        self._check()
        while True:
            rings = self._rings
            if not rings.usable:
                rings = await self._connected(call.deadline_ns)
            if rings.start(call):
                if rings.must_yield:
                    await _yield()
            else:
                await call
            if call.answered:
                return call.result()
            call.raise_or_retry()

    def _check(self) -> None:
        """Raise unless the running task may make calls."""
        self._rings.check()
        if self._closed:
            raise Closed("this handle is closed")

    async def _in_thread(
        self, function: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        """Make a call of the synchronous handle in a thread, for a transfer of large values.

        A cancelled call is interrupted, and left once it has returned: until then it may use the
        caller's memory.
        """
        self._check()
        work = Interruption(self._sync)
        future = self._loop.run_in_executor(
            self._pool, functools.partial(work.run, function, *args, **kwargs)
        )
        self._in_threads.add(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_retrieved)
            while work.interrupt() and not future.done():
                try:
                    await asyncio.wait([future], timeout=0.05)
                except asyncio.CancelledError:
                    continue
            raise
        finally:
            self._in_threads.discard(work)
            _ = self._rings.usable  # the thread may have found that the connection is lost

    # Connections

    async def _connected(self, deadline_ns: int) -> Rings:
        """Return usable rings; connect again if the connection was lost."""
        pause = PAUSE_S_MIN
        while not self._rings.usable:
            if self._closed:
                raise Closed("this handle is closed")
            if is_forked(self._sync):
                raise Forked("this handle belongs to the parent process")
            if not self._sync.reconnect:
                raise ConnectionFailed(
                    f"the connection to {self._sync.connection.address} was lost",
                    hint="connect again, or use reconnect=True",
                )
            left = (deadline_ns - clock.now_ns()) / 1e9
            if left <= 0:
                raise DeadlineExceeded("timed out connecting to the server again")
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = self._loop.create_task(self._open_rings())
                attempt.add_done_callback(self._attempted)
            await asyncio.wait([attempt], timeout=left)
            if attempt.done() and not attempt.cancelled():
                error = attempt.exception()
                if isinstance(error, (HandshakeFailed, Unsupported)):
                    raise error
                if error is not None and (
                    not isinstance(error, (ConnectionFailed, DeadlineExceeded))
                    or clock.now_ns() >= deadline_ns
                ):
                    raise error
                if error is not None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, PAUSE_S_MAX)
        rings: Rings = self._rings
        return rings

    async def _open_rings(self) -> None:
        deadline = clock.now_ns() + ATTEMPT_NS
        channel, identity = await self._loop.run_in_executor(
            self._setup, open_channel, self._sync, deadline
        )
        try:
            if not self._closed:
                self._use(self._sync, Rings(self._sync, channel, identity, self._loop))
        except BaseException:
            channel.connection.detach(channel)
            raise

    def _attempted(self, attempt: asyncio.Future[None]) -> None:
        self._attempt = None
        if not attempt.cancelled():
            attempt.exception()  # retrieved: the callers raise it

    # The end

    async def close(self) -> None:
        """Close the connection.  Safe to call again, and from another loop once this one is closed.

        Calls in progress raise Closed.
        """
        if is_forked(self._sync):
            self._closed = True
            return
        if self._loop.is_closed() or asyncio.get_running_loop() is self._loop:
            self._end()
        else:
            self._loop.call_soon_threadsafe(self._end)
            raise CallerError(
                "this handle belongs to another event loop, which closes it now",
                hint="close it in its own loop",
            )
        assert self._closing is not None
        await asyncio.shield(asyncio.wrap_future(self._closing))

    def _end(self) -> None:
        """End all calls, and begin to close the connection in a thread."""
        if self._closing is not None:
            return
        self._closed = True
        begin_close(self._sync, self._attempt is not None or bool(self._in_threads))
        self._rings.end()
        for work in self._in_threads:
            work.interrupt()
        self._closing = self._setup.submit(self._sync.close)
        self._shut_down()

    @property
    def closed(self) -> bool:
        """Whether the handle was closed."""
        return self._closed

    @property
    def timeout(self) -> float:
        """Limit of a call without a timeout of its own, in seconds."""
        seconds: float = self._sync.timeout
        return seconds

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "connect again: each loop, and each copy, needs a handle of its own")

    def __del__(self) -> None:
        rings = getattr(self, "_rings", None)
        if rings is None or getattr(self, "_closed", True):
            return
        self._closed = True
        if is_forked(self._sync):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        # In a thread: this finalizer may run inside a function of these rings.
        self._end()


async def _yield() -> None:
    await asyncio.sleep(0)


def _close_result(made: Future[Any]) -> None:
    if made.exception() is None:
        made.result()[0].close()


def _retrieved(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()

"""Front-ends for asyncio: operations that wait for a lock, a disk or a network leave the loop free.

A front-end on an event loop has one thread, which makes its calls one after the other, in the order
in which its tasks made them.  Batches and transactions belong to the task that opened them: calls
of other tasks wait until it has ended.  A call that waits until a structure changes, such as
get(timeout=) of a queue, is several calls, and holds neither the loop nor the thread in between.

>>> import asyncio, os, tempfile, rnvm, rnvm.aio, structures
>>> folder = tempfile.TemporaryDirectory()
>>> backend = rnvm.Backend(os.path.join(folder.name, "pool"), size="32MiB")
>>> async def main(address):
...     async with rnvm.aio.connect(address) as fe:
...         table = await fe.open(structures.HashTable, "table")
...         async with fe.transaction(table):
...             await table.set(b"k", b"v")
...         return await table.get(b"k")
>>> asyncio.run(main(backend.address))
b'v'
>>> backend.close()
>>> folder.cleanup()
"""

from __future__ import annotations

import asyncio
import functools
import os
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NoReturn, TypeVar

from rfp.address import Address
from rfp.aio.base import Connecting
from rfp.errors import CallerError, Closed, Forked, not_copied
from rnvm import connecting
from rnvm.frontend.frontend import FrontEnd as SynchronousFrontEnd
from rnvm.frontend.structure import Structure as SynchronousStructure
from rnvm.frontend.watch import Watch
from rnvm.sleeper import Sleeper

Value = TypeVar("Value")

ITERATED_AT_ONCE = 256  # that an iteration fetches in one call of the thread


def connect(
    address: str | os.PathLike[str] | Address, *, timeout: float | None = None, **options: Any
) -> Connecting[FrontEnd]:
    """Connect to a back-end; await the result for a front-end, or use it with `async with`.

    Args:
        address: as in rnvm.connect(), a group included.
        timeout: seconds that a call may take, this one included; default 5, in a group 15.
        options: those of rnvm.connect().
    """
    make = functools.partial(connecting.connect, address, timeout=timeout, **options)

    async def made() -> FrontEnd:
        fe = FrontEnd()
        await fe._connect(make)
        return fe

    return Connecting(made)


class FrontEnd:
    """A front-end for the tasks of one event loop; `rnvm.aio.connect()` returns it."""

    _sync: SynchronousFrontEnd

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, "rnvm-aio")
        self._turn = asyncio.Lock()  # first in, first out
        self._owner: asyncio.Task[Any] | None = None  # the task with an open batch or transaction
        self._scopes = 0  # open batches and transactions of the owner
        self._closed = False
        self._closing: Future[None] | None = None

    async def _connect(self, connect: Callable[[], SynchronousFrontEnd]) -> None:
        made = self._thread.submit(connect)
        try:
            self._sync = await asyncio.shield(asyncio.wrap_future(made))
        except BaseException:
            self._closed = True
            self._thread.submit(_close_result, made)
            self._thread.shutdown(wait=False)
            raise

    # Calls

    async def run(self, function: Callable[..., Value], /, *args: Any, **kwargs: Any) -> Value:
        """Call a function in the front-end's thread, as one call of the running task.

        A structure among the arguments is replaced by the synchronous one.  A cancelled call is
        left once it has returned, at its own timeout at the latest: until then other tasks wait.

        Args:
            function: with these arguments; it may make several operations.

        >>> async def size(fe, table):
        ...     return await fe.run(len, table)
        """
        self._check()
        task = asyncio.current_task()
        plain = [_synchronous(each) for each in args]
        named = {name: _synchronous(each) for name, each in kwargs.items()}
        return await self._in_turn(functools.partial(function, *plain, **named), task)

    async def _in_turn(
        self,
        call: Callable[[], Value],
        task: asyncio.Task[Any] | None,
        waiter: _Waiter | None = None,
    ) -> Value:
        if self._owner is not None and self._owner is task:
            return await self._finish(call, waiter)
        async with self._turn:
            self._check()
            return await self._finish(call, waiter)

    async def _finish(self, call: Callable[[], Value], waiter: _Waiter | None = None) -> Value:
        """Make a call, and stay until it has returned."""
        future = self._loop.run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if waiter is not None:
                waiter.cancelled = True
            await self._returned(future)
            if waiter is not None and waiter.taken is not None and not self._closed:
                await self._returned(self._loop.run_in_executor(self._thread, waiter.give_back))
            raise

    async def _returned(self, future: asyncio.Future[Any]) -> None:
        """Wait until a call has returned, whatever happens to the task."""
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # retrieved

    async def _wait(
        self,
        steps: Generator[tuple[Watch, float, float], None, Any],
        sleeper: Sleeper,
        waiter: _Waiter,
    ) -> Any:
        """Run a method that waits (Structure.WAITING): its steps are calls, its sleeps are not."""
        step = functools.partial(_step, steps, waiter)
        place = sleeper.join()
        try:
            while True:
                self._check()
                ended, found = await self._in_turn(step, asyncio.current_task(), waiter)
                if ended:
                    return found
                watch, ahead, left = found
                if ahead > 0:
                    await sleeper.sleep(place, watch, ahead, left)
        finally:
            steps.close()
            sleeper.leave(place)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise Forked("this front-end belongs to the parent process",
                         hint="connect again in the child, or use 'spawn'")  # fmt: skip
        if asyncio.get_running_loop() is not self._loop:
            raise CallerError("this front-end belongs to another event loop",
                              hint="connect in each loop that uses the back-end")  # fmt: skip
        if self._closed:
            raise Closed("this front-end is closed")

    # Structures

    async def open(self, kind: Callable[..., Any], name: str, **options: Any) -> Structure:
        """Open a structure; its methods are coroutines.

        Args:
            kind: a class of structures, such as structures.Queue, or your own class.
            name: of the structure.
            options: of the class.
        """
        return Structure(self, await self.run(kind, self, name, **options))

    async def names(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """Return the structures of the pool, as rnvm.FrontEnd.names()."""
        return await self.run(self._sync.names, timeout=timeout)

    async def drop(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a structure, as rnvm.FrontEnd.drop()."""
        await self.run(self._sync.drop, name, timeout=timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """Give back what this front-end holds, as rnvm.FrontEnd.release()."""
        await self.run(self._sync.release, timeout=timeout)

    @property
    def figures(self) -> dict[str, int]:
        """The figures of rnvm.FrontEnd.figures."""
        return self._sync.figures

    # Batches and transactions

    def batch(self) -> Scope:
        """Return a batch, as rnvm.FrontEnd.batch(), for `async with`; it belongs to the task."""
        return Scope(self, lambda: self._sync.batch())

    def transaction(self, *structures: Structure, timeout: float | None = None) -> Scope:
        """Return a transaction, as rnvm.FrontEnd.transaction(), for `async with`.

        It belongs to the task.  Calls of other tasks wait until it has ended, also those of tasks
        that this one has started: it must not wait for them.
        """
        plain = [_synchronous(each) for each in structures]
        return Scope(self, lambda: self._sync.transaction(*plain, timeout=timeout))

    def read_transaction(self, *structures: Structure, timeout: float | None = None) -> Scope:
        """Return a read transaction, as rnvm.FrontEnd.read_transaction(), for `async with`.

        It belongs to the task, as a transaction does.
        """
        plain = [_synchronous(each) for each in structures]
        return Scope(self, lambda: self._sync.read_transaction(*plain, timeout=timeout))

    async def read(
        self,
        function: Callable[..., Value],
        *structures: Structure,
        timeout: float | None = None,
    ) -> Value:
        """Call a function with the synchronous structures, as rnvm.FrontEnd.read(), in the
        front-end's thread.
        """
        return await self.run(self._sync.read, function, *structures, timeout=timeout)

    # The end

    async def close(self) -> None:
        """End the session, after the call in progress.  Safe to call again.

        A call that waits until a structure changes ends within half a second with Closed, also
        within run().
        """
        if os.getpid() != self._pid:
            self._closed = True
            return
        self._end()
        assert self._closing is not None
        await asyncio.shield(asyncio.wrap_future(self._closing))

    def _end(self) -> None:
        if self._closing is None:
            self._closed = True
            self._sync._end_waits()
            self._closing = self._thread.submit(self._sync.close)
            self._thread.shutdown(wait=False)

    @property
    def closed(self) -> bool:
        """Whether the front-end was closed."""
        return self._closed

    async def __aenter__(self) -> FrontEnd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "connect again: each loop needs a front-end of its own")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._end()

    def __repr__(self) -> str:
        address = self._sync.address if hasattr(self, "_sync") else "?"
        return f"<rnvm.aio.FrontEnd at {address}{' (closed)' if self._closed else ''}>"


class Scope:
    """A batch or a transaction of one task."""

    def __init__(self, fe: FrontEnd, make: Callable[[], Any]) -> None:
        self._fe = fe
        self._make = make
        self._scope: Any = None

    async def __aenter__(self) -> FrontEnd:
        fe, task = self._fe, asyncio.current_task()
        fe._check()
        nested = fe._owner is not None and fe._owner is task
        if not nested:
            await fe._turn.acquire()
        fe._owner = task
        fe._scopes += 1
        entering = fe._loop.run_in_executor(fe._thread, self._enter)
        try:
            await asyncio.shield(entering)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                await self._undo(entering, error)
            self._leave()
            raise
        return fe

    def _enter(self) -> None:
        scope = self._make()
        scope.__enter__()
        self._scope = scope

    async def _undo(self, entering: asyncio.Future[None], error: BaseException) -> None:
        """End a scope whose task was cancelled while it was opened."""
        while not entering.done():
            try:
                await asyncio.wait([entering])
            except asyncio.CancelledError:
                continue
        if entering.exception() is None:
            await self._fe._finish(functools.partial(self._exit, error))

    def _exit(self, error: BaseException | None) -> Any:
        kind = None if error is None else type(error)
        return self._scope.__exit__(kind, error, error and error.__traceback__)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        if asyncio.current_task() is not self._fe._owner:
            raise CallerError("a batch or transaction must end in the task that opened it")
        try:
            return await self._fe._finish(functools.partial(self._exit, error))
        finally:
            self._leave()

    def _leave(self) -> None:
        fe = self._fe
        fe._scopes -= 1
        if fe._scopes == 0:
            fe._owner = None
            fe._turn.release()


class Structure:
    """A structure on an event loop: the methods of the synchronous one, as coroutines.

    `await fe.run(len, table)` calls what is no method: len(), `in`, and your own functions that
    make several operations in one call.
    """

    def __init__(self, fe: FrontEnd, sync: Any) -> None:
        self._fe = fe
        self._sync = sync
        self._sleeper = Sleeper(fe._loop)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(type(self._sync), name)  # AttributeError, for this name
        if not callable(found):
            return self._attribute(name)
        return functools.partial(self._call, name)

    async def _attribute(self, name: str) -> Any:
        found = await self._fe.run(getattr, self._sync, name)
        return Structure(self._fe, found) if isinstance(found, SynchronousStructure) else found

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        waits = getattr(type(self._sync), "WAITING", {}).get(name)
        if waits is not None and kwargs.get("timeout") is not None:
            waiting, giving_back = waits
            waiter = _Waiter(getattr(self._sync, giving_back))
            steps = getattr(self._sync, waiting)(*args, caller=waiter, **kwargs)
            return await self._fe._wait(steps, self._sleeper, waiter)
        return await self._fe.run(getattr(self._sync, name), *args, **kwargs)

    async def snapshot(self, *, timeout: float | None = None) -> Snapshot:
        """Open a snapshot of a multi-version structure; use it with `async with`."""
        return Snapshot(self._fe, await self._fe.run(self._sync.snapshot, timeout=timeout))

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the structure, some items with each call."""
        return self._iterate(lambda: self._sync)

    def keys(self) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the keys of a mapping."""
        return self._iterate(lambda: self._sync.keys())

    def values(self) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the values of a mapping."""
        return self._iterate(lambda: self._sync.values())

    def items(self) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the items of a mapping."""
        return self._iterate(lambda: self._sync.items())

    def range(self, lo: Any = None, hi: Any = None, *, reverse: bool = False) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over a range of an ordered mapping."""
        return self._iterate(lambda: self._sync.range(lo, hi, reverse=reverse))

    def prefix(self, p: Any, *, reverse: bool = False) -> AsyncIterator[Any]:
        """Return an asynchronous iterator over the keys of an ordered mapping with a prefix."""
        return self._iterate(lambda: self._sync.prefix(p, reverse=reverse))

    async def _iterate(self, view: Callable[[], Iterable[Any]]) -> AsyncIterator[Any]:
        iterator: Iterator[Any] = await self._fe.run(lambda: iter(view()))
        while some := await self._fe.run(lambda: list(islice(iterator, ITERATED_AT_ONCE))):
            for each in some:
                yield each

    def __repr__(self) -> str:
        return f"<rnvm.aio.Structure of {self._sync!r}>"


class _Waiter:
    """A call that waits, for its generator: whether its task is cancelled; what it has taken."""

    def __init__(self, undo: Callable[[Any], None]) -> None:
        self._undo = undo
        self.cancelled = False
        self.taken: tuple[Any, ...] | None = None

    def give_back(self) -> None:
        taken, self.taken = self.taken, None
        self._undo(taken)


def _step(steps: Generator[Any, None, Any], waiter: _Waiter) -> tuple[bool, Any]:
    """Run a generator to its next wait: (False, the wait), or (True, its result)."""
    if waiter.cancelled:
        return True, None
    try:
        return False, next(steps)
    except StopIteration as end:
        return True, end.value


class Snapshot(Structure):
    """A snapshot on an event loop: the methods of the synchronous one, as coroutines."""

    async def __aenter__(self) -> Snapshot:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._fe.run(self._sync.close)


def _synchronous(thing: Any) -> Any:
    return thing._sync if isinstance(thing, (Structure, FrontEnd)) else thing


def _close_result(made: Future[SynchronousFrontEnd]) -> None:
    if made.exception() is None:
        made.result().close()

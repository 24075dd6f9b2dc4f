"""Gets on an event loop: `await kv.get` beside the synchronous call, and many under gather."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import rfp.aio
from bench.experiments import store
from bench.experiments.baselines import BASELINE_VALUE
from bench.experiments.keys import all_keys, drawn
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import CHUNK, clock, one_at_a_time
from bench.peers import redis
from bench.peers.process import PeerMissing, package
from bench.placement import pinned

QUESTION = (
    "What does `await kv.get` of 32 B cost over the synchronous call, and how fast are 64 gets "
    "under gather, compared with redis.asyncio?"
)
TASKS = 64


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        server, kv = stack.enter_context(store.served(setting))
        store.fill(kv, setting)
        direct = stack.enter_context(connected(server.address))
        requests = stack.enter_context(connected(server.address, mode="fetch"))
        sides["get"] = one_at_a_time(setting, kv.get, 2_000_000, 1000)
        sides["await get"] = awaited(setting, *direct)
        sides["gather"] = gathered(setting, *direct)
        sides["gather by requests"] = gathered(setting, *requests)
        try:
            sides["redis"] = gathered(setting, *stack.enter_context(redis_asyncio(setting)))
        except PeerMissing as error:
            why = str(error)
        found = {name: side["rate"] for name, side in take_turns(sides, setting.rounds).items()}
    peer = found.get("redis")
    return [
        Row(
            "await get, 32 B, direct", 1e9 / found["await get"], "ns", 1e9 / found["get"],
            "synchronous get", 1.3, at_least=False,
        ),
        Row(
            f"{TASKS} gets under gather", found["gather"], "op/s", peer, "redis.asyncio", 10,
            why=why,
        ),
        Row(
            f"{TASKS} gets under gather, by requests", found["gather by requests"], "op/s", peer,
            "redis.asyncio", why=why,
        ),
    ]  # fmt: skip


def on(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[Figures]]) -> Side:
    return lambda: loop.run_until_complete(work())


@contextlib.contextmanager
def connected(address: str, **options: Any) -> Iterator[tuple[asyncio.AbstractEventLoop, Any]]:
    """Yield a loop, and the get of a client on it."""

    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[Any]:
        async with rfp.aio.connect(address, timeout=30, **options) as kv:
            yield kv.get

    with on_new_loop(client) as both:
        yield both


@contextlib.contextmanager
def redis_asyncio(setting: Setting) -> Iterator[tuple[asyncio.AbstractEventLoop, Any]]:
    """Yield a loop, and the get of redis.asyncio with a connection for each task."""
    package("redis", "redis")
    from redis import asyncio as client_library

    with redis.start(setting.server) as server:

        @contextlib.asynccontextmanager
        async def client() -> AsyncIterator[Any]:
            pool = client_library.BlockingConnectionPool(
                connection_class=client_library.UnixDomainSocketConnection,
                path=server.socket,
                max_connections=TASKS,
            )
            async with client_library.Redis(connection_pool=pool) as peer:
                keys = all_keys(setting.records)
                for at in range(0, len(keys), 1000):
                    await peer.mset(dict.fromkeys(keys[at : at + 1000], BASELINE_VALUE))
                yield peer.get
            await pool.aclose()

        with on_new_loop(client) as both:
            yield both


@contextlib.contextmanager
def on_new_loop(client: Callable[[], Any]) -> Iterator[tuple[asyncio.AbstractEventLoop, Any]]:
    loop = asyncio.new_event_loop()
    opened = client()
    try:
        get = loop.run_until_complete(opened.__aenter__())
        try:
            yield loop, get
        finally:
            loop.run_until_complete(opened.__aexit__(None, None, None))
    finally:
        loop.close()


def awaited(setting: Setting, loop: asyncio.AbstractEventLoop, get: Any) -> Side:
    """Return a side: one task that awaits one get after the other, {"rate"}."""
    keys = drawn(setting.count(2_000_000), setting.records)

    async def work() -> Figures:
        with pinned(setting.client):
            began = now = clock()
            until = began + int(setting.seconds * 1e9)
            done = 0
            while done < len(keys) and now < until:
                for key in keys[done : done + CHUNK]:
                    await get(key)
                done += CHUNK
                now = clock()
            return {"rate": min(done, len(keys)) * 1e9 / (now - began)}

    return on(loop, work)


def gathered(setting: Setting, loop: asyncio.AbstractEventLoop, get: Any) -> Side:
    """Return a side: batches of gets under gather, {"rate"}."""
    keys = drawn(setting.count(400_000, TASKS), setting.records)

    async def work() -> Figures:
        with pinned(setting.client):
            began = now = clock()
            until = began + int(setting.seconds * 1e9)
            done = 0
            while done < len(keys) and now < until:
                part = keys[done : done + TASKS]
                assert len(await asyncio.gather(*map(get, part))) == len(part)
                done += len(part)
                now = clock()
            return {"rate": done * 1e9 / (now - began)}

    return on(loop, work)

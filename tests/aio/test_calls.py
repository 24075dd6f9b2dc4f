"""Each call on an event loop has the effect and the errors of the synchronous one."""

from __future__ import annotations

import asyncio
import inspect

import pytest

import rfp
import rfp.aio
from rfp.errors import (
    AlreadyExists,
    CallerError,
    Closed,
    ConnectionFailed,
    HandlerFailed,
    InvalidArgument,
    NotANumber,
    TooLarge,
    VersionMismatch,
    WrongType,
)

MODES = ["auto", "fetch", "reply"]
# The synchronous client's methods that the client on a loop has no need of.
LEFT_OUT = {"register", "seed", "mode", "connection", "reconnect", "calibration"}


@pytest.mark.parametrize("mode", MODES)
def test_every_method_returns_what_the_synchronous_one_returns(run, server, mode):
    async def main():
        async with rfp.aio.connect(server.address, mode=mode) as kv:
            await kv.clear()
            first = await kv.put(b"k", b"v")
            assert await kv.put(b"k", b"w", if_version=first) > first
            assert await kv.get(b"k") == b"w"
            assert (await kv.item(b"k")).value == b"w"
            assert await kv.get(b"nobody") is None
            assert await kv.item(b"nobody") is None
            buffer = bytearray(4)
            assert await kv.get_into(b"k", buffer) == 1
            assert buffer == b"w\0\0\0"
            assert await kv.get_into(b"nobody", buffer) is None
            assert await kv.get_range(b"k", 0, 5) == b"w"
            assert await kv.get_range(b"nobody", 0, 5) is None
            assert await kv.exists(b"k")
            assert not await kv.exists(b"nobody")
            assert await kv.touch(b"k", 1000)
            assert [await kv.incr(b"n"), await kv.incr(b"n", 10), await kv.incr(b"n", -1)] == [
                1, 11, 10,
            ]  # fmt: skip
            assert await kv.delete(b"k")
            assert not await kv.delete(b"k")
            assert 0 < await kv.ping() < 5
            stats = await kv.stats()
            assert stats["records"] == 1
            assert len(stats["partitions"]) == 2
            assert not kv.closed
        assert kv.closed

    run(main())


@pytest.mark.parametrize("mode", MODES)
def test_batches_keep_their_order(run, server, mode):
    async def main():
        async with rfp.aio.connect(server.address, mode=mode) as kv:
            await kv.clear()
            # Short values, some that do not fit into a batch's request, one that is uploaded.
            values = {b"%d" % i: bytes([i % 251]) * (i % 40) for i in range(500)}
            values |= {b"long %d" % i: b"l" * (1500 + 500 * i) for i in range(4)}
            values[b"large"] = b"L" * 300_000
            versions = await kv.put_many(values)
            assert versions == [(await kv.item(key)).version for key in values]
            keys = [*values, b"nobody"]
            assert await kv.get_many(keys) == [*values.values(), None]
            assert await kv.exists_many(keys) == [True] * len(values) + [False]
            ranges = [(key, 1, 3) for key in keys]
            assert await kv.get_ranges(ranges) == [
                *[value[1:4] for value in values.values()], None,
            ]  # fmt: skip
            buffers = [bytearray(300_000) for _ in range(3)]
            assert await kv.get_into_many([b"7", b"large", b"nobody"], buffers) == [
                7, 300_000, None,
            ]  # fmt: skip
            assert {key async for key in kv.scan_iter()} == set(values)
            assert {key async for key in kv.scan_iter(b"long")} == {
                b"long %d" % i for i in range(4)
            }
            cursor, some = await kv.scan(count=5)
            assert cursor
            assert len(some) <= 5
            assert await kv.delete_many([b"0", b"nobody", b"1"]) == [True, False, True]
            assert await kv.clear(b"long") == 4
            assert await kv.clear() == len(values) - 6
            assert await kv.get_many([]) == []
            assert await kv.put_many([]) == []

    run(main())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 1, 2000, 2100, 70_000, 1_000_000])
def test_values_of_every_length_come_back(run, server, mode, length):
    async def main():
        async with rfp.aio.connect(server.address, mode=mode) as kv:
            value = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
            version = await kv.put(b"k", bytearray(value))
            assert await kv.get(b"k") == value
            assert await kv.item(b"k") == (value, version)
            buffer = bytearray(length + 1)
            assert await kv.get_into(b"k", buffer) == length
            assert buffer[:length] == value
            assert await kv.get_range(b"k", 10, length) == value[10:]

    run(main())


def test_errors_are_those_of_the_synchronous_client(run, server):
    async def main():
        async with rfp.aio.connect(server.address) as kv:
            await kv.clear()
            version = await kv.put(b"k", b"v")
            with pytest.raises(AlreadyExists):
                await kv.put(b"k", b"w", if_absent=True)
            with pytest.raises(VersionMismatch):
                await kv.put(b"k", b"w", if_version=version + 1)
            with pytest.raises(NotANumber):
                await kv.incr(b"k")
            with pytest.raises(TooLarge):
                await kv.put(b"k", bytes(60 << 20))
            for call in (kv.get, kv.exists, kv.delete, kv.incr, kv.touch, kv.item):
                with pytest.raises(WrongType):
                    await call("k")
                with pytest.raises(InvalidArgument):
                    await call(b"")
            for bad in (0, -1, float("nan")):
                with pytest.raises(InvalidArgument):
                    await kv.get(b"k", timeout=bad)
                with pytest.raises(InvalidArgument):
                    await kv.put(b"k", b"", timeout=bad)
            with pytest.raises(InvalidArgument):
                await kv.get_into(b"k", bytearray())
            with pytest.raises(WrongType):
                await kv.get_into(b"k", None)
            with pytest.raises(WrongType):
                await kv.get_many(5)
        with pytest.raises(Closed):
            await kv.get(b"k")
        with pytest.raises(Closed):
            await kv.put(b"k", b"v")
        await kv.close()

    run(main())


def test_there_is_a_coroutine_for_every_method():
    public = {name for name in dir(rfp.Client) if not name.startswith("_")}
    inherited = {"configure_channel", "calibrate", "find_channel", "connect_again", "reap_lost",
                 "close_connections", "forked"}  # fmt: skip
    missing = public - LEFT_OUT - inherited - set(dir(rfp.aio.Client))
    assert missing == set()
    for name in public & set(dir(rfp.aio.Client)) - {"closed", "timeout", "scan_iter", "reserve"}:
        method = getattr(rfp.aio.Client, name)
        if name in ("get", "item", "get_into"):
            continue  # coroutines of their own class
        assert inspect.iscoroutinefunction(method), name
        mine = list(inspect.signature(method).parameters)
        assert mine[0] == "self"


def test_views_and_reservations_are_those_of_the_synchronous_client(run):
    async def main(address):
        async with rfp.aio.connect(address) as kv:
            reserved = kv.reserve(b"k", 100_000)
            async with reserved as buffer:
                buffer[:3] = b"abc"
            with await kv.view(b"k") as view:
                assert (view.version, view.copied) == (reserved.version, False)
                assert bytes(view) == b"abc" + bytes(99_997)
            assert await kv.view(b"nobody") is None
            views = await kv.view_many([b"k", b"nobody"])
            assert [view and view.nbytes for view in views] == [100_000, None]
            with pytest.raises(RuntimeError, match="given up"):
                async with kv.reserve(b"given up", 5):
                    raise RuntimeError("given up")
            assert await kv.get(b"given up") is None

    with rfp.Server("16MiB") as server:
        run(main(server.address))


def test_over_a_network_a_hot_key_is_read_at_its_place(run, tmp_path):
    async def main(address):
        async with rfp.aio.connect(address) as kv:
            await kv.put(b"k", b"v")
            for _ in range(100):
                assert await kv.get(b"k") == b"v"
            found = (await kv.stats())["client"]["direct"]["found"]
            await kv.put(b"k", b"w")
            assert await kv.get(b"k") == b"w"
        return found

    tmp_path.chmod(0o700)
    with rfp.Server("16MiB", address=f"shm://{tmp_path}/s?rtt=50us") as server:
        assert run(main(server.address)) > 50


def test_a_get_is_a_coroutine_for_every_helper_of_asyncio(run, server):
    async def main():
        async with rfp.aio.connect(server.address) as kv:
            await kv.put(b"k", b"v")
            assert asyncio.iscoroutine(kv.get(b"k"))
            assert await asyncio.create_task(kv.get(b"k")) == b"v"
            assert await asyncio.gather(*(kv.get(b"k") for _ in range(100))) == [b"v"] * 100
            assert await asyncio.wait_for(kv.get(b"k"), 5) == b"v"
            assert await asyncio.shield(kv.get(b"k")) == b"v"
            done = kv.get(b"k")
            assert await done == b"v"
            with pytest.raises(RuntimeError):
                await done
            kv.get(b"k").close()
            begun = kv.get(b"k")
            begun.close()
            with pytest.raises(RuntimeError):
                await begun
            with pytest.raises(KeyError):
                kv.get(b"k").throw(KeyError("x"))

    run(main())


def test_connect_can_be_awaited_or_entered(run, server, place):
    async def main():
        kv = await rfp.aio.connect(server.address)
        async with kv:
            await kv.ping()
        assert kv.closed
        with pytest.raises(ConnectionFailed):
            await rfp.aio.connect(place)
        with pytest.raises(InvalidArgument):
            await rfp.aio.connect(server.address, mode="fast")

    run(main())


def test_an_rpc_client_calls_the_handler(run):
    def handler(message: bytes) -> bytes:
        if message == b"bad":
            raise ValueError("no")
        return message[::-1]

    async def main(address):
        async with rfp.aio.RpcClient.connect(address) as client:
            messages = [b"%d" % i for i in range(300)]
            assert await asyncio.gather(*map(client.call, messages)) == [
                message[::-1] for message in messages
            ]
            with pytest.raises(HandlerFailed, match="no"):
                await client.call(b"bad")
            with pytest.raises(TooLarge):
                await client.call(bytes(1 << 20))
            with pytest.raises(WrongType):
                await client.call("text")
        with pytest.raises(Closed):
            await client.call(b"x")

    with rfp.RpcServer(handler) as server:
        run(main(server.address))


def test_another_loop_or_thread_is_refused(run, server):
    async def main():
        kv = await rfp.aio.connect(server.address)
        await kv.put(b"k", b"v")

        async def use():
            with pytest.raises(CallerError, match="another event loop"):
                await kv.put(b"k", b"w")
            with pytest.raises(CallerError, match="another event loop"):
                await kv.get_many([b"k"])
            with pytest.raises(CallerError, match="another event loop"):
                await kv.get(b"k")

        await asyncio.to_thread(asyncio.run, use())
        assert await kv.get(b"k") == b"v"
        await kv.close()

    run(main())

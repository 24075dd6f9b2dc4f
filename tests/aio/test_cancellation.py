"""A cancelled task leaves its slot behind, and nobody else gets its response."""

from __future__ import annotations

import asyncio

import pytest

import rfp
import rfp.aio
from rfp.errors import Busy, DeadlineExceeded

from .test_waiting import Gate, turns

CALLS = {
    "get": lambda kv: kv.get(b"k"),
    "item": lambda kv: kv.item(b"k"),
    "get_into": lambda kv: kv.get_into(b"k", bytearray(100)),
    "get_range": lambda kv: kv.get_range(b"k", 0, 1),
    "get_large": lambda kv: kv.get(b"large"),
    "put": lambda kv: kv.put(b"k", b"new"),
    "put_large": lambda kv: kv.put(b"large", bytes(1_000_000)),
    "delete": lambda kv: kv.delete(b"k"),
    "incr": lambda kv: kv.incr(b"n"),
    "touch": lambda kv: kv.touch(b"k", 9),
    "exists": lambda kv: kv.exists(b"k"),
    "get_many": lambda kv: kv.get_many([b"k", b"large", b"n"]),
    "put_many": lambda kv: kv.put_many({b"k": b"x", b"large": b"y" * 5000, b"n": b"1"}),
    "delete_many": lambda kv: kv.delete_many([b"k", b"n"]),
    "exists_many": lambda kv: kv.exists_many([b"k", b"n"]),
    "get_ranges": lambda kv: kv.get_ranges([(b"k", 0, 1), (b"large", 0, 9000)]),
    "get_into_many": lambda kv: kv.get_into_many([b"large"], [bytearray(1_000_000)]),
    "scan": lambda kv: kv.scan(),
    "clear": lambda kv: kv.clear(),
    "stats": lambda kv: kv.stats(),
    "ping": lambda kv: kv.ping(),
}


async def values_are_exact(kv):
    for i in range(20):
        await kv.put(b"check %d" % i, b"%d" % i)
    found = await asyncio.gather(*(kv.get(b"check %d" % i) for i in range(20)))
    assert found == [b"%d" % i for i in range(20)]
    assert await kv.get_many([b"check %d" % i for i in range(20)]) == found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_can_be_cancelled_at_each_await(run, server, name):
    async def main():
        async with rfp.aio.connect(server.address, mode="fetch") as kv:
            step = 0
            while True:
                await kv.put(b"k", b"v")
                await kv.put(b"n", b"1")
                await kv.put(b"large", b"l" * 100_000)
                coroutine = CALLS[name](kv)
                task = asyncio.ensure_future(coroutine)
                for _ in range(step):
                    await asyncio.sleep(0)
                    if task.done():
                        break
                done = task.done()
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                await values_are_exact(kv)
                if done:
                    break
                step += 1
            assert kv._rings.usable

    run(main())


def test_the_response_of_a_cancelled_call_is_discarded(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            tasks = [asyncio.create_task(client.call(b"%d" % i)) for i in range(4)]
            await turns()
            tasks[0].cancel()
            tasks[2].cancel()
            await turns()
            gate.open.set()
            assert await tasks[1] == b"1"
            assert await tasks[3] == b"3"
            assert tasks[0].cancelled()
            assert tasks[2].cancelled()
            assert await client.call(b"next") == b"next"
            assert gate.calls == [b"0", b"1", b"2", b"3", b"next"]

    with Gate() as gate:
        run(main(gate))


def test_a_request_that_was_not_posted_is_never_executed(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            first = asyncio.create_task(client.call(b"first"))
            await turns()
            assert gate.entered.wait(30)
            # Both are in slots when the task is cancelled, before the turn that posts them.
            second = asyncio.create_task(client.call(b"cancelled"))
            third = asyncio.create_task(client.call(b"third"))
            await asyncio.sleep(0)
            second.cancel()
            await turns()
            gate.open.set()
            assert await asyncio.gather(first, third) == [b"first", b"third"]
            assert second.cancelled()
            assert b"cancelled" not in gate.calls

    with Gate() as gate:
        run(main(gate))


def test_a_call_that_waits_for_a_slot_leaves_the_queue(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            tasks = [asyncio.create_task(client.call(b"%d" % i)) for i in range(8)]
            await turns()
            tasks[5].cancel()
            await turns()
            gate.open.set()
            rest = [tasks[i] for i in range(8) if i != 5]
            assert await asyncio.gather(*rest) == [b"%d" % i for i in range(8) if i != 5]
            assert gate.calls == [b"%d" % i for i in range(8) if i != 5]

    with Gate() as gate:
        run(main(gate))


def test_slots_of_cancelled_calls_are_taken_until_their_responses_come(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            for _ in range(4):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.call(b"x"), 0.01)
            with pytest.raises((DeadlineExceeded, Busy)):
                await client.call(b"y", timeout=0.02)
            last = asyncio.create_task(client.call(b"z", timeout=30))
            await turns()
            gate.open.set()
            assert await last == b"z"
            assert gate.calls == [b"x"] * 4 + [b"z"]

    with Gate() as gate:
        run(main(gate))


def test_after_a_cancelled_change_reads_observe_it_or_later(run, stoppable):
    async def main():
        async with rfp.aio.connect(stoppable.address, timeout=30) as kv:
            await kv.put(b"k", b"old")
            assert await kv.get(b"k") == b"old"
            stoppable.stop()
            put = asyncio.create_task(kv.put(b"k", b"new"))
            await turns()
            put.cancel()
            await turns()
            # A direct read would find the old value, although the put may happen later.
            read = asyncio.ensure_future(kv.get(b"k"))
            await turns()
            assert not read.done()
            stoppable.resume()
            assert await read == b"new"
            before = (await kv.stats())["client"]["direct"]["found"]
            assert await kv.get(b"k") == b"new"
            assert (await kv.stats())["client"]["direct"]["found"] == before + 1

    run(main())


def test_a_buffer_is_not_written_after_its_call_was_cancelled(run, stoppable):
    async def main():
        async with rfp.aio.connect(stoppable.address, mode="fetch", timeout=30) as kv:
            await kv.put(b"k", b"secret")
            stoppable.stop()
            buffer = bytearray(6)
            task = asyncio.ensure_future(kv.get_into(b"k", buffer))
            await turns()
            task.cancel()
            await turns()
            stoppable.resume()
            await kv.ping()
            assert buffer == bytes(6)

    run(main())


def test_a_task_group_cancels_its_calls(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
                async with asyncio.TaskGroup() as group:
                    for i in range(20):
                        group.create_task(client.call(b"%d" % i))
                    await turns()
                    raise KeyError
            gate.open.set()
            assert await client.call(b"next") == b"next"
            assert gate.calls == [b"0", b"1", b"2", b"3", b"next"]

    with Gate() as gate:
        run(main(gate))


def test_a_cancelled_upload_leaves_nothing_at_the_server(run, server):
    async def main():
        async with rfp.aio.connect(server.address) as kv:
            value = bytearray(8_000_000)
            for step in range(4):
                task = asyncio.create_task(kv.put(b"upload", value))
                await asyncio.sleep(0.002 * step)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                value.append(0)  # its memory is not in use any more
                value.pop()
            stats = await kv.stats()
            assert stats["uploads"] == 0
            assert await kv.put(b"upload", value) > 0
            assert len(await kv.get(b"upload")) == len(value)

    run(main())


def test_the_response_of_an_interrupted_thread_is_discarded(run, stoppable):
    async def main():
        async with rfp.aio.connect(stoppable.address, mode="fetch", timeout=30) as kv:
            values = {b"a": b"a" * 50_000, b"b": b"b" * 60_000}
            for key, value in values.items():
                await kv.put(key, value)
            assert await kv.get(b"a") == values[b"a"]  # one thread has its channel now
            stoppable.stop()
            buffer = bytearray(60_000)
            task = asyncio.create_task(kv.get_into_many([b"a"], [buffer]))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(task), 10)
            buffer.append(0)
            stoppable.resume()
            for _ in range(5):
                for key, value in values.items():
                    assert await kv.get(key) == value

    run(main())

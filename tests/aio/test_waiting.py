"""Tasks wait for responses in the loop: in order, with time limits, woken by the descriptor."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from time_bounds import LONG, soon

import rfp
import rfp.aio
from rfp.errors import ConnectionFailed, DeadlineExceeded


class Gate:
    """An RPC server whose handler waits until the gate is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls: list[bytes] = []
        self.server = rfp.RpcServer(self._handle, slots=4)
        self.address = self.server.address

    def _handle(self, message: bytes) -> bytes:
        self.entered.set()
        assert self.open.wait(60)
        self.calls.append(message)
        return message

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self.server.close()


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_a_thousand_tasks_share_four_slots_in_their_order(run, mode):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address, mode=mode) as client:
            finished = []

            async def one(i):
                assert await client.call(b"%d" % i, timeout=30) == b"%d" % i
                finished.append(i)

            async with asyncio.TaskGroup() as group:
                for i in range(1000):
                    group.create_task(one(i))
                await turns()
                gate.open.set()
            assert finished == list(range(1000))
            assert gate.calls == [b"%d" % i for i in range(1000)]

    with Gate() as gate:
        run(main(gate))


def test_what_one_turn_submits_is_flushed_once_and_answered_by_few_wakeups(run, stoppable):
    async def main():
        async with rfp.aio.connect(stoppable.address, mode="fetch", timeout=30) as kv:
            await kv.put(b"k", b"v")
            before = await kv.stats()
            stoppable.stop()
            tasks = [asyncio.ensure_future(kv.get(b"k")) for _ in range(16)]
            await turns(10)
            assert not any(task.done() for task in tasks)
            stoppable.resume()
            assert await asyncio.gather(*tasks) == [b"v"] * 16
            after = await kv.stats()
            woken = after["client"]["wakeups"] - before["client"]["wakeups"]
            assert 1 <= woken <= 16

    run(main())


def test_a_waiting_loop_uses_no_processor(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            call = asyncio.create_task(client.call(b"x"))
            await asyncio.to_thread(gate.entered.wait, 30)
            await asyncio.sleep(0.02)  # until the loop is armed
            before = time.thread_time()
            await asyncio.sleep(0.3)
            assert time.thread_time() - before < 0.1
            gate.open.set()
            assert await call == b"x"

    with Gate() as gate:
        run(main(gate))


def test_a_response_that_comes_while_the_loop_is_blocked_beats_the_deadline(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            call = asyncio.create_task(client.call(b"x", timeout=2))
            await turns()
            assert gate.entered.wait(30)
            gate.open.set()
            while gate.calls != [b"x"]:
                time.sleep(0.001)
            time.sleep(2.1)  # the loop is blocked, beyond the deadline
            assert await call == b"x"

    with Gate() as gate:
        run(main(gate))


@pytest.mark.parametrize("how", ["timeout=", "asyncio.timeout", "wait_for"])
def test_time_limits_end_a_call_and_later_calls_get_their_own_responses(run, how):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            for _ in range(2):
                if how == "timeout=":
                    with pytest.raises(DeadlineExceeded, match="may still happen"):
                        await client.call(b"late", timeout=0.02)
                elif how == "wait_for":
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(client.call(b"late"), 0.02)
                else:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await client.call(b"late")
            waiting = asyncio.create_task(client.call(b"mine", timeout=30))
            await turns()
            gate.open.set()
            assert await waiting == b"mine"
            assert gate.calls == [b"late", b"late", b"mine"]
            assert await client.call(b"more") == b"more"

    with Gate() as gate:
        run(main(gate))


def test_calls_that_wait_for_a_slot_have_deadlines_too(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address) as client:
            holders = [asyncio.create_task(client.call(b"a", timeout=30)) for _ in range(4)]
            await turns()
            with pytest.raises(DeadlineExceeded) as caught:
                await client.call(b"never", timeout=0.02)
            assert "may still happen" not in str(caught.value)
            gate.open.set()
            await asyncio.gather(*holders)
            assert b"never" not in gate.calls

    with Gate() as gate:
        run(main(gate))


def test_the_loop_gets_a_turn_among_calls_that_complete_at_once(run, server):
    async def main():
        async with rfp.aio.connect(server.address) as kv:
            await kv.put(b"k", b"v")
            other = 0

            async def count():
                nonlocal other
                while True:
                    other += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(count())
            for _ in range(6400):
                assert await kv.get(b"k") == b"v"
            assert other >= 99
            before = other
            for _ in range(640):
                await kv.put(b"k", b"v")
            assert other - before >= 9
            task.cancel()

    run(main())


def test_two_clients_share_a_loop(run, server):
    async def main():
        async with (
            rfp.aio.connect(server.address, mode="fetch") as a,
            rfp.aio.connect(server.address, mode="reply") as b,
        ):

            async def add(kv):
                for _ in range(100):
                    await kv.incr(b"sum")

            await a.delete(b"sum")
            await asyncio.gather(*(add(kv) for kv in (a, b) for _ in range(5)))
            assert await a.get(b"sum") == b"1000"

    run(main())


@pytest.mark.parametrize("rtt", ["20us", "300us"])
def test_an_emulated_network_wakes_the_loop(run, rtt):
    async def main(address):
        async with rfp.aio.connect(address, timeout=20) as kv:

            async def one(i):
                key = b"%d" % i
                await kv.put(key, key)
                return await kv.get(key) == key and await kv.delete(key)

            assert all(await asyncio.gather(*map(one, range(200))))

    from rfp.fabric.shm.region import ShmFabric

    fabric = ShmFabric(rtt_ns=int(rtt[:-2]) * 1000)
    with rfp.Server(memory="16MiB", fabric=fabric) as server:
        run(main(server.address))


def test_a_lost_server_fails_calls_at_once(run, stoppable):
    async def main():
        async with rfp.aio.connect(
            stoppable.address, mode="fetch", timeout=LONG, reconnect=False
        ) as kv:
            await kv.put(b"k", b"v")
            stoppable.stop()
            tasks = [asyncio.ensure_future(kv.get(b"k")) for _ in range(200)]
            await turns()
            stoppable.kill()
            with soon():
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {ConnectionFailed}

    run(main())

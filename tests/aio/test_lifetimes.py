"""Clients end in any order with servers, loops and processes, and connect again."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

import pytest
from time_bounds import LONG

import rfp
import rfp.aio
from rfp.errors import Closed, ConnectionFailed, DeadlineExceeded, Forked, OutcomeUnknown
from tests.faults.processes import ServerProcess

from .test_waiting import Gate, turns


def test_close_ends_the_calls_in_progress(run, stoppable):
    async def main():
        kv = await rfp.aio.connect(stoppable.address, mode="fetch", timeout=30)
        await kv.put(b"k", b"v")
        stoppable.stop()
        tasks = [asyncio.ensure_future(kv.get(b"k")) for _ in range(300)]
        tasks += [asyncio.create_task(kv.put(b"k", b"w")) for _ in range(20)]
        tasks += [asyncio.create_task(kv.put(b"large", bytes(3_000_000))) for _ in range(3)]
        await turns()
        await asyncio.gather(kv.close(), kv.close())
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {Closed}
        with pytest.raises(Closed):
            await kv.put(b"k", b"v")
        await kv.close()
        stoppable.resume()

    run(main())


def test_close_under_load(run, server):
    async def main():
        kv = await rfp.aio.connect(server.address)

        async def work(i):
            while True:
                await kv.put(b"%d" % i, b"v" * i)
                await kv.get_many([b"%d" % j for j in range(i)])

        tasks = [asyncio.create_task(work(i)) for i in range(1, 30)]
        await turns(50)
        await kv.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {Closed}

    run(main())


def test_a_killed_server_is_replaced_by_the_next_one(run, place):
    async def main():
        first = ServerProcess(place, workers=1)
        second = None
        try:
            kv = await rfp.aio.connect(place, timeout=30)
            await kv.put(b"k", b"v")
            assert await kv.get(b"k") == b"v"
            first.stop()
            changes = [asyncio.create_task(kv.incr(b"n")) for _ in range(3)]
            reads = [asyncio.create_task(kv.exists(b"k")) for _ in range(200)]
            await turns()
            first.kill()
            second = await asyncio.to_thread(ServerProcess, place, workers=2)
            results = await asyncio.gather(*changes, return_exceptions=True)
            assert {type(result) for result in results} == {OutcomeUnknown}
            assert await asyncio.gather(*reads) == [False] * 200
            assert await kv.get(b"k") is None  # not the dead server's value
            await kv.put(b"k", b"w")
            assert await kv.get(b"k") == b"w"
            assert await kv.get_many([b"k", b"n"]) == [b"w", None]
            await kv.close()
        finally:
            first.kill()
            if second is not None:
                second.kill()

    run(main())


def test_a_server_that_does_not_come_back_fails_calls_at_their_deadlines(run, stoppable):
    async def main():
        async with rfp.aio.connect(stoppable.address) as kv:
            await kv.put(b"k", b"v")
            stoppable.kill()
            for call in (kv.get(b"k", timeout=0.3), kv.get_many([b"k"], timeout=0.3)):
                with pytest.raises((ConnectionFailed, DeadlineExceeded)):
                    await call
            # Before the loop has noticed the end, the request may have been sent.
            with pytest.raises((ConnectionFailed, DeadlineExceeded)):
                await kv.put(b"k", b"v", timeout=0.3)

    run(main())


def test_a_connect_that_is_cancelled_leaves_nothing(run, stoppable):
    async def main():
        stoppable.stop()
        task = asyncio.ensure_future(connected())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stoppable.resume()

    async def connected():
        return await rfp.aio.connect(stoppable.address, timeout=LONG)

    run(main())


def test_connecting_does_not_block_the_loop(run, stoppable):
    async def main():
        stoppable.stop()
        task = asyncio.ensure_future(connected())
        await asyncio.sleep(0.05)  # returns although nobody answers
        stoppable.resume()
        await (await task).close()

    async def connected():
        return await rfp.aio.connect(stoppable.address, timeout=20)

    run(main())


def test_a_client_that_is_not_closed_warns_and_leaks_nothing(run, server):
    async def main():
        kv = await rfp.aio.connect(server.address)
        await kv.put(b"k", b"v")

    def run_and_drop():
        run(main())
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed"):
        run_and_drop()


def test_a_loop_that_ends_first_leaves_a_client_that_can_be_dropped(run, server):
    kept = []

    async def main():
        kept.append(await rfp.aio.connect(server.address))

    run(main())

    def drop():
        kept.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()


def test_the_child_of_a_fork_cannot_use_the_client(run, server):
    async def main():
        async with rfp.aio.connect(server.address) as kv:
            await kv.put(b"k", b"v")
            await kv.get(b"k")
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 0 if child(kv) else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert await kv.get(b"k") == b"v"
            await kv.put(b"k", b"w")

    def child(kv):
        for call in (kv.get(b"k"), kv.put(b"k", b"x"), kv.get_many([b"k"])):
            try:
                call.send(None)
            except Forked:
                continue
            return False
        return True

    run(main())


def test_a_server_that_ends_in_order_is_noticed(run, place):
    async def main():
        with rfp.Server(address=place, memory="16MiB"):
            kv = await rfp.aio.connect(place, reconnect=False)
            await kv.put(b"k", b"v")
        with pytest.raises(ConnectionFailed):
            await kv.put(b"k", b"v")
        with pytest.raises(ConnectionFailed):
            await kv.get(b"k")
        await kv.close()

    run(main())


def test_responses_that_came_before_the_end_of_the_server_count(run):
    async def main(gate):
        async with rfp.aio.RpcClient.connect(gate.address, reconnect=False) as client:
            call = asyncio.create_task(client.call(b"x"))
            await turns()
            assert gate.entered.wait(30)
            gate.open.set()
            gate.server.close()  # blocks the loop until the handler has returned
            assert await call == b"x"

    with Gate() as gate:
        run(main(gate))


def test_a_killed_server_is_noticed_although_its_child_keeps_its_descriptors(run, stoppable):
    async def main():
        async with rfp.aio.connect(
            stoppable.address, mode="fetch", timeout=30, reconnect=False
        ) as kv:
            await kv.put(b"k", b"v")
            stoppable.do("child = os.fork()\nif child == 0:\n    time.sleep(60)\n    os._exit(0)")
            child = stoppable.do("child")
            try:
                stoppable.stop()
                read = asyncio.ensure_future(kv.get(b"k"))
                await turns()
                stoppable.kill()
                with pytest.raises(ConnectionFailed):
                    await asyncio.wait_for(read, 10)
            finally:
                os.kill(child, signal.SIGKILL)

    run(main())

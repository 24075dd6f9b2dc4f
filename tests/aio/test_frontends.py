"""Front-ends on an event loop: order, batches and transactions of tasks, cancellation, the end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest
from polling import until
from time_bounds import LONG, in_some_try, soon

import rnvm
import rnvm.aio
import rnvm.sleeper
import structures
from rfp import address as addresses
from rfp.errors import CallerError, Closed, Empty, Forked, Undecodable


@pytest.fixture
def backend(tmp_path):
    with rnvm.Backend(tmp_path / "pool", size="32MiB", assume_persistent=True) as backend:
        yield backend


def drop(things: list[object]) -> None:
    things.clear()
    gc.collect()


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_a_snapshot_is_a_structure_that_does_not_change(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            tree = await fe.open(structures.MVBPlusTree, "tree")
            await tree.set(b"k", b"1")
            async with await tree.snapshot() as before:
                await tree.set(b"k", b"2")
                await tree.set(b"l", b"2")
                assert await before.get(b"k") == b"1"
                assert [item async for item in before.items()] == [(b"k", b"1")]
            with pytest.raises(CallerError):
                await before.get(b"k")
            assert await tree.get(b"k") == b"2"
            del tree, before

    run(main())


def test_a_read_transaction_of_a_task_sees_one_moment(run, backend):
    async def main():
        async with (
            rnvm.aio.connect(backend.address) as fe,
            rnvm.aio.connect(backend.address) as other,
        ):
            mine = [await fe.open(structures.HashTable, name, partitions=2) for name in "ab"]
            theirs = [await other.open(structures.HashTable, name, partitions=2) for name in "ab"]
            async with other.transaction(*theirs):
                for table in theirs:
                    await table.set(b"k", b"1")
            async with fe.read_transaction(*mine):
                assert [await table.get(b"k") for table in mine] == [b"1", b"1"]
                with pytest.raises(CallerError, match="only reads"):
                    await mine[0].set(b"k", b"2")
                await theirs[0].set(b"k", b"2")
                assert await mine[0].get(b"k") == b"1"
            found = await fe.read(lambda *all: [table[b"k"] for table in all], *mine)
            assert found == [b"2", b"1"]

    run(main())


def test_the_methods_of_structures_are_coroutines(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            table = await fe.open(structures.HashTable, "table")
            tree = await fe.open(structures.BPlusTree, "tree")
            queue = await fe.open(structures.Queue, "queue")
            for i in range(600):
                await table.set(b"%03d" % i, b"v")
                await tree.set(b"%03d" % i, b"w")
            await queue.put(b"first")
            assert await queue.get() == b"first"
            assert await table.get(b"001") == b"v"
            assert await fe.run(len, table) == 600
            assert [key async for key in tree] == [b"%03d" % i for i in range(600)]
            assert [item async for item in tree.items()][:1] == [(b"000", b"w")]
            assert [key async for key, _ in tree.range(b"01", b"012")] == [b"010", b"011"]
            assert [key async for key, _ in tree.prefix(b"59", reverse=True)][:1] == [b"599"]
            assert await tree.floor(b"5999") == (b"599", b"w")
            assert await fe.run(lambda sync: b"001" in sync, table)
            assert set(await fe.names()) == {"table", "tree", "queue"}
            assert await table.largest_value > 0
            await table.check()
            with pytest.raises(AttributeError):
                table.no_such_method  # noqa: B018
            del queue
            await fe.drop("queue")
        with pytest.raises(Closed):
            await table.get(b"001")
        await fe.close()

    run(main())


def test_calls_of_other_tasks_wait_for_a_transaction_in_their_order(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            table = await fe.open(structures.HashTable, "table")
            done = []

            async def other(i):
                await table.set(b"other", b"%d" % i)
                done.append(i)

            with pytest.raises(KeyError):
                async with fe.transaction(table):
                    await table.set(b"mine", b"1")
                    tasks = [asyncio.create_task(other(i)) for i in range(10)]
                    await turns()
                    await table.set(b"mine", b"2")
                    assert done == []
                    raise KeyError
            await asyncio.gather(*tasks)
            assert done == list(range(10))
            # The exception took back the transaction, and no other task's operation.
            assert await table.get(b"mine") is None
            assert await table.get(b"other") == b"9"
            async with fe.transaction(table):
                await table.set(b"mine", b"3")
            assert await table.get(b"mine") == b"3"

    run(main())


def test_a_transaction_in_a_batch_belongs_to_the_same_task(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            table = await fe.open(structures.HashTable, "table")
            async with fe.batch():
                await table.set(b"a", b"1")
                async with fe.transaction(table):
                    await table.set(b"b", b"2")
                await table.set(b"c", b"3")
            assert [await table.get(key) for key in (b"a", b"b", b"c")] == [b"1", b"2", b"3"]
            with pytest.raises(CallerError):
                async with fe.transaction(table), fe.transaction(table):
                    pass
            assert await table.get(b"a") == b"1"

    run(main())


def test_a_call_that_waits_leaves_the_loop_free(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            gate = threading.Event()
            waiting = asyncio.create_task(fe.run(gate.wait, 30))
            next_one = asyncio.create_task(fe.run(lambda: "next"))
            await turns(50)
            assert not waiting.done()
            assert not next_one.done()
            gate.set()
            assert await waiting
            assert await next_one == "next"

    run(main())


def test_a_cancelled_call_is_left_once_it_has_returned(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            gate = threading.Event()
            ended = []
            task = asyncio.create_task(fe.run(lambda: (gate.wait(30), ended.append(1))))
            queued = asyncio.create_task(fe.run(ended.append, 2))
            await turns()
            queued.cancel()
            task.cancel()
            await turns()
            assert queued.cancelled()
            assert not task.done()
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == [1]
            assert await fe.run(lambda: 5) == 5

    run(main())


@pytest.mark.parametrize("steps", range(0, 12, 2))
def test_a_cancelled_transaction_is_taken_back_and_ends(run, backend, steps):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            table = await fe.open(structures.HashTable, "table")

            async def change():
                async with fe.transaction(table):
                    await table.set(b"k", b"v")
                    await asyncio.sleep(60)

            task = asyncio.create_task(change())
            await turns(steps)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await table.get(b"k") is None
            async with fe.transaction(table):
                await table.set(b"k", b"w")
            assert await table.get(b"k") == b"w"

    run(main())


def test_the_end(run, backend):
    async def main():
        fe = await rnvm.aio.connect(backend.address)

        async def elsewhere():
            with pytest.raises(CallerError):
                await fe.names()

        await asyncio.to_thread(asyncio.run, elsewhere())
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                fe.names().send(None)
            except Forked:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        await asyncio.gather(fe.close(), fe.close())
        assert fe.closed
        dropped = [await rnvm.aio.connect(backend.address)]
        with pytest.warns(ResourceWarning, match="unclosed"):
            drop(dropped)

    run(main())


def test_waiting_calls_of_many_tasks_leave_the_loop_and_the_front_end_free(run, backend):
    async def main():
        async with (
            rnvm.aio.connect(backend.address) as fe,
            rnvm.aio.connect(backend.address) as two,
        ):
            queue = await fe.open(structures.Queue, "queue")
            other = await two.open(structures.Queue, "queue")
            gets = [asyncio.create_task(queue.get(timeout=30)) for _ in range(5)]
            reserve = asyncio.create_task(queue.reserve(lease=30, timeout=30))
            await turns(50)
            table = await fe.open(structures.HashTable, "table")
            await table.set(b"k", b"v")  # while they wait
            for i in range(6):
                await (queue if i % 2 else other).put(b"%d" % i)
            token, value = await reserve
            taken = [*(await asyncio.gather(*gets)), value]
            assert sorted(taken) == [b"%d" % i for i in range(6)]
            await queue.ack(token)
            assert await queue.get(None, timeout=0.05) is None
            with soon(least=0.1):
                await other.put(b"later", delay=0.1)
                assert await queue.get(timeout=LONG) == b"later"

    run(main())


def test_a_cancelled_wait_takes_nothing(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue")
            waits = [asyncio.create_task(queue.get(timeout=30)) for _ in range(3)]
            while fe.figures["calls"] < 8:  # each has announced that it waits
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            for each in waits[:2]:
                each.cancel()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await queue.reserve(timeout=30)
            await queue.put(b"value")
            assert await waits[2] == b"value"
            assert [each.cancelled() for each in waits] == [True, True, False]
            assert await fe.run(len, queue) == 0

    run(main())


def test_closing_ends_the_waits_of_tasks(run, backend):
    async def main():
        fe = await rnvm.aio.connect(backend.address)
        queue = await fe.open(structures.Queue, "queue")
        wait = asyncio.create_task(queue.get(timeout=LONG))
        await asyncio.sleep(0.05)
        with soon():
            await fe.close()
            with pytest.raises(Closed):
                await wait

    run(main())


def test_closing_ends_a_wait_within_a_call_of_the_thread(run, backend):
    async def main():
        for take in ("get", "reserve"):
            fe = await rnvm.aio.connect(backend.address)
            queue = await fe.open(structures.Queue, "queue")
            wait = asyncio.create_task(
                fe.run(lambda sync: getattr(sync, take)(timeout=float("inf")), queue)  # noqa: B023
            )
            await asyncio.sleep(0.05)
            queued = asyncio.create_task(queue.put(b"never"))
            await turns()
            with soon():
                await fe.close()
                for each in (wait, queued):
                    with pytest.raises(Closed):
                        await each

    run(main())


async def asleep(queue, count):
    """Return once so many tasks sleep until the queue changes."""
    while len(queue._sleeper._waiting) != count:
        await asyncio.sleep(0.001)


def test_one_value_wakes_two_of_many_tasks_and_the_first_one_gets_it(run, backend):
    async def main():
        async with (
            rnvm.aio.connect(backend.address) as fe,
            rnvm.aio.connect(backend.address) as two,
        ):
            queue = await fe.open(structures.Queue, "queue")
            other = await two.open(structures.Queue, "queue")
            tasks = []
            for i in range(60):
                tasks.append(asyncio.create_task((queue.get, queue.reserve)[i % 2](timeout=30)))
                await turns(1)
            await asleep(queue, 60)
            requests = []
            for i in range(10):
                before = fe.figures["calls"]
                await other.put(b"%d" % i)
                found = await tasks[i]
                assert (found[1] if i % 2 else found) == b"%d" % i
                await asleep(queue, 59 - i)
                requests.append(fe.figures["calls"] - before)
            assert not any(task.done() for task in tasks[10:])
            # A lock for the one, and an announcement for the other.
            assert min(requests) <= 4
            await other.put_many([b"many"] * 50)
            await asyncio.gather(*tasks)
            del queue, other

    run(main())


def test_the_end_of_a_lease_wakes_two_of_many_tasks(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue")
            await queue.put(b"job")
            token, _ = await queue.reserve()
            tasks = [asyncio.create_task(queue.reserve(timeout=30)) for _ in range(60)]
            await asleep(queue, 60)
            before = fe.figures["calls"]
            await queue.extend(token, 0.1)
            token, job = await tasks[0]
            await asleep(queue, 59)
            assert job == b"job"
            # Nobody but the first two polls, more than twice a second.
            assert fe.figures["calls"] - before < 20
            await queue.ack(token)
            await queue.put_many([b"many"] * 59)
            await asyncio.gather(*tasks)
            del queue

    run(main())


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_a_notified_task_that_leaves_notifies_the_next_one(run, backend, monkeypatch, how):
    async def seconds():
        with rnvm.connect(backend.address) as other:
            producer = structures.Queue(other, "queue")
            async with rnvm.aio.connect(backend.address) as fe:
                queue = await fe.open(structures.Queue, "queue")
                tasks = []
                for _ in range(3):
                    tasks.append(asyncio.create_task(queue.get(timeout=30)))
                    await turns(1)
                await asleep(queue, 3)
                producer.put(b"value")
                waiting = queue._sleeper._waiting
                until(lambda waiting=waiting: len(waiting) == 2)  # the loop is blocked
                if how == "cancel":
                    tasks[0].cancel()
                else:
                    check = fe._check

                    def fail():
                        monkeypatch.setattr(fe, "_check", check)
                        raise KeyError

                    monkeypatch.setattr(fe, "_check", fail)
                began = asyncio.get_running_loop().time()
                with pytest.raises(asyncio.CancelledError if how == "cancel" else KeyError):
                    await tasks[0]
                assert await tasks[1] == b"value"
                took = asyncio.get_running_loop().time() - began
                tasks[2].cancel()
                del queue
            del producer
        return took

    def check():
        assert run(seconds()) < 0.4  # before it polls

    in_some_try(check)


def test_closing_ends_the_waits_of_many_tasks(run, backend):
    async def main():
        fe = await rnvm.aio.connect(backend.address)
        queue = await fe.open(structures.Queue, "queue")
        tasks = [asyncio.create_task(queue.get(timeout=float("inf"))) for _ in range(50)]
        await asleep(queue, 50)
        await fe.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in found} == {Closed}

    run(main())


def test_a_task_waits_over_a_network(run, tmp_path):
    async def main(address: str) -> None:
        async with rnvm.aio.connect(address) as fe, rnvm.aio.connect(address) as two:
            queue = await fe.open(structures.Queue, "queue")
            other = await two.open(structures.Queue, "queue")
            wait = asyncio.create_task(queue.get(timeout=30))
            await asyncio.sleep(0.02)
            await other.put(b"value")
            assert await wait == b"value"
            wait = asyncio.create_task(queue.reserve(timeout=30))
            await asyncio.sleep(0.02)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            assert await queue.reserved == 0

    address = f"{addresses.unique()}?rtt=2us"
    with rnvm.Backend(tmp_path / "pool", "32MiB", assume_persistent=True, address=address):
        run(main(address))


def test_a_wait_does_not_keep_its_queue_open(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue")
            assert await queue.get(None, timeout=0.01) is None
            while any(thread.name == "rnvm-aio-sleeper" for thread in threading.enumerate()):
                await asyncio.sleep(0.01)
            del queue
            gc.collect()
            await fe.drop("queue")

    run(main())


def test_a_cancelled_wait_loses_no_value_and_keeps_no_reservation(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue")
            theirs = await fe.open(structures.Queue, "theirs")
            for which, take in ((queue, queue.get), (theirs, theirs.reserve)):
                taken = 0
                for i in range(60):
                    waiting = asyncio.create_task(take(timeout=30))
                    await turns(3)
                    await which.put(b"%d" % i)
                    for _ in range(i):
                        await asyncio.sleep(0)
                    waiting.cancel()
                    taken += isinstance(
                        (await asyncio.gather(waiting, return_exceptions=True))[0], (bytes, tuple)
                    )
                assert await fe.run(len, which) == 60 - taken
                assert await which.reserved == (taken if which is theirs else 0)
            del queue, theirs, which, take

    run(main())


def test_a_step_that_was_cancelled_gives_back_what_it_took(run, backend, monkeypatch):
    """The operation that takes the value is under way while the task is cancelled."""
    taking, go_on = threading.Event(), threading.Event()
    step = rnvm.aio._step

    def slow_step(*args):
        found = step(*args)
        if found[0]:
            taking.set()
            go_on.wait(30)
        return found

    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue")
            await queue.put(b"first")
            await queue.put(b"second")
            for take in (queue.get, queue.reserve):
                taking.clear()
                go_on.clear()
                waiting = asyncio.create_task(take(timeout=30))
                while not taking.is_set():
                    await asyncio.sleep(0.001)
                waiting.cancel()
                await turns()
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await queue.reserved == 0
                assert await queue.peek() == b"first"
                assert await fe.run(len, queue) == 2
            del queue, take

    monkeypatch.setattr(rnvm.aio, "_step", slow_step)
    run(main())


def test_a_step_that_was_cancelled_gives_an_undecodable_value_back(run, backend, monkeypatch):
    taking, go_on = threading.Event(), threading.Event()
    step = rnvm.aio._step

    def slow_step(*args):
        try:
            return step(*args)
        except Undecodable:
            taking.set()
            go_on.wait(30)
            raise

    class Codec:
        name = "none"
        encode = bytes

        def decode(self, data):
            raise ValueError(data)

    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "queue", codec=Codec())
            await queue.put(b"value")
            waiting = asyncio.create_task(queue.reserve(timeout=30))
            while not taking.is_set():
                await asyncio.sleep(0.001)
            waiting.cancel()
            await turns()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await queue.reserved == 0
            with pytest.raises(Undecodable) as caught:
                await queue.reserve(timeout=30)
            await queue.ack(caught.value.token)
            del queue

    monkeypatch.setattr(rnvm.aio, "_step", slow_step)
    run(main())


def test_waits_and_cancellations_of_many_tasks_take_each_value_once(run, backend, rng):
    """Two front-ends of a loop take what a third one puts, in batches, at once and with delays."""
    count, taken = 150, []

    async def consume(queue):
        while len(taken) < count:
            timeout = rng.choice([0.01, 0.3, 30])
            if rng.random() < 0.5:
                call = asyncio.create_task(queue.get(timeout=timeout))
            else:
                call = asyncio.create_task(queue.reserve(lease=60, timeout=timeout))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.02)
                call.cancel()
            [found] = await asyncio.gather(call, return_exceptions=True)
            if isinstance(found, (Empty, asyncio.CancelledError)):
                continue
            if isinstance(found, tuple):
                token, found = found
                if rng.random() < 0.2:
                    await queue.nack(token)
                    continue
                await queue.ack(token)
            assert isinstance(found, bytes), found
            if found != b"end":
                taken.append(found)

    def put(queue, values):
        way = rng.random()
        if way < 0.2:
            for value in values:
                queue.put(value, delay=0.01)
        elif way < 0.4:
            with queue.fe.batch():
                for value in values:
                    queue.put(value)
        else:
            queue.put_many(values)

    async def main():
        async with (
            rnvm.aio.connect(backend.address, timeout=20) as one,
            rnvm.aio.connect(backend.address, timeout=20) as two,
        ):
            queues = [await fe.open(structures.Queue, "queue") for fe in (one, two)]
            with rnvm.connect(backend.address, timeout=20) as fe:
                producer = structures.Queue(fe, "queue")
                tasks = [asyncio.create_task(consume(queues[i % 2])) for i in range(20)]
                values = [b"%d" % i for i in range(count)]
                while values:
                    some = rng.choice([1, 1, 5, 20])
                    await asyncio.to_thread(put, producer, values[:some])
                    del values[:some]
                    await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02]))
                while len(taken) < count and not any(task.done() for task in tasks):
                    await asyncio.sleep(0.01)
                producer.put_many([b"end"] * 100)
                await asyncio.gather(*tasks)
                del producer
            del queues, tasks

    run(main())
    assert sorted(map(int, taken)) == list(range(count))


def test_a_blocked_loop_is_notified_once_of_a_change(run, backend, monkeypatch):
    notified = []
    notify = rnvm.sleeper.Sleeper._notify
    monkeypatch.setattr(
        rnvm.sleeper.Sleeper,
        "_notify",
        lambda self, future: (notified.append(1), notify(self, future)),
    )

    async def main():
        with rnvm.connect(backend.address) as other:
            producer = structures.Queue(other, "queue")
            async with rnvm.aio.connect(backend.address) as fe:
                queue = await fe.open(structures.Queue, "queue")
                waiting = asyncio.create_task(queue.get(timeout=30))
                await asyncio.sleep(0.1)
                producer.put(b"value")
                time.sleep(0.2)  # the loop is blocked
                assert await waiting == b"value"
                del queue
            del producer
        assert 1 <= len(notified) < 5

    run(main())


def test_the_dead_letter_queue_is_a_structure_of_the_loop(run, backend):
    async def main():
        async with rnvm.aio.connect(backend.address) as fe:
            queue = await fe.open(structures.Queue, "q", dead_letter="dead", max_deliveries=1)
            await queue.put(b"job")
            token, _ = await queue.reserve()
            await queue.nack(token)
            dead = await queue.dead_letter
            assert await dead.get(timeout=30) == b"job"
            plain = await fe.open(structures.Queue, "plain")
            assert await plain.dead_letter is None
            del queue, dead, plain

    run(main())

"""Sessions that are lost at the worst moments, lost attempts to begin a new one, and full pools."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from connecting import connect_hasty
from repeating import repeating
from time_bounds import raises_in_some_try

import rnvm
import rnvm.cli
from rfp import address as addresses
from rfp.core import clock
from rfp.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    Empty,
    HandshakeFailed,
    NotFound,
    NotReplicated,
    OutOfMemory,
    QuotaExceeded,
    StorageFailed,
)
from rfp.protocol.client.channel import Channel
from rfp.protocol.client.connection import Connection
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm import pools
from rnvm.frontend.frontend import FrontEnd
from rnvm.testing.sample_structure import Sample
from structures import HashTable, Queue

from .conftest import new_path, open_backend
from .processes import Process, address_of, served
from .test_rings import client


class LostConnection(Connection):
    """Is lost when the back-end has begun a session that its front-end does not know yet."""

    def memory(self, *_: Any, **__: Any) -> Any:
        raise ConnectionFailed("the connection was lost in the test")


class Losing(Opener):
    """Opens links; after the first one, so many links are lost."""

    lost = -1

    def __call__(self, deadline: int) -> Connection:
        link = super().__call__(deadline)
        if 0 <= self.lost < 3:
            link.__class__ = LostConnection
        self.lost += 1
        return link


@pytest.mark.parametrize("batch", [False, True])
def test_a_writer_learns_the_outcome_of_its_last_record_after_its_rings_had_other_owners(
    batch: bool, seed: int
) -> None:
    lost = 0
    for moment in range(1, 8):
        with new_path("reorder") as path:
            pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
            with open_backend(path, "reorder") as backend:
                fabric = ReorderFabric(seed=seed + moment)
                opener = Losing(backend.address, "rnvm", fabric=fabric)
                with FrontEnd(opener, timeout=20) as fe:
                    sample = Sample(fe, "s")
                    assert sample.add(1) == 1
                    fabric.lose(moment)
                    if batch:
                        with fe.batch():
                            assert [sample.add(1), sample.add(1)] == [2, 3]
                    else:
                        assert [sample.add(1), sample.add(1)] == [2, 3]
                    assert sample.numbers() == (3, 3)
                    lost += opener.lost > 0
    assert lost > 3


# Does its operations in a batch that never ends, and reports that they are done.
WRITER = """
import os, sys, time, rnvm
from rnvm.testing.sample_structure import Sample
fe = rnvm.connect(sys.argv[1], timeout=30)
samples = [Sample(fe, name) for name in sys.argv[2:]]
with fe.batch():
    for sample in samples:
        sample.add(1)
    os.write(1, b"done")
    time.sleep(1000)
"""


def killed_in_a_batch(backend: rnvm.Backend, *names: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(backend.address), *names], stdout=subprocess.PIPE
    )
    assert writer.stdout
    with writer, writer.stdout:
        assert writer.stdout.read(4) == b"done"
        writer.kill()


def test_any_number_of_dead_writers_with_any_pending_operations_exclude_no_writer() -> None:
    """The second writer finds the only session taken, and leaves those of the other structure."""
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
        with open_backend(path) as backend:
            killed_in_a_batch(backend, "a", "b")
            for _ in range(3):
                killed_in_a_batch(backend, "a")
            with rnvm.connect(backend.address, timeout=30) as fe:
                with pytest.raises(QuotaExceeded):
                    connect_hasty(backend.address, 1)
                assert [Sample(fe, name).add(0) for name in ("a", "b")] == [4, 1]


def test_a_pool_whose_only_session_has_pending_operations_is_recovered_offline() -> None:
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
        with open_backend(path) as backend:
            killed_in_a_batch(backend, "a")
        result = CliRunner().invoke(
            rnvm.cli.main, ["recover", path, "--with", "rnvm.testing.sample_structure"]
        )
        assert (result.exit_code, "1 operation executed" in result.output) == (0, True), (
            result.output
        )


class GivingUp(Opener):
    """Its connections fail at one moment or another after the back-end may have begun a session."""

    def __init__(self, *arguments: Any, moment: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moment = moment

    def __call__(self, deadline: int) -> Connection:
        link = super().__call__(deadline)
        attach, memory = link.attach, link.memory

        def stopped(deadline: int) -> Channel:
            channel = attach(deadline)
            self.fabric.stop(self.moment)  # type: ignore[attr-defined]
            return channel

        def late(*arguments: Any, **options: Any) -> Any:
            if self.moment == -1:
                memory(*arguments, **options)
            raise DeadlineExceeded("it took too long in the test")

        if self.moment > 0:
            link.attach = stopped  # type: ignore[method-assign]
        else:
            link.memory = late  # type: ignore[method-assign]
        return link


@contextlib.contextmanager
def late(fabric: ReorderFabric) -> Iterator[None]:
    """Complete each request at which the fabric stops, later than its caller has time for."""

    def let_go() -> None:
        if fabric.stopped:
            time.sleep(0.06)
            fabric.hold(0)

    with repeating(let_go, pause=0.001):
        yield


def test_a_front_end_that_gives_up_connecting_leaves_no_session_behind(seed: int) -> None:
    gave_up = 0
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
        with open_backend(path, lease=2.0) as backend:  # the session lasts for 5/4 of it
            for moment in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8):
                fabric = ReorderFabric(seed=seed + moment) if moment > 0 else None
                for _ in range(2):
                    # It may be refused: the session before has not ended yet.
                    with (
                        late(fabric) if fabric is not None else contextlib.nullcontext(),
                        contextlib.suppress(DeadlineExceeded, ConnectionFailed, QuotaExceeded),
                    ):
                        FrontEnd(
                            GivingUp(backend.address, "rnvm", fabric=fabric, moment=moment),
                            timeout=0.05,
                        ).close()
                        gave_up -= 1
                    gave_up += 1
                rnvm.connect(backend.address, timeout=20).close()
    assert gave_up > 8


def test_an_attempt_to_connect_that_runs_out_of_time_does_not_hide_the_reason() -> None:
    reasons = [NotReplicated("the reason")]

    class Refusing(Opener):
        def __call__(self, deadline: int) -> Connection:
            if reasons:
                raise reasons.pop()
            while clock.now_ns() < deadline:
                time.sleep(0.01)
            raise ConnectionFailed("no answer in time")

    with pytest.raises(NotReplicated, match="the reason"):
        FrontEnd(Refusing(addresses.unique(), "rnvm"), timeout=0.3)


def test_a_front_end_that_was_fenced_and_closed_leaves_no_session_behind() -> None:
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=2, assume_persistent=True)
        with open_backend(path, lease=0.02) as backend, rnvm.connect(backend.address) as other:
            theirs = Sample(other, "s")
            for i in range(6):
                fe = rnvm.connect(backend.address, timeout=20)
                sample = Sample(fe, "s")
                with contextlib.suppress(ConnectionFailed), fe.transaction(sample):
                    theirs.add(1, timeout=20)  # it has to wait until the other one is fenced
                del sample
                fe.close()
                assert theirs.numbers()[0] == i + 1


def test_a_forked_child_does_not_touch_its_parents_session() -> None:
    """Even if its last structure object is deleted in the child."""
    code = """
import os, rnvm, sys
from rnvm.testing.sample_structure import Sample
backend = rnvm.Backend(sys.argv[1], size="8MiB", assume_persistent=True)
fe = rnvm.connect(backend.address)
sample = Sample(fe, "s")
sample.add(1)
before = fe.figures["session"], fe.figures["epoch"]
child = os.fork()
if not child:
    del sample
    os._exit(0)
os.waitpid(child, 0)
print(sample.add(1), before == (fe.figures["session"], fe.figures["epoch"]), flush=True)
"""
    with new_path("direct") as path:
        done = subprocess.run(
            [sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True, timeout=50
        )
        assert done.stdout == b"2 True\n"


def test_a_new_back_end_takes_no_session_from_a_running_process(seed: int) -> None:
    """The new back-end does not know which tickets the earlier one had issued."""
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        with served(path):
            victim = stack.enter_context(Process(WRITER, address_of(path), "s"))
            end = time.monotonic() + 60
            while os.fstat(victim.out.fileno()).st_size < len("done"):
                assert time.monotonic() < end
                time.sleep(0.001)
        backend = stack.enter_context(rnvm.Backend(path, address=address_of(path)))
        with rnvm.connect(address_of(path)) as fe:
            # Its operations are done, and only the running process itself keeps its session.
            assert Sample(fe, "s").add(1) == 2
        for session in range(3):
            with client(backend) as attacker:
                attacker.attach(session, seed | 1)
        end = time.monotonic() + 20
        while backend.figures()["pool"]["attached"] or backend.figures()["pool"]["ending"] > 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert backend.figures()["pool"]["ending"] == 1
        victim.kill()
        while backend.figures()["pool"]["ending"]:
            assert time.monotonic() < end
            time.sleep(0.01)


# Leaves an operation that no other process knows, and one that all know.
FORGER = WRITER.replace("sample.add(1)", "(sample.forge(), sample.add(1))")


def test_an_operation_unknown_to_its_structure_raises_in_no_front_end(seed: int) -> None:
    with new_path("direct") as path, open_backend(path) as backend:
        writer = subprocess.Popen(
            [sys.executable, "-c", FORGER, str(backend.address), "s"], stdout=subprocess.PIPE
        )
        assert writer.stdout
        with writer, writer.stdout:
            assert writer.stdout.read(4) == b"done"
            writer.kill()
        with (
            rnvm.connect(backend.address, timeout=20) as fe,
            rnvm.connect(backend.address, timeout=20) as other,
        ):
            assert Sample(fe, "s").add(1) == 2
            assert (fe.figures["passed_over"], fe.figures["executed_again"]) == (1, 1)
            assert Sample(other, "s").add(1) == 3
            assert (other.figures["passed_over"], other.figures["executed_again"]) == (0, 0)


PUTTER = WRITER.replace("sample.add(1)", "sample.put(3, b'v' * 12_000)")


def test_a_dead_writers_operation_is_not_lost_if_re_executing_it_fails_at_first() -> None:
    with (
        new_path("direct") as path,
        open_backend(path) as backend,
        rnvm.connect(backend.address, timeout=20) as fe,
    ):
        full = HashTable(fe, "full")
        writer = subprocess.Popen(
            [sys.executable, "-c", PUTTER, str(backend.address), "s"], stdout=subprocess.PIPE
        )
        assert writer.stdout
        with writer, writer.stdout:
            assert writer.stdout.read(4) == b"done"
            # While that is alive, no front-end has executed it; from here on it has no room.
            with pytest.raises(OutOfMemory):
                for i in range(100_000):
                    full[b"%d" % i] = b"v" * 4000
            writer.kill()
        sample = Sample(fe, "s")
        for _ in range(3):
            with pytest.raises(OutOfMemory):
                sample.add(1)
        full.clear()
        assert sample.add(1) == 1
        assert sample.get(3) == b"v" * 12_000


def test_a_dropped_structure_affects_only_the_front_ends_that_use_it() -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        with served(path):
            fe = stack.enter_context(rnvm.connect(address_of(path), timeout=20))
            jobs, old, behind = Queue(fe, "jobs"), HashTable(fe, "old"), HashTable(fe, "behind")
            fe.release()
            with rnvm.connect(address_of(path)) as admin:
                admin.drop("old")
        with served(path):
            jobs.put(b"0")
            with pytest.raises(NotFound):
                old[b"k"] = b"v"
            with pytest.raises(NotFound):
                old.get(b"k")
            behind[b"k"] = b"v"
            assert list(jobs) == [b"0"]


# --- Another file in the place of the pool's file


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_front_end_continues_in_a_restored_backup(medium: str, options: str) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        with served(path, 2, address), rnvm.connect(address) as first:
            Queue(first, "q").put(b"in the backup")
        shutil.copy(path, path + ".bak")
        with served(path, 2, address) as backend:
            fe = stack.enter_context(rnvm.connect(address, timeout=20))
            queue = Queue(fe, "q")
            queue.put(b"after it")
            backend.kill()
            os.replace(path + ".bak", path)
        with served(path, 2, address):
            for i in range(3):
                queue.put(b"%d" % i)
            with rnvm.connect(address) as other:
                assert (
                    list(queue) == list(Queue(other, "q")) == [b"in the backup", b"0", b"1", b"2"]
                )


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
def test_a_drop_right_after_a_restart_takes_effect(options: str) -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        with served(path, 2, address) as backend:
            fe = stack.enter_context(rnvm.connect(address, timeout=20))
            Queue(fe, "q").put(b"once")
            backend.kill()
        with served(path, 2, address):
            fe.drop("q")
            assert fe.names() == {}
            with pytest.raises(NotFound):
                fe.drop("q")


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_structure_missing_in_a_backup_is_not_confused_with_another_one_of_its_number(
    medium: str, options: str
) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        with served(path, 2, address), rnvm.connect(address) as first:
            Queue(first, "q").put(b"in the backup")
        shutil.copy(path, path + ".bak")
        with served(path, 2, address) as backend:
            fe = stack.enter_context(rnvm.connect(address, timeout=20))
            queue, mine = Queue(fe, "q"), HashTable(fe, "mine")
            mine[b"k"] = b"v"
            backend.kill()
            os.replace(path + ".bak", path)
        with served(path, 2, address), rnvm.connect(address) as other:
            theirs = HashTable(other, "theirs")
            theirs[b"k"] = b"theirs"
            assert queue.get() == b"in the backup"
            with pytest.raises(NotFound):
                mine[b"k"] = b"mine"
            with pytest.raises(NotFound):
                mine.get(b"k")
            assert dict(theirs.items()) == {b"k": b"theirs"}
            theirs.check()


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_front_end_does_not_continue_in_another_pool(medium: str, options: str) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        with served(path, 2, address):
            fe = stack.enter_context(rnvm.connect(address, timeout=20))
            queue = Queue(fe, "q")
            queue.put(b"mine")
        os.rename(path, path + ".old")
        with served(path, 2, address), rnvm.connect(address) as other:  # a new pool
            theirs = Queue(other, "q")
            for call in (lambda: queue.put(b"1"), lambda: len(queue), fe.names):
                with pytest.raises(HandshakeFailed, match="another pool"):
                    call()
            assert len(theirs) == 0
        os.replace(path + ".old", path)
        with served(path, 2, address):
            queue.put(b"2")
            assert list(queue) == [b"mine", b"2"]


@pytest.mark.parametrize("by", ["removing", "replacing"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_pool_whose_file_was_removed_acknowledges_no_operation(medium: str, by: str) -> None:
    with (
        new_path(medium) as path,
        open_backend(path, medium) as backend,
        connect_hasty(backend.address, 1) as fe,
    ):
        queue = Queue(fe, "q", timeout=20)
        queue.put(b"before", timeout=20)
        if by == "removing":
            os.unlink(path)
        else:
            shutil.copy(path, path + ".bak")
            os.replace(path + ".bak", path)
        end = time.monotonic() + 20
        with pytest.raises(ConnectionFailed):
            while time.monotonic() < end:
                with contextlib.suppress(DeadlineExceeded, Empty):
                    queue.put(b"after")
                    queue.get()  # so that the pool does not become full
        # A put without time for an attempt to connect cannot know the reason.
        raises_in_some_try(lambda: queue.put(b"after"), ConnectionFailed, "removed")
        with pytest.raises(StorageFailed, match="removed"):
            rnvm.connect(backend.address)
        assert backend.failed
        assert backend.removed


@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_pool_that_was_moved_or_linked_is_still_served(medium: str) -> None:
    with (
        new_path(medium) as path,
        open_backend(path, medium) as backend,
        rnvm.connect(backend.address) as fe,
    ):
        queue = Queue(fe, "q")
        os.rename(path, path + ".moved")
        end = time.monotonic() + 0.3  # a few polls of the back-end
        while time.monotonic() < end:
            queue.put(b"v")
            assert queue.get() == b"v"
        assert not backend.failed
        os.rename(path + ".moved", path)


def test_serving_a_pool_whose_file_is_removed_ends_with_an_error() -> None:
    with new_path("direct") as path:
        pools.create(path, "8MiB", assume_persistent=True)
        os.chmod(os.path.dirname(path), 0o700)
        code = "import sys, rnvm.cli; rnvm.cli.main(['serve', sys.argv[1]])"
        server = subprocess.Popen(
            [sys.executable, "-c", code, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stdout
        assert "serving" in server.stdout.readline()
        os.unlink(path)
        out, err = server.communicate(timeout=30)
        assert (server.returncode, "removed" in err) == (3, True), (out, err)


# --- Starting together with the back-end


def test_connecting_waits_for_a_back_end_that_is_starting() -> None:
    with new_path("direct") as path:
        found: list[object] = []

        def connect() -> None:
            with rnvm.connect(address_of(path), timeout=30) as fe:
                found.append(fe.names())

        waiting = threading.Thread(target=connect)
        waiting.start()
        with served(path):
            waiting.join()
        assert found == [{}]
        for timeout, reconnect in ((0.1, True), (5, False)):
            with pytest.raises(ConnectionFailed, match="server"):
                connect_hasty(address_of(path), timeout, reconnect=reconnect)

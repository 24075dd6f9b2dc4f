"""A queue against lists while its front-ends and its back-end die, wait and roll back.

Leases, delays and a dead-letter queue; in batches, transactions and waits; through two front-ends.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from restarting_backend import ForkServer

from rfp.errors import ConnectionFailed, Empty
from structures import HashTable, Queue

from ..machine.restarts import RestartedBackend
from .models import NEVER, Model, QueueModel, Reserved

LONG = 30.0  # seconds of a wait that something ends earlier
SOON = 0.03  # seconds of a lease or a delay that a wait outlives
ACTS = ["put", "many", "later", "get", "reserve", "ack", "nack", "extend", "peek"]
SHARED: list[ForkServer] = []


class RolledBack(Exception):
    pass


class Lives(QueueModel):
    most = 2
    place: RestartedBackend
    table: Any

    @initialize()
    def start(self) -> None:
        self.place = RestartedBackend(SHARED[0])
        self.one, self.two = self.place.connect(False), self.place.connect(False)
        self.open()

    def open(self) -> None:
        options: dict[str, Any] = {"dead_letter": "dead", "max_deliveries": self.most}
        self.queue = Queue(self.one, "q", **options)
        self.other = Queue(self.two, "q", **options)
        self.dead, self.table = self.other.dead_letter, HashTable(self.one, "t")

    # Lives

    @rule()
    def the_front_ends_are_swapped(self) -> None:
        self.one, self.two = self.two, self.one
        self.queue = self.other = self.dead = self.table = None
        self.open()

    @rule()
    def a_front_end_connects_anew(self) -> None:
        self.one.close()
        self.one = self.place.connect(False)
        self.queue = self.table = None
        self.open_again()

    def open_again(self) -> None:
        self.queue = Queue(self.one, "q", dead_letter="dead", max_deliveries=self.most)
        self.table = HashTable(self.one, "t")

    @rule()
    def the_back_end_dies(self) -> None:
        self.place.kill()
        self.place.begin()

    @rule(puts=st.integers(0, 5), takes=st.integers(0, 5), batch=st.booleans())
    def a_front_end_dies(self, puts: int, takes: int, batch: bool) -> None:
        """Its batch counts, its transaction does not."""
        values = [self.value(20) for _ in range(puts)]
        taken = []
        if batch:
            if takes:
                self.begin_taking()
            self.model.waiting += values
            for _ in range(takes):
                self.model.bury()
                if self.model.returned or self.model.waiting:
                    taken.append(self.pop())
        tokens, said = os.pipe()
        if not (pid := os.fork()):
            with contextlib.suppress(BaseException):
                fe = self.place.connect(False)
                queue = Queue(fe, "q", dead_letter="dead", max_deliveries=self.most)
                (fe.batch() if batch else fe.transaction(queue)).__enter__()
                queue.put_many(values)
                for _ in range(takes):
                    with contextlib.suppress(Empty):
                        os.write(said, queue.reserve(lease=NEVER)[0])
                os.write(said, b"!")
                signal.pause()
            os._exit(1)
        found = b""
        while not found.endswith(b"!"):
            found += os.read(tokens, 65536)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(tokens)
        os.close(said)
        if batch:
            size = (len(found) - 1) // max(len(taken), 1)
            for i, value in enumerate(taken):
                self.model.deliveries[value] = self.model.deliveries.get(value, 0) + 1
                token = found[i * size : (i + 1) * size]
                self.model.reserved.append(Reserved(token, value, False))

    # Scopes

    def act(self, data: st.DataObject) -> None:
        """Do one of the rules of the model."""
        act = data.draw(st.sampled_from(ACTS))
        if act in ("ack", "nack", "extend") and not self.model.reserved:
            act = "put"
        if act == "put":
            self.put(data.draw(st.sampled_from([0, 30, 700])))
        elif act == "many":
            self.put_many([5] * 20)
        elif act == "later":
            self.put_with_a_delay(20, data.draw(st.booleans()))
        elif act == "get":
            self.get()
        elif act == "peek":
            # The other handle's front-end would wait for the lock.
            order = self.expected()
            assert self.queue.peek(None) == (order[0] if order else None)
        elif act == "reserve":
            self.reserve(data.draw(st.booleans()))
        elif act == "extend":
            self.extend(data, data.draw(st.booleans()))
        else:
            (self.ack if act == "ack" else self.nack)(data)

    @rule(data=st.data(), acts=st.integers(1, 8), dies=st.sampled_from([False, False, True]))
    def in_a_batch(self, data: st.DataObject, acts: int, dies: bool) -> None:
        with self.one.batch():
            for i in range(acts):
                if dies and i == acts // 2:
                    self.the_back_end_dies()
                self.act(data)

    @rule(
        data=st.data(),
        acts=st.integers(1, 8),
        end=st.sampled_from(["commit", "commit", "roll back", "death"]),
        moves=st.booleans(),
    )
    def in_a_transaction(self, data: st.DataObject, acts: int, end: str, moves: bool) -> None:
        """moves: it is over the dead-letter queue, too; else values are delivered once more."""
        before: Model = copy.deepcopy(self.model)
        named = [self.queue, self.table] + ([self.queue.dead_letter] if moves else [])
        self.model.moves = moves
        done = False
        with contextlib.suppress(RolledBack, ConnectionFailed), self.one.transaction(*named):
            for i in range(acts):
                if end == "death" and i == acts // 2:
                    self.the_back_end_dies()
                self.act(data)
            self.table[b"serial"] = b"%d" % self.serial
            if end == "roll back":
                raise RolledBack
            done = True
        # A death may be found at the end; then the records that were written count, or nothing.
        if done and end == "death":
            done = self.table.get(b"serial") == b"%d" % self.serial
        if not done:
            known = {r.token for r in before.reserved} | set(before.lost)
            now = {r.token for r in self.model.reserved} | set(self.model.lost)
            self.model = before
            self.model.lost += sorted(now - known - {b""})
        assert done or end != "commit"
        self.model.moves = True

    # Waits

    @precondition(lambda self: not self.expected())
    @rule(reserve=st.booleans(), length=st.sampled_from([0, 40, 700]), many=st.booleans())
    def a_call_waits_for_a_value(self, reserve: bool, length: int, many: bool) -> None:
        values = [self.value(length) for _ in range(3 if many else 1)]
        with ThreadPoolExecutor(1) as pool:
            if reserve:
                waiting = pool.submit(self.other.reserve, lease=NEVER, timeout=LONG)
            else:
                waiting = pool.submit(self.other.get, timeout=LONG)
            self.queue.put_many(values)
            found = waiting.result(LONG)
        self.model.waiting += values[1:]
        self.took(found, values[0], reserve)

    def took(self, found: Any, value: bytes, reserve: bool) -> None:
        if not reserve:
            assert found == value
            return
        assert found[1] == value
        self.model.deliveries[value] = self.model.deliveries.get(value, 0) + 1
        self.model.reserved.append(Reserved(found[0], value, False))

    @precondition(lambda self: not self.expected())
    @rule(reserve=st.booleans(), how=st.sampled_from(["delay", "lease", "nack"]))
    def a_call_waits_for_a_value_to_come_back(self, reserve: bool, how: str) -> None:
        value = self.value(40)
        if how == "delay":
            self.queue.put(value, delay=SOON)
        else:
            self.queue.put(value)
            token, _ = self.queue.reserve(lease=SOON if how == "lease" else NEVER)
            self.model.deliveries[value] = 1
            self.model.lost.append(token)
        with ThreadPoolExecutor(1) as pool:
            if reserve:
                waiting = pool.submit(self.other.reserve, lease=NEVER, timeout=LONG)
            else:
                waiting = pool.submit(self.other.get, timeout=LONG)
            if how == "nack":
                self.queue.nack(token)
            found = waiting.result(LONG)
        self.took(found, value, reserve)

    @precondition(lambda self: not self.expected())
    @rule(dies=st.booleans())
    def a_wait_ends_with_its_time(self, dies: bool) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.other.get, None, timeout=0.05)
            if dies:
                self.the_back_end_dies()
            try:
                assert waiting.result(LONG) is None
            except ConnectionFailed:
                assert dies  # no back-end was there at the end of the time

    @precondition(lambda self: self.expected())
    @rule(reserve=st.booleans())
    def a_call_that_may_wait_takes_what_is_there(self, reserve: bool) -> None:
        first = self.begin_taking()
        if first is None:
            assert self.queue.get(None, timeout=0.01) is None
            return
        assert self.pop() == first
        found = (
            self.queue.reserve(lease=NEVER, timeout=LONG)
            if reserve
            else self.queue.get(timeout=LONG)
        )
        self.took(found, first, reserve)

    def teardown(self) -> None:
        try:
            if hasattr(self, "place"):
                super().teardown()
        finally:
            if hasattr(self, "place"):
                for fe in (self.one, self.two):
                    fe.close()
                checked = self.place.end()
                self.place.close()
                assert not checked.findings, checked.findings


@pytest.fixture(autouse=True)
def fork_server() -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        os.chmod(folder, 0o700)
        SHARED.append(ForkServer(Path(folder) / "pool", f"shm://{folder}/socket", lease=0.05))
        try:
            yield
        finally:
            SHARED.pop().close()


pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Lives.TestCase.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
TestLives = Lives.TestCase


class ManyLives(Lives):
    pass


ManyLives.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


TestManyLives = pytest.mark.long(pytest.mark.timeout(1800)(ManyLives.TestCase))

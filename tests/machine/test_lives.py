"""The machine over a back-end that is killed and started again, and over a pool that an operator mends, grows or replaces."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, precondition, rule

from rfp.errors import ConnectionFailed, PoolRefused
from rnvm import pools
from rnvm.check import check

from . import calls
from .calls import Call
from .doubles import Overwrite, WritesAstray
from .lives import Lives, Nursery
from .machine import (
    FAILED,
    OPTIONS,
    Front,
    Handle,
    Machine,
    World,
    Wrong,
    kind_of,
    queues,
    step,
    who,
)
from .running import run

BRIEF = 0.3  # seconds that a call may take: longer than a new back-end needs
SHARED: list[Nursery] = []


def look(path: Path) -> None:
    check.check(path)


def recover(path: Path) -> None:
    pools.open_pool(path).close()


def midway() -> None:
    """A moment within a tool."""


def change(path: Path) -> None:
    with check.changing(path):
        midway()


def touch(path: Path) -> None:
    """As a repair that has something to mend on every page."""
    with check.changing(path) as view:
        for at in range(0, view.length, 1 << 20):
            view.poke(at, view.read(at, min(1 << 20, view.length - at)))
        midway()


def repair(path: Path) -> None:
    check.repair(path)


def grow(path: Path) -> None:
    pools.grow(path, path.stat().st_size + (1 << 20))


TOOLS = [look, recover, change, touch, repair, grow]
STEPS: list[tuple[Any, str]] = [
    (check, "repair_copy"), (check, "repair_nodes"), (check, "check_copy"), (pools, "open_pool"),
    (pools.Claim, "view"), (pools.Claim, "raw"), (pools.Claim, "pool"), (sys.modules[__name__], "midway"),
]  # fmt: skip
"""Of these tools."""


@contextlib.contextmanager
def disturbed(between: Callable[[], None]) -> Iterator[None]:
    """Calls `between` before and after each step of a tool."""

    def disturb(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            between()
            result = function(*arguments, **named)
            between()
            return result

        return run

    with contextlib.ExitStack() as stack:
        for module, name in STEPS:
            stack.enter_context(mock.patch.object(module, name, disturb(getattr(module, name))))
        yield


class LivesMachine(Machine):
    """Front-ends live on whatever becomes of the back-end."""

    lossy = True
    place: Lives

    def __init__(self) -> None:
        super().__init__()
        self.dead = self.operating = False
        self.numb: set[int] = set()
        """Front-ends that wait for a back-end: that takes a while."""
        self.copied: list[World] | None = None
        self.lives_copied: dict[str, int] = {}

    @initialize(options=st.lists(OPTIONS, min_size=2, max_size=3))
    def start(self, options: list[dict[str, Any]]) -> None:
        self.place = Lives(SHARED[0])
        for each in options:
            self.add_front(each, False)

    def add_front(self, options: dict[str, Any], far: bool) -> None:
        if not self.dead:
            super().add_front({"timeout": BRIEF, **options}, far)

    def open(self, front: Front, name: str) -> Handle | None:
        if front.number in self.numb:
            return None
        began = time.monotonic()
        handle = super().open(front, name)
        self.waited(front, began)
        return handle

    def call(self, front: Front, name: str, what: Call) -> Any:
        if front.number in self.numb:
            return FAILED
        began = time.monotonic()
        answer = super().call(front, name, what)
        self.waited(front, began)
        return answer

    def waited(self, front: Front, began: float) -> None:
        if self.dead and time.monotonic() - began > BRIEF / 2:
            self.numb.add(front.number)
            if len(self.numb) == len(self.fronts) and not self.operating:
                self.serve_again()

    def interrupted(self) -> None:
        """The back-end has died: a transaction may fail."""
        for front in self.fronts:
            self.cut(front)

    @precondition(lambda self: not self.dead)
    @rule()
    @step
    def kill(self) -> None:
        self.place.kill()
        self.dead = True
        self.interrupted()

    @precondition(lambda self: not self.dead)
    @rule(copy=st.booleans())
    @step
    def stop(self, copy: bool) -> None:
        self.place.stop()
        self.dead = True
        self.interrupted()
        if copy and len(self.worlds) == 1:
            self.place.back_up()
            self.copied, self.lives_copied = self.worlds, dict(self.lives)

    @precondition(lambda self: self.dead)
    @rule(points=st.sampled_from([0, 0, 1, 3, 10, 30, 100, 300]))
    @step
    def serve(self, points: int) -> None:
        if points:
            self.place.begin_and_revive(points)
            self.interrupted()
        self.serve_again()

    @rule(tool=st.sampled_from(TOOLS), number=who, name=queues)
    @step
    def operate(self, tool: Callable[[Path], None], number: int, name: str) -> None:
        """An operator's tool, while no back-end is there, and a front-end that goes on in the midst of it."""
        front = self.front(number)
        if not self.dead:
            self.call(front, name, calls.put(self.value(3)))
            self.kill()
        self.operating = True
        with (
            contextlib.suppress(PoolRefused),
            disturbed(lambda: self.call(front, name, calls.put(self.value(3))) and None),
        ):
            tool(self.place.path)
        self.operating = False
        self.serve_again()

    @precondition(lambda self: self.copied is not None)
    @rule(number=who, name=queues)
    @step
    def restore(self, number: int, name: str) -> None:
        """An older copy takes the pool's place; what is acknowledged from then on is there."""
        assert self.copied is not None
        front = self.front(number)
        if not self.dead:
            self.call(front, name, calls.put(self.value(3)))
            self.kill()
        self.place.restore()
        # Of these the copy has an earlier one, or none.
        for gone in [
            name for name, life in self.lives.items() if life != self.lives_copied.get(name)
        ]:
            self.lives[gone] += 1
            for each in self.fronts:
                each.handles.pop(gone, None)
        self.worlds, self.behind = self.copied, {}
        for each in self.fronts:
            each.doomed = each.suspect = True
        self.serve_again()
        for _ in range(3):
            self.call(front, name, calls.put(self.value(3)))

    @rule()
    @step
    def replace(self) -> None:
        """A new pool takes the pool's place; no front-end of before goes on in it."""
        if not self.dead:
            self.kill()
        self.place.replace()
        for front in self.fronts:
            front.doomed = True
        self.serve_again()
        for front in self.fronts:
            for name, handle in list(front.handles.items())[:2]:
                with pytest.raises(ConnectionFailed):
                    calls.look(kind_of(name)).run(handle.structure, None)
        self.gone()
        self.worlds, self.copied, self.full, self.clogged = [{}], None, False, False
        for name in self.lives:
            self.lives[name] += 1
        for _ in range(2):
            self.add_front({}, False)

    def serve_again(self) -> None:
        if not self.place.pid:
            self.place.begin()
        self.dead = False
        self.numb = set()

    def look_at_all(self) -> None:
        self.serve_again()
        super().look_at_all()


@pytest.fixture
def nursery() -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        os.chmod(folder, 0o700)
        SHARED.append(Nursery(Path(folder)))
        try:
            yield
        finally:
            SHARED.pop().close()


pytestmark = pytest.mark.usefixtures("nursery")


def replay(machine: LivesMachine, sequence: Callable[[LivesMachine], None]) -> None:
    machine.start(options=[{}, {}])
    try:
        sequence(machine)
    finally:
        machine.teardown()


def operated(machine: LivesMachine) -> None:
    for tool in TOOLS:
        machine.operate(tool=tool, number=0, name="q0")


def restored(machine: LivesMachine) -> None:
    machine.put(0, "q0", 3)
    machine.stop(copy=True)
    machine.serve(points=0)
    machine.put(0, "q0", 3)
    machine.restore(0, "q0")


def replaced(machine: LivesMachine) -> None:
    machine.put(0, "q0", 3)
    machine.replace()


@pytest.mark.parametrize(
    "sequence", [operated, restored, replaced], ids=lambda sequence: sequence.__name__
)
def test_sequences_that_once_lost_something_lose_nothing(
    sequence: Callable[[LivesMachine], None],
) -> None:
    replay(LivesMachine(), sequence)


def test_a_tool_that_overwrites_what_a_front_end_has_written_is_noticed() -> None:
    def overwritten(machine: LivesMachine) -> None:
        machine.put(0, "q0", 3)
        machine.operate(tool=Overwrite(machine.place.path), number=0, name="q0")

    with pytest.raises(Wrong):
        replay(LivesMachine(), overwritten)


def test_calls_that_go_to_a_pool_that_was_replaced_are_noticed() -> None:
    machine = LivesMachine()
    machine.hands = WritesAstray(lambda: machine.place)
    with pytest.raises(Wrong):
        replay(machine, restored)


@pytest.mark.timeout(300)
def test_what_was_acknowledged_is_there_whatever_happens_to_back_ends_and_pools(
    rng: random.Random,
) -> None:
    run(LivesMachine, rng, 25, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_was_acknowledged_is_there_whatever_happens_to_back_ends_and_pools_for_long(
    rng: random.Random,
) -> None:
    run(LivesMachine, rng, 50, 400)

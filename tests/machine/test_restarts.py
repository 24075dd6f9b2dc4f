"""The state machine over a back-end that is killed and restarted.

An operator repairs, grows or replaces the pool.
"""

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
from restarting_backend import ForkServer
from time_bounds import in_some_try

from rfp.errors import ConnectionFailed, PoolRefused
from rnvm import pools
from rnvm.check import check

from . import calls
from .calls import Call
from .doubles import Overwrite, WritesAstray
from .machine import (
    FAILED,
    OPTIONS,
    Front,
    Handle,
    Machine,
    World,
    Wrong,
    kind_of,
    numbers,
    queues,
    step,
)
from .restarts import RestartedBackend
from .running import run

CALL_SECONDS = 0.3  # seconds that a call may take: longer than a new back-end needs
SHARED: list[ForkServer] = []


def check_pool(path: Path) -> None:
    check.check(path)


def recover(path: Path) -> None:
    pools.open_pool(path).close()


def midway() -> None:
    """A moment within a tool, at which the tests call a front-end."""


def change(path: Path) -> None:
    with check.changing(path):
        midway()


def touch(path: Path) -> None:
    """Write every page again, as a repair with a finding on each page."""
    with check.changing(path) as view:
        for at in range(0, view.length, 1 << 20):
            view.poke(at, view.read(at, min(1 << 20, view.length - at)))
        midway()


def repair(path: Path) -> None:
    check.repair(path)


def grow(path: Path) -> None:
    pools.grow(path, path.stat().st_size + (1 << 20))


TOOLS = [check_pool, recover, change, touch, repair, grow]
STEPS: list[tuple[Any, str]] = [
    (check, "repair_copy"),
    (check, "repair_nodes"),
    (check, "check_copy"),
    (pools, "open_pool"),
    (pools.Claim, "view"),
    (pools.Claim, "raw"),
    (pools.Claim, "pool"),
    (sys.modules[__name__], "midway"),
]
"""The steps of these tools."""


@contextlib.contextmanager
def disturbed(between: Callable[[], None]) -> Iterator[None]:
    """Call `between` before and after each step of a tool."""

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


class RestartMachine(Machine):
    """Front-ends continue to work after deaths of the back-end and changes of the pool."""

    lossy = True
    place: RestartedBackend

    def __init__(self) -> None:
        super().__init__()
        self.dead = self.operating = False
        self.waiting: set[int] = set()
        """Numbers of front-ends whose calls wait for a back-end, which takes time."""
        self.copied: list[World] | None = None
        self.incarnations_copied: dict[str, int] = {}

    @initialize(options=st.lists(OPTIONS, min_size=2, max_size=3))
    def start(self, options: list[dict[str, Any]]) -> None:
        self.place = RestartedBackend(SHARED[0])
        for each in options:
            self.add_front(each, False)

    def add_front(self, options: dict[str, Any], remote: bool) -> None:
        if not self.dead:
            super().add_front({"timeout": CALL_SECONDS, **options}, remote)

    def open(self, front: Front, name: str) -> Handle | None:
        if front.number in self.waiting:
            return None
        began = time.monotonic()
        handle = super().open(front, name)
        self.waited(front, began)
        return handle

    def call(self, front: Front, name: str, call: Call) -> Any:
        if front.number in self.waiting:
            return FAILED
        began = time.monotonic()
        answer = super().call(front, name, call)
        self.waited(front, began)
        return answer

    def waited(self, front: Front, began: float) -> None:
        if self.dead and time.monotonic() - began > CALL_SECONDS / 2:
            self.waiting.add(front.number)
            if len(self.waiting) == len(self.fronts) and not self.operating:
                self.serve_again()

    def interrupted(self) -> None:
        """Note that the back-end has died: a transaction may fail."""
        for front in self.fronts:
            self.may_lose_session(front)

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
            self.copied, self.incarnations_copied = self.worlds, dict(self.incarnations)

    @precondition(lambda self: self.dead)
    @rule(points=st.sampled_from([0, 0, 1, 3, 10, 30, 100, 300]))
    @step
    def serve(self, points: int) -> None:
        if points:
            self.place.begin_and_restart(points)
            self.interrupted()
        self.serve_again()

    @rule(tool=st.sampled_from(TOOLS), number=numbers, name=queues)
    @step
    def operate(self, tool: Callable[[Path], None], number: int, name: str) -> None:
        """Run an operator's tool while no back-end runs and a front-end continues in between."""
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
    @rule(number=numbers, name=queues)
    @step
    def restore(self, number: int, name: str) -> None:
        """Replace the pool by an older copy; changes acknowledged from then on must be present."""
        assert self.copied is not None
        front = self.front(number)
        if not self.dead:
            self.call(front, name, calls.put(self.value(3)))
            self.kill()
        self.place.restore()
        # The copy has an earlier structure of these names, or none.
        for changed in [
            name
            for name, incarnation in self.incarnations.items()
            if incarnation != self.incarnations_copied.get(name)
        ]:
            self.incarnations[changed] += 1
            for each in self.fronts:
                each.handles.pop(changed, None)
        self.worlds, self.behind = self.copied, {}
        for each in self.fronts:
            each.doomed = each.suspect = True
        self.serve_again()
        for _ in range(3):
            self.call(front, name, calls.put(self.value(3)))

    @rule()
    @step
    def replace(self) -> None:
        """Replace the pool by a new one; no earlier front-end may continue in it."""
        if not self.dead:
            self.kill()
        self.place.replace()
        for front in self.fronts:
            front.doomed = True
        self.serve_again()
        for front in self.fronts:
            for name, handle in list(front.handles.items())[:2]:
                with pytest.raises(ConnectionFailed):
                    calls.read_all(kind_of(name)).run(handle.structure, None)
        self.close_all()
        self.worlds, self.copied, self.full, self.clogged = [{}], None, False, False
        for name in self.incarnations:
            self.incarnations[name] += 1
        for _ in range(2):
            self.add_front({}, False)

    def serve_again(self) -> None:
        if not self.place.pid:
            self.place.begin()
        self.dead = False
        self.waiting = set()

    def read_everything(self) -> None:
        self.serve_again()
        super().read_everything()


@pytest.fixture
def fork_server() -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        os.chmod(folder, 0o700)
        SHARED.append(ForkServer(Path(folder) / "pool", f"shm://{folder}/socket", lease=0.05))
        try:
            yield
        finally:
            SHARED.pop().close()


pytestmark = pytest.mark.usefixtures("fork_server")


def replay(machine: RestartMachine, sequence: Callable[[RestartMachine], None]) -> None:
    machine.start(options=[{}, {}])
    try:
        sequence(machine)
    finally:
        machine.teardown()


def goes_wrong(machine: RestartMachine, sequence: Callable[[RestartMachine], None]) -> bool:
    try:
        replay(machine, sequence)
    except Wrong:
        return True
    return False


def operated(machine: RestartMachine) -> None:
    for tool in TOOLS:
        machine.operate(tool=tool, number=0, name="q0")


def restored(machine: RestartMachine) -> None:
    machine.put(0, "q0", 3)
    machine.stop(copy=True)
    machine.serve(points=0)
    machine.put(0, "q0", 3)
    machine.restore(0, "q0")


def replaced(machine: RestartMachine) -> None:
    machine.put(0, "q0", 3)
    machine.replace()


@pytest.mark.parametrize(
    "sequence", [operated, restored, replaced], ids=lambda sequence: sequence.__name__
)
def test_a_sequence_that_once_lost_data_loses_none(
    sequence: Callable[[RestartMachine], None],
) -> None:
    replay(RestartMachine(), sequence)


@pytest.mark.planted
def test_the_machine_finds_a_tool_that_overwrites_a_front_ends_changes() -> None:
    def overwritten(machine: RestartMachine) -> None:
        machine.put(0, "q0", 3)
        machine.operate(tool=Overwrite(machine.place.path), number=0, name="q0")

    def find() -> None:
        assert goes_wrong(RestartMachine(), overwritten)

    in_some_try(find)  # a call that takes longer than CALL_SECONDS shows nothing


@pytest.mark.planted
def test_the_machine_finds_calls_to_a_pool_that_was_replaced() -> None:
    def find() -> None:
        machine = RestartMachine()
        machine.driver = WritesAstray(lambda: machine.place)
        assert goes_wrong(machine, restored)

    in_some_try(find)


@pytest.mark.timeout(300)
def test_acknowledged_changes_survive_deaths_of_back_ends_and_tools_on_pools(
    rng: random.Random,
) -> None:
    run(RestartMachine, rng, 25, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_acknowledged_changes_survive_deaths_of_back_ends_and_tools_on_pools_in_long_runs(
    rng: random.Random, run_ends: float
) -> None:
    run(RestartMachine, rng, 50, 400, run_ends)

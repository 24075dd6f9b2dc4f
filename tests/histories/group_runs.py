"""Runs over a group: its members are killed and stopped, front-ends go on at the next primary."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnvm import pools
from rnvm.check import check as pool_check
from rnvm.coordinator.opening import open_coordinator
from rnvm.group import admin
from rnvm.group.state import GroupState, decode

from .checker import Verdict, check
from .group_model import Group
from .history import FOREVER, Step
from .play import Play
from .recorder import lines, steps_of
from .runner import Process, Run, run
from .structure_runs import IDENTIFYING, IDENTIFYING_QUEUE, without_traces

HOUR = 3600.0  # a stopped process is continued by the run itself
SIZES = (20, 20, 400, 1500)

TURNS: dict[str, float] = {"one": 6, "in order": 1, "transaction": 2, "batch": 1, "moment": 1}
ONE: dict[str, float] = {"one": 1}


@dataclass(frozen=True)
class Caller:
    """A front-end of a run, and its turns."""

    far: bool = False
    names: tuple[str, ...] = ("queue", "table", "tree")
    turns: dict[str, float] = field(default_factory=lambda: TURNS)
    mapping: dict[str, float] = field(default_factory=lambda: IDENTIFYING)
    durability: str = "replicated"
    fault: str = ""  # "unchecked" or "twice" (group_roles.py)
    lock: str = "sticky"


@dataclass(frozen=True)
class Situation:
    """The members and front-ends of a run."""

    callers: tuple[Caller, ...] = (Caller(), Caller(far=True))
    names: tuple[str, ...] = ("queue", "table", "tree")
    members: str = "ab"
    keys: int = 3
    pause: float = 0.004  # seconds between two turns of a front-end, on average
    timeout: float = 30.0
    min_mirrors: int = 0


@dataclass
class History:
    """The steps of a run, over these structures."""

    steps: list[Step]
    names: tuple[str, ...]

    def check(self, *names: str) -> Verdict:
        """Search for one order; with names, of the steps that are about these structures alone."""
        if not names:
            return check(self.steps, Group(self.names))
        alone = [
            step for step in self.steps if {call.arguments[0] for call in step.calls} <= {*names}
        ]
        return check(alone, Group(names))


class GroupPlay(Play):
    """One run; the methods that kill and stop members are called in turn by the test."""

    def __init__(self, situation: Situation, group: str, seed: int, running: Run) -> None:
        super().__init__(seed, running, -1)
        self.situation, self.group = situation, group
        self.coordinator = open_coordinator(group)
        self.members: dict[str, Process] = {}
        first = situation.members[0]
        pools.create(self.pool(first), "16MiB", assume_persistent=True)
        admin.create_group(group, self.pool(first), member=first, min_mirrors=situation.min_mirrors)
        for name in situation.members:
            self.start(name)
        self.until_in_sync()
        self.begin(len(situation.callers))
        self.open_gate()

    # Members

    def pool(self, name: str) -> Path:
        return self.running.folder / f"{name}.pool"

    def start(self, name: str) -> None:
        self.members[name] = self.running.start(
            f"{name}{next(self.numbers)}",
            "group member",
            path=str(self.pool(name)),
            group=self.group,
            name=name,
            address=f"shm://{self.running.folder}/{name}",
            record="",
        )

    def state(self) -> GroupState:
        return decode(self.coordinator.read().value, "the group")

    def until_in_sync(self) -> None:
        """Wait until the primary answers and all others are in sync.

        While a member is being elected the state still lists the others.
        """
        wanted = sorted(self.situation.members)
        for _ in range(2):
            self.running.until(
                lambda: sorted(each.member for each in self.state().in_sync) == wanted,
                "all members to be in sync",
            )
            self.until_answered(calls=3)

    @property
    def primary(self) -> str:
        return self.running.until(lambda: self.state().primary, "a primary")

    def mirror(self) -> str:
        return self.running.rng.choice(
            [name for name in self.situation.members if name != self.primary]
        )

    def stop(self, name: str) -> None:
        self.running.stop(self.members[name], HOUR)

    def go_on(self, name: str) -> None:
        process = self.members[name]
        del self.running.stopped[process.pid]
        self.running.signal(process.pid, signal.SIGCONT)

    def until_primary_is_not(self, name: str) -> None:
        self.running.until(
            lambda: self.state().primary not in (None, name), f"another primary than {name}"
        )

    # Front-ends

    def client(self, number: int) -> Process:
        s = self.situation
        caller = s.callers[number]
        name = f"p{number}.{next(self.numbers)}"
        return self.running.start(
            name,
            "group worker",
            group=self.group,
            record="",
            gate=str(self.running.gate_path),
            names=list(caller.names),
            caller=name,
            seed=f"{self.seed} {name}",
            mix={
                "queue": IDENTIFYING_QUEUE,
                "mapping": caller.mapping,
                "ordered": caller.mapping,
                "turns": caller.turns,
                "keys": s.keys,
                "hold": 0.0,
                "reads": 0.2,
                "transaction_over": (1, 2, 3),
                "batch_over": (1,),
            },
            sizes=list(SIZES),
            options={
                "timeout": s.timeout,
                "durability": caller.durability,
                "lock": caller.lock,
            },
            far=caller.far,
            fault=caller.fault,
            pause=s.pause,
        )

    def answers(self, number: int) -> int:
        """Return how many calls of a client have been answered."""
        return sum(line[0] == "a" for line in lines(self.clients[number].record))

    def until_answered(self, *numbers: int, calls: int = 5) -> None:
        """Wait until these clients, or all, have so many answers more."""
        for number in numbers or tuple(self.clients):
            wanted = self.answers(number) + calls
            self.running.until(
                lambda number=number, wanted=wanted: self.answers(number) >= wanted,
                f"answers to client {number}",
            )

    def start_again(self, number: int) -> None:
        """Kill a client; another one in its place finds the present primary."""
        self.kill_client(number)
        self.running.ready(self.clients[number])

    # Disturbances

    def wait_a_moment(self) -> None:
        self.running.wait(self.running.rng.uniform(0.02, 0.3))

    def kill_the_primary(self) -> None:
        self.until_in_sync()
        self.wait_a_moment()
        name = self.primary
        self.running.kill(self.members[name])
        self.until_primary_is_not(name)
        self.until_answered()
        self.start(name)

    def stop_the_primary(self, again: int = 0, *also: int) -> None:
        """Stop the primary until another one answers, and for some calls longer.

        Args:
            again: a client that is killed and started again, so that it calls the next primary.
            also: clients that are waited for.
        """
        self.until_in_sync()
        self.wait_a_moment()
        name = self.primary
        self.stop(name)
        self.until_primary_is_not(name)
        self.start_again(again)
        for number in (again, *also):
            self.until_answered(number, calls=20)
        self.until_answered()  # no front-end waits for it
        self.go_on(name)

    def pause_the_primary(self) -> None:
        """Stop the primary for less or more than its lease."""
        self.until_in_sync()
        name = self.primary
        self.stop(name)
        self.running.wait(self.running.rng.uniform(0.5, 4))
        self.go_on(name)

    def kill_a_mirror(self) -> None:
        self.until_in_sync()
        name = self.mirror()
        self.running.kill(self.members[name])
        self.running.wait(self.running.rng.uniform(0, 1.5))
        self.start(name)

    def stop_a_mirror(self) -> None:
        self.until_in_sync()
        name = self.mirror()
        self.stop(name)
        self.running.wait(self.running.rng.uniform(0.3, 2.5))
        self.go_on(name)

    def kill_a_mirror_then_the_primary(self) -> None:
        """The copy of the mirror is old when it comes back, and must not be opened."""
        self.until_in_sync()
        mirror, primary = self.mirror(), self.primary
        self.running.kill(self.members[mirror])
        self.running.until(
            lambda: mirror not in [each.member for each in self.state().in_sync],
            "the mirror to be removed",
        )
        self.wait_a_moment()
        self.running.kill(self.members[primary])
        self.start(mirror)
        self.running.wait(self.running.rng.uniform(0, 1))
        self.start(primary)

    def kill_all_members(self) -> None:
        self.until_in_sync()
        self.wait_a_moment()
        names = self.running.rng.sample(self.situation.members, len(self.situation.members))
        for name in names:
            self.running.kill(self.members[name])
        self.running.rng.shuffle(names)
        for name in names:
            self.start(name)
            self.running.wait(self.running.rng.uniform(0, 1))

    def kill_a_client(self) -> None:
        self.kill_client(self.running.rng.choice(list(self.clients)))

    def stop_a_client(self) -> None:
        process = self.clients[self.running.rng.choice(list(self.clients))]
        self.running.stop(process, self.running.rng.uniform(0.5, 4))

    # The end

    def finish(self) -> None:
        """End the calls, and read everything."""
        self.until_in_sync()
        self.running.gate.end()
        self.finish_calls()
        s = self.situation
        reader = self.running.start(
            "end",
            "reader",
            address=self.group,
            record="",
            names=list(s.names),
            sizes=list(SIZES),
            keys=s.keys,
            churned=False,
            form={},
        )
        self.running.end(reader)
        primary = self.primary
        for name in sorted(self.members, key=lambda name: name == primary):
            self.running.terminate(self.members[name])
        checked = pool_check.check(self.pool(primary))
        assert checked.sound, checked.findings

    def history(self) -> History:
        steps = [
            step
            for process in self.running.processes
            if process.order["role"] in ("group worker", "reader")
            for step in steps_of(process.name, lines(process.record))
        ]
        read = min(step.begin for step in steps if step.caller == "end")  # it takes every lock
        for step in steps:
            step.owed = read
            if step.note == "batch: " and step.end == FOREVER:
                step.due = 0  # only its end is a promise that its calls are replicated
        return History(without_traces(steps), self.situation.names)

    def close(self) -> None:
        self.coordinator.close()


numbers = itertools.count(1)


@contextlib.contextmanager
def play(situation: Situation, service: Any, seed: int) -> Iterator[GroupPlay]:
    """Begin a run over a new group of this service."""
    group = service.address(f"histories-{time.monotonic_ns()}-{next(numbers)}")
    with (
        run(random.Random(f"{seed} actions"), 0.1) as running,
        contextlib.closing(GroupPlay(situation, group, seed, running)) as playing,
    ):
        yield playing

"""Runs over structures: situations, and the history that each gives."""

from __future__ import annotations

import itertools
import random
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnvm.check import check as pool_check

from .checker import Verdict, check
from .group_model import Group
from .history import FOREVER, UNKNOWN, Step
from .recorder import lines, steps_of
from .runner import Life, Run, run

LEASE = 0.1  # seconds: a front-end that stops for longer is fenced if others wait

# More is taken from a queue than put into it: the longer it is, the longer nobody knows the order of what was put at the same time.
QUEUE = {"put": 3, "get": 3, "reserve": 2, "ack": 1.5, "nack": 1, "peek": 2, "len": 0.5}
MAPPING = {
    "get": 4,
    "set": 4,
    "pop": 2,
    "delete": 1,
    "setdefault": 1,
    "in": 1,
    "popitem": 0.5,
    "len": 0.5,
}
# Where a call may be left without an answer: those that say whose value they saw, so that it shows whether it happened.
TELLING_QUEUE = {"put": 3, "get": 3, "reserve": 2, "ack": 1.5, "nack": 1, "peek": 2}
TELLING = {"get": 4, "set": 4, "pop": 2, "setdefault": 1}


@dataclass(frozen=True)
class Situation:
    """What runs, and what is done to it."""

    names: tuple[str, ...] = ("queue", "table", "tree")
    turns: dict[str, float] = field(
        default_factory=lambda: {"one": 6, "in order": 1, "transaction": 2, "batch": 1}
    )
    options: tuple[dict[str, Any], ...] = ({},)  # of the front-ends, in turn
    over: tuple[int, ...] = (1, 2, 3)  # how many structures a transaction is over
    batch_over: tuple[int, ...] = (1,)
    actions: dict[str, float] = field(default_factory=dict)
    keys: int = 3
    hold: float = 0.0  # how often a batch or transaction is stopped in its midst
    looks: float = 0.2
    sizes: tuple[int, ...] = (20, 20, 400, 1500)
    clients: int = 3
    rtt: tuple[str, ...] = ("",)  # of the front-ends, in turn: "?rtt=2us"
    disk: bool = False
    churn: bool = False
    lease: float = LEASE
    timeout: float = 30.0
    pause: float = LEASE
    queue: dict[str, float] = field(
        default_factory=dict
    )  # how often what is called, instead of the above
    plant: float = 0.0  # how often a worker answers a get of a key with what it saw there last

    @property
    def told(self) -> bool:
        """Whether every call gets an answer."""
        return not self.actions and self.timeout > 5

    def mix(self) -> dict[str, Any]:
        queue, mapping = (
            (dict(QUEUE), dict(MAPPING)) if self.told else (dict(TELLING_QUEUE), dict(TELLING))
        )
        queue = self.queue or queue
        if self.churn:  # others' keys are in the mappings
            mapping = {
                name: weight for name, weight in mapping.items() if name not in ("len", "popitem")
            }
        return {"queue": queue, "mapping": mapping, "turns": self.turns, "keys": self.keys, "hold": self.hold, "looks": self.looks, "plant": self.plant,
                "transaction_over": self.over, "batch_over": self.batch_over}  # fmt: skip


@dataclass
class History:
    steps: list[Step]
    names: tuple[str, ...]

    def judge(self) -> Verdict:
        return check(self.steps, Group(self.names))


def play(situation: Situation, seed: int, *, turns: int, actions: int = 0) -> History:
    """One run.  turns: of each process, where nothing is done to them; else they go on until so many actions were done."""
    with (
        tempfile.TemporaryDirectory() as disk,
        run(random.Random(f"{seed} actions"), situation.pause) as running,
    ):
        path = Path(disk if situation.disk else running.folder) / "pool"
        played = _Play(situation, seed, running, path, turns=-1 if actions else turns)
        played.act(actions)
        played.finish()
        steps = played.steps()
        checked = pool_check.check(path)
        assert checked.sound, checked.findings
        return History(steps, situation.names)


class _Play:
    def __init__(
        self, situation: Situation, seed: int, running: Run, path: Path, turns: int
    ) -> None:
        self.situation, self.seed, self.running, self.path, self.turns = (
            situation,
            seed,
            running,
            path,
            turns,
        )
        self.address = f"shm://{running.folder}/s"
        self.numbers = itertools.count(1)
        self.clients: dict[int, Life] = {}
        self.begin()

    def begin(self) -> None:
        s, running = self.situation, self.running
        self.backend = self.serve()
        for number in range(s.clients):
            self.clients[number] = self.client(number)
        self.churner = [running.start("beside", "churner", address=self.address, gate=str(running.gate_path),
                                      names=[name for name in s.names if not name.startswith("queue")], seed=f"{self.seed} beside",
                                      options={"timeout": s.timeout})] if s.churn else []  # fmt: skip
        running.ready(*self.clients.values())
        running.gate.open()

    def serve(self) -> Life:
        backend = self.running.start(f"backend{next(self.numbers)}", "backend", path=str(self.path), address=self.address, record="",
                                     size="16MiB", lease=self.situation.lease)  # fmt: skip
        self.running.ready(backend)
        return backend

    def client(self, number: int) -> Life:
        s = self.situation
        who = f"p{number}.{next(self.numbers)}"
        return self.running.start(
            who, "worker", address=self.address + s.rtt[number % len(s.rtt)], record="", gate=str(self.running.gate_path),
            names=list(s.names), who=who, seed=f"{self.seed} {who}", calls=self.turns, mix=s.mix(), sizes=list(s.sizes),
            options={"timeout": s.timeout, **s.options[number % len(s.options)]},
        )  # fmt: skip

    def act(self, actions: int) -> None:
        running, s = self.running, self.situation
        weights = {"wait": 1.0} if not s.actions else s.actions
        for _ in range(actions):
            what = running.rng.choices(list(weights), list(weights.values()))[0]
            number = running.rng.choice(list(self.clients))
            running.wait(running.rng.uniform(0.02, 0.12))
            if what == "kill":
                running.kill(self.clients[number])
                self.clients[number] = self.client(number)
            elif what == "kill all":
                for life in self.clients.values():
                    running.signal(life.pid, signal.SIGSTOP)
                for each, life in list(self.clients.items()):
                    running.kill(life)
                    self.clients[each] = self.client(each)
            elif what == "stop":
                running.stop(self.clients[number], running.rng.uniform(0.3, 2.5) * s.lease)
            elif what == "stop backend":
                running.stop(self.backend, running.rng.uniform(0.02, 0.5))
            elif what == "kill backend":
                running.kill(self.backend)
                self.backend = self.serve()
        if actions:
            running.gate.end()

    def finish(self) -> None:
        running = self.running
        running.end(*self.clients.values())
        running.gate.end()
        running.end(*self.churner)
        s = self.situation
        reader = running.start("end", "reader", address=self.address, record="", names=list(s.names), sizes=list(s.sizes),
                               keys=s.keys, churned=s.churn)  # fmt: skip
        running.end(reader)
        running.terminate(self.backend)

    def steps(self) -> list[Step]:
        lives = [life for life in self.running.lives if life.order["role"] in ("worker", "reader")]
        steps = [step for life in lives for step in steps_of(life.who, lines(life.record))]
        read = min(step.begin for step in steps if step.who == "end")  # it takes every lock
        for step in steps:
            step.owed = read
        return without_traces(steps)


def without_traces(steps: list[Step]) -> list[Step]:
    """Without what was unanswered and put a value that nobody ever saw: whether it happened makes no difference.

    True as long as no call says how many there are, or that there is one without saying which.
    """
    if any(
        call.name in ("len", "in", "delete") and call.end != FOREVER
        for step in steps
        for call in step.calls
        if step.who != "end"
    ):
        return steps
    seen: set[Any] = set()
    for step in steps:
        for call in step.calls:
            if call.answer != UNKNOWN:
                seen.update(call.answer if isinstance(call.answer, tuple) else (call.answer,))
    return [step for step in steps if step.end != FOREVER or step.due or len(step.calls) > 1
            or step.calls[0].name not in ("put", "set", "setdefault") or step.calls[0].arguments[-1] in seen]  # fmt: skip

"""Runs over structures: situations, and the history of each."""

from __future__ import annotations

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
from .play import Play
from .recorder import lines, steps_of
from .runner import Process, Run, run
from .structure_roles import is_mapping

LEASE_SECONDS = 0.1  # a front-end that stops for longer is fenced if others wait

# More values are taken from a queue than put into it: the longer the queue, the longer the order of
# concurrent puts is open.
QUEUE = {
    "put": 3,
    "get": 3,
    "reserve": 2,
    "ack": 1.5,
    "nack": 1,
    "extend": 0.5,
    "peek": 2,
    "len": 0.5,
}
STACK = {"push": 3, "take": 3.5, "peek": 2, "len": 0.5}
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
# If a call may be left without an answer, the calls are those whose answers identify a value: they
# show whether the unanswered call happened.
IDENTIFYING_QUEUE = {"put": 3, "get": 3, "reserve": 2, "ack": 1.5, "nack": 1, "peek": 2}
IDENTIFYING_STACK = {"push": 3, "take": 3.5, "peek": 2}
IDENTIFYING = {"get": 4, "set": 4, "pop": 2, "setdefault": 1}
ENDS = {"popfirst": 0.4, "poplast": 0.4}  # of ordered mappings, in place of popitem


@dataclass(frozen=True)
class Situation:
    """The processes of a run, and the disturbances."""

    names: tuple[str, ...] = ("queue", "table", "tree")
    turns: dict[str, float] = field(
        default_factory=lambda: {
            "one": 6,
            "in order": 1,
            "transaction": 2,
            "batch": 1,
            "moment": 1.5,
        }
    )
    options: tuple[dict[str, Any], ...] = ({},)  # of the front-ends, in turn
    over: tuple[int, ...] = (1, 2, 3)  # numbers of structures of a transaction
    batch_over: tuple[int, ...] = (1,)
    actions: dict[str, float] = field(default_factory=dict)
    keys: int = 3
    hold: float = 0.0  # share of batches and transactions that are stopped in the middle
    reads: float = 0.2  # share of batches and transactions that only read or pop
    sizes: tuple[int, ...] = (20, 20, 400, 1500)
    clients: int = 3
    rtt: tuple[str, ...] = ("",)  # of the front-ends, in turn: "?rtt=2us"
    disk: bool = False
    churn: bool = False
    lease: float = LEASE_SECONDS
    timeout: float = 30.0
    pause: float = LEASE_SECONDS
    queue: dict[str, float] = field(default_factory=dict)  # weights of calls, instead of the above
    plant: float = 0.0  # share of gets of a key that a worker answers with its previous answer
    torn: float = 0.0  # share of read transactions that are only queries, one after the other
    newer: float = 0.0  # share of snapshots that read the structures themselves
    loose: float = 0.0  # share of transactions whose calls are alone
    lost: float = 0.0  # share of puts and sets that are not done
    ends: float = 0.0  # share of pops of the last item that pop the first one
    partitions: int | None = None  # of each mapping
    codec: bool = False  # whether the structures have one
    threads: int = 1  # of each process, which share its front-end
    dead: tuple[tuple[str, str], ...] = ()  # queues and their dead-letter queues
    deliveries: int = 2
    undead: int = -1  # number of a process that delivers values more often

    @property
    def all_answered(self) -> bool:
        """Whether every call gets an answer."""
        return not self.actions and self.timeout > 5

    def mix(self) -> dict[str, Any]:
        queue, mapping = (
            (dict(QUEUE), dict(MAPPING))
            if self.all_answered
            else (dict(IDENTIFYING_QUEUE), dict(IDENTIFYING))
        )
        # The churner's keys are in the mappings, too; partitions are counted one by one.
        counted = not self.churn and self.partitions is None
        ordered = {**mapping, **ENDS} if counted else dict(mapping)
        ordered.pop("popitem", None)
        if not counted:
            mapping = {
                name: weight for name, weight in mapping.items() if name not in ("len", "popitem")
            }
            ordered = mapping
        turns = dict(self.turns)
        if self.partitions is not None:
            # Each partition has a lock of its own: a batch over them is no step that is known here.
            turns.pop("batch", None)
        return {
            "queue": self.queue or queue,
            "stack": STACK if self.all_answered else IDENTIFYING_STACK,
            "mapping": mapping,
            "ordered": ordered,
            "churn": self.churn,
            "turns": turns,
            "keys": self.keys,
            "hold": self.hold,
            "reads": self.reads,
            "plant": self.plant,
            "torn": self.torn,
            "newer": self.newer,
            "loose": self.loose,
            "lost": self.lost,
            "ends": self.ends,
            "transaction_over": self.over,
            "batch_over": self.batch_over,
        }

    def form(self, number: int = -1) -> dict[str, Any]:
        """Return how process `number` opens the structures."""
        return {
            "partitions": self.partitions,
            "codec": self.codec,
            "dead": dict(self.dead),
            "deliveries": 1000 if number == self.undead != -1 else self.deliveries,
        }


@dataclass
class History:
    steps: list[Step]
    situation: Situation

    def check(self) -> Verdict:
        s = self.situation
        return check(self.steps, Group(s.names, dict(s.dead), s.deliveries))


def play(situation: Situation, seed: int, *, turns: int, actions: int = 0) -> History:
    """Play one run and return its history.

    Args:
        turns: of each process, if there are no actions.
        actions: number of disturbances; the processes call until all of them were done.
    """
    with (
        tempfile.TemporaryDirectory() as disk,
        run(random.Random(f"{seed} actions"), situation.pause) as running,
    ):
        path = Path(disk if situation.disk else running.folder) / "pool"
        played = _Play(situation, seed, running, path, turns=-1 if actions else turns)
        played.act(situation.actions, actions)
        played.finish()
        steps = played.steps()
        checked = pool_check.check(path)
        assert checked.sound, checked.findings
        return History(steps, situation)


class _Play(Play):
    WAITS_SECONDS = (0.02, 0.12)

    def __init__(
        self, situation: Situation, seed: int, running: Run, path: Path, turns: int
    ) -> None:
        super().__init__(seed, running, turns)
        self.situation, self.path = situation, path
        self.backend = self.serve()
        self.begin(situation.clients)
        if situation.churn:
            self.background.append(self.churner())
        self.open_gate()

    def serve(self) -> Process:
        backend = self.running.start(
            f"backend{next(self.numbers)}",
            "backend",
            path=str(self.path),
            address=self.address,
            record="",
            size="16MiB",
            lease=self.situation.lease,
        )
        self.running.ready(backend)
        return backend

    def churner(self) -> Process:
        s = self.situation
        return self.running.start(
            "beside",
            "churner",
            address=self.address,
            gate=str(self.running.gate_path),
            names=[name for name in s.names if is_mapping(name)],
            seed=f"{self.seed} beside",
            options={"timeout": s.timeout},
            form=s.form(),
        )

    def client(self, number: int) -> Process:
        s = self.situation
        name = f"p{number}.{next(self.numbers)}"
        return self.running.start(
            name,
            "worker",
            address=self.address + s.rtt[number % len(s.rtt)],
            record="",
            gate=str(self.running.gate_path),
            names=list(s.names),
            caller=name,
            seed=f"{self.seed} {name}",
            calls=self.calls,
            mix=s.mix(),
            sizes=list(s.sizes),
            options={"timeout": s.timeout, **s.options[number % len(s.options)]},
            form=s.form(number),
            threads=s.threads,
        )

    def disturb(self, action: str, number: int) -> None:
        running = self.running
        if action == "kill":
            self.kill_client(number)
        elif action == "kill all":
            for process in self.clients.values():
                running.signal(process.pid, signal.SIGSTOP)
            for each in list(self.clients):
                self.kill_client(each)
        elif action == "stop":
            running.stop(self.clients[number], running.rng.uniform(0.3, 2.5) * self.situation.lease)
        elif action == "stop backend":
            running.stop(self.backend, running.rng.uniform(0.02, 0.5))
        elif action == "kill backend":
            running.kill(self.backend)
            self.backend = self.serve()

    def finish(self) -> None:
        self.finish_calls()
        s = self.situation
        reader = self.running.start(
            "end",
            "reader",
            address=self.address,
            record="",
            names=list(s.names),
            sizes=list(s.sizes),
            keys=s.keys,
            churned=s.churn,
            form=s.form(),
        )
        self.running.end(reader)
        self.running.terminate(self.backend)

    def steps(self) -> list[Step]:
        steps = [
            step
            for process in self.running.processes
            if process.order["role"] in ("worker", "reader")
            for record in process.records()
            for step in steps_of(record.name.replace(".record", ""), lines(record))
        ]
        read = min(step.begin for step in steps if step.caller == "end")  # it takes every lock
        for step in steps:
            step.owed = read
        return without_traces(steps)


def without_traces(steps: list[Step]) -> list[Step]:
    """Drop the unanswered puts and sets whose value no call saw: their effect makes no difference.

    This holds as long as no call returns a number of values, or that a key exists without its
    value.
    """
    if any(
        call.name in ("len", "in", "delete") and call.end != FOREVER
        for step in steps
        for call in step.calls
        if step.caller != "end"
    ):
        return steps
    seen: set[Any] = set()
    for step in steps:
        for call in step.calls:
            if call.answer != UNKNOWN:
                seen.update(call.answer if isinstance(call.answer, tuple) else (call.answer,))
    return [
        step
        for step in steps
        if step.end != FOREVER
        or step.due
        or len(step.calls) > 1
        or step.calls[0].name not in ("put", "later", "set", "setdefault")
        or step.calls[0].arguments[-1] in seen
    ]

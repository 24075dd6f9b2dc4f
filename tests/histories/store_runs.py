"""Runs over a store: situations, and the history that each gives."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .checker import Verdict, check
from .history import Call, Step
from .key_model import Key
from .recorder import lines, steps_of
from .runner import Life, Run, run

CALLS = {"get": 4, "item": 2, "get_into": 1, "exists": 1, "put": 4, "put_if_absent": 1, "put_if_version": 2, "delete": 1.5, "incr": 1,
         "touch": 0.5, "get_many": 1, "put_many": 1, "delete_many": 0.5}  # fmt: skip
COUNTERS = {"get": 2, "item": 1, "incr": 5, "put": 1, "delete": 0.5, "get_many": 0.5}
BESIDE = (10, 60, 300)


@dataclass(frozen=True)
class Situation:
    """What runs, and what is done to it."""

    modes: tuple[str, ...] = ("auto",)  # of the clients, in turn
    server: dict[str, Any] = field(default_factory=lambda: {"memory": "16MiB"})
    calls: dict[str, float] = field(default_factory=lambda: CALLS)
    sizes: tuple[int, ...] = (10, 40, 1000)
    ttl: tuple[float | None, ...] = (None,)
    numbers: float = 0.1  # how often what is put is a number
    keys: int = 3
    clients: int = 3
    threads: int = 1
    address: str = ""  # "?rtt=2us"
    timeout: float = 30.0
    actions: dict[str, float] = field(default_factory=dict)
    pause: float = 0.1  # seconds, at most about, that a client is stopped
    beside: int = 0  # others' keys; with `deletes` they go again
    deletes: bool = False
    plant: float = 0.0  # how often a client answers a get with what it saw there last

    @property
    def evicts(self) -> bool:
        return bool(self.beside) and self.server.get("eviction", "clock") != "none"

    def mix(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "keys": self.keys,
            "ttl": list(self.ttl),
            "numbers": self.numbers,
            "plant": self.plant,
        }


@dataclass
class History:
    """The steps of each key, and whether the server may have taken a value away."""

    keys: dict[str, list[Step]]
    evicts: bool
    one_worker: bool

    def judge(self) -> list[Verdict]:
        """A verdict for each key (linearizability is local), and one for the order of the versions of all."""
        verdicts = [check(steps, Key(evicts=self.evicts)) for steps in self.keys.values()]
        if self.one_worker:
            verdicts.append(
                versions(step.calls[0] for steps in self.keys.values() for step in steps)
            )
        return verdicts


def versions(calls: Iterable[Call]) -> Verdict:
    """Whether no version was given twice, and none that is lower than one that was known before its put began."""
    puts = [
        (call.begin, call.end, call.answer)
        for call in calls
        if call.name.startswith("put") and isinstance(call.answer, int)
    ]
    by_end = sorted(puts, key=lambda put: put[1])
    highest, at = 0, 0
    given: set[int] = set()
    for begin, end, version in sorted(puts):
        while at < len(by_end) and by_end[at][1] < begin:
            highest = max(highest, by_end[at][2])
            at += 1
        if version in given:
            return Verdict(False, told=f"version {version} was given twice")
        if version < highest:
            return Verdict(
                False,
                told=f"version {version} was given after {highest} was known ({begin} .. {end})",
            )
        given.add(version)
    return Verdict(True, steps=len(puts))


def play(situation: Situation, seed: int, *, turns: int, actions: int = 0) -> History:
    """One run.  turns: of each thread, where nothing is done to them; else they go on until so many actions were done."""
    with run(random.Random(f"{seed} actions"), situation.pause) as running:
        played = _Play(situation, seed, running, -1 if actions else turns)
        played.act(actions)
        played.finish()
        return played.history()


class _Play:
    def __init__(self, situation: Situation, seed: int, running: Run, turns: int) -> None:
        self.situation, self.seed, self.running, self.turns = situation, seed, running, turns
        self.address = f"shm://{running.folder}/s"
        self.numbers = itertools.count(1)
        self.resets: list[tuple[int, int]] = []
        self.server = self.serve()
        self.clients = {number: self.client(number) for number in range(situation.clients)}
        self.beside = [running.start("beside", "filler", address=self.address, gate=str(running.gate_path), seed=f"{seed} beside",
                                     keys=situation.beside, sizes=list(BESIDE if max(situation.sizes) < 4000 else situation.sizes),
                                     deletes=situation.deletes)] if situation.beside else []  # fmt: skip
        running.ready(*self.clients.values())
        running.gate.open()

    def serve(self) -> Life:
        server = self.running.start(f"server{next(self.numbers)}", "server", address=self.address, record="",
                                    options={"allow_bypass": True, **self.situation.server})  # fmt: skip
        self.running.ready(server)
        return server

    def client(self, number: int) -> Life:
        s = self.situation
        who = f"p{number}.{next(self.numbers)}"
        return self.running.start(
            who, "client", address=self.address + s.address, record="", gate=str(self.running.gate_path), who=who,
            seed=f"{self.seed} {who}", calls=self.turns, mix=s.mix(), sizes=list(s.sizes), threads=s.threads,
            options={"timeout": s.timeout, "mode": s.modes[number % len(s.modes)]},
        )  # fmt: skip

    def act(self, actions: int) -> None:
        running, s = self.running, self.situation
        weights = s.actions or {"wait": 1.0}
        for _ in range(actions):
            what = running.rng.choices(list(weights), list(weights.values()))[0]
            number = running.rng.choice(list(self.clients))
            running.wait(running.rng.uniform(0.01, 0.08))
            if what == "kill":
                running.kill(self.clients[number])
                self.clients[number] = self.client(number)
            elif what == "stop":
                running.stop(self.clients[number], running.rng.uniform(0.1, 1) * s.pause)
            elif what == "stop server":
                running.stop(self.server, running.rng.uniform(0.02, 0.3))
            elif what in ("kill server", "stop, then kill server"):
                if what != "kill server":
                    running.signal(self.server.pid, signal.SIGSTOP)
                    running.wait(running.rng.uniform(0.02, 0.1))
                running.kill(self.server)
                killed, self.server = self.server, self.serve()
                self.resets.append((killed.killed, self.server.ready_at))
        if actions:
            running.gate.end()

    def finish(self) -> None:
        running = self.running
        running.end(*self.clients.values())
        running.gate.end()
        running.end(*self.beside)
        running.terminate(self.server)

    def history(self) -> History:
        keys: dict[str, list[Step]] = {}
        for life in self.running.lives:
            if life.order["role"] == "client":
                for thread in range(self.situation.threads):
                    who = f"{life.who}.{thread}"
                    for step in steps_of(
                        who, lines(life.record.with_name(f"{life.record.name}.{thread}"))
                    ):
                        keys.setdefault(step.calls[0].arguments[0], []).append(step)
        for steps in keys.values():
            steps += [
                Step("server", [Call("reset", (), None, *reset)], *reset) for reset in self.resets
            ]
        return History(keys, self.situation.evicts, self.situation.server.get("workers", 1) == 1)

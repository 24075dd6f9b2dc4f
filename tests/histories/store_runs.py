"""Runs over a store: situations, and the history of each."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .checker import Verdict, check
from .history import Call, Step
from .key_model import Key
from .play import Play
from .recorder import lines, steps_of
from .runner import Process, Run, run

CALLS = {
    "get": 4,
    "item": 2,
    "get_into": 1,
    "exists": 1,
    "put": 4,
    "put_if_absent": 1,
    "put_if_version": 2,
    "delete": 1.5,
    "incr": 1,
    "touch": 0.5,
    "get_many": 1,
    "put_many": 1,
    "delete_many": 0.5,
}
COUNTERS = {"get": 2, "item": 1, "incr": 5, "put": 1, "delete": 0.5, "get_many": 0.5}
FILLER_SIZES = (10, 60, 300)


@dataclass(frozen=True)
class Situation:
    """The processes of a run, and the disturbances."""

    modes: tuple[str, ...] = ("auto",)  # of the clients, in turn
    server: dict[str, Any] = field(default_factory=lambda: {"memory": "16MiB"})
    calls: dict[str, float] = field(default_factory=lambda: CALLS)
    sizes: tuple[int, ...] = (10, 40, 1000)
    ttl: tuple[float | None, ...] = (None,)
    numbers: float = 0.1  # share of puts whose value is a number
    keys: int = 3
    clients: int = 3
    threads: int = 1
    address: str = ""  # "?rtt=2us"
    timeout: float = 30.0
    actions: dict[str, float] = field(default_factory=dict)
    pause: float = 0.1  # seconds for which a client is stopped, at most about
    beside: int = 0  # number of other keys; with `deletes` they are deleted again
    deletes: bool = False
    plant: float = 0.0  # share of gets that a client answers with the key's previous answer

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
    """The steps of each key, and whether the server may have evicted a value."""

    keys: dict[str, list[Step]]
    evicts: bool
    one_worker: bool

    def check(self) -> list[Verdict]:
        """Return a verdict for each key, and one for the order of the versions of all keys.

        Linearizability is local: a history is linearizable if that of each key is.
        """
        verdicts = [check(steps, Key(evicts=self.evicts)) for steps in self.keys.values()]
        if self.one_worker:
            verdicts.append(
                versions(step.calls[0] for steps in self.keys.values() for step in steps)
            )
        return verdicts


def versions(calls: Iterable[Call]) -> Verdict:
    """Check that no version was assigned twice, or below one known before its put began."""
    puts = [
        (call.begin, call.end, call.answer)
        for call in calls
        if call.name.startswith("put") and isinstance(call.answer, int)
    ]
    by_end = sorted(puts, key=lambda put: put[1])
    highest, at = 0, 0
    assigned: set[int] = set()
    for begin, end, version in sorted(puts):
        while at < len(by_end) and by_end[at][1] < begin:
            highest = max(highest, by_end[at][2])
            at += 1
        if version in assigned:
            return Verdict(False, reason=f"version {version} was assigned twice")
        if version < highest:
            return Verdict(
                False,
                reason=f"version {version} was assigned after {highest} was known "
                f"({begin} .. {end})",
            )
        assigned.add(version)
    return Verdict(True, steps=len(puts))


def play(situation: Situation, seed: int, *, turns: int, actions: int = 0) -> History:
    """Play one run and return its history.

    Args:
        turns: of each thread, if there are no actions.
        actions: number of disturbances; the threads call until all of them were done.
    """
    with run(random.Random(f"{seed} actions"), situation.pause) as running:
        played = _Play(situation, seed, running, -1 if actions else turns)
        played.act(situation.actions, actions)
        played.finish()
        return played.history()


class _Play(Play):
    WAITS_SECONDS = (0.01, 0.08)

    def __init__(self, situation: Situation, seed: int, running: Run, turns: int) -> None:
        super().__init__(seed, running, turns)
        self.situation = situation
        self.resets: list[tuple[int, int]] = []
        self.server = self.serve()
        self.begin(situation.clients)
        if situation.beside:
            self.background.append(self.filler())
        self.open_gate()

    def serve(self) -> Process:
        server = self.running.start(
            f"server{next(self.numbers)}",
            "server",
            address=self.address,
            record="",
            options=dict(self.situation.server),
        )
        self.running.ready(server)
        return server

    def filler(self) -> Process:
        s = self.situation
        return self.running.start(
            "beside",
            "filler",
            address=self.address,
            gate=str(self.running.gate_path),
            seed=f"{self.seed} beside",
            keys=s.beside,
            sizes=list(FILLER_SIZES if max(s.sizes) < 4000 else s.sizes),
            deletes=s.deletes,
        )

    def client(self, number: int) -> Process:
        s = self.situation
        name = f"p{number}.{next(self.numbers)}"
        return self.running.start(
            name,
            "client",
            address=self.address + s.address,
            record="",
            gate=str(self.running.gate_path),
            caller=name,
            seed=f"{self.seed} {name}",
            calls=self.calls,
            mix=s.mix(),
            sizes=list(s.sizes),
            threads=s.threads,
            options={"timeout": s.timeout, "mode": s.modes[number % len(s.modes)]},
        )

    def disturb(self, action: str, number: int) -> None:
        running = self.running
        if action == "kill":
            self.kill_client(number)
        elif action == "stop":
            running.stop(self.clients[number], running.rng.uniform(0.1, 1) * self.situation.pause)
        elif action == "stop server":
            running.stop(self.server, running.rng.uniform(0.02, 0.3))
        elif action in ("kill server", "stop, then kill server"):
            if action != "kill server":
                running.signal(self.server.pid, signal.SIGSTOP)
                running.wait(running.rng.uniform(0.02, 0.1))
            running.kill(self.server)
            killed, self.server = self.server, self.serve()
            self.resets.append((killed.killed, self.server.ready_at))

    def finish(self) -> None:
        self.finish_calls()
        self.running.terminate(self.server)

    def history(self) -> History:
        keys: dict[str, list[Step]] = {}
        for process in self.running.processes:
            if process.order["role"] == "client":
                for thread in range(self.situation.threads):
                    record = process.record.with_name(f"{process.record.name}.{thread}")
                    for step in steps_of(f"{process.name}.{thread}", lines(record)):
                        keys.setdefault(step.calls[0].arguments[0], []).append(step)
        for steps in keys.values():
            steps += [
                Step("server", [Call("reset", (), None, *reset)], *reset) for reset in self.resets
            ]
        return History(keys, self.situation.evicts, self.situation.server.get("workers", 1) == 1)

"""Starts servers and clients, kills, stops and continues them, and gathers what they recorded."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .gate import SECONDS, Gate
from .recorder import lines


class Failed(Exception):
    """A process of the run ended as it should not have."""


class Life:
    """One process, from its start to its end."""

    def __init__(self, who: str, order: dict[str, Any], folder: Path) -> None:
        self.who, self.order = who, order
        self.record = folder / f"{who}.record"
        self.pid = 0
        self.status: int | None = None
        self.killed = 0  # when, ns; 0: not
        self.ready_at = 0

    def ready(self) -> bool:
        if not self.ready_at:
            self.ready_at = next((line[1] for line in lines(self.record) if line[0] == "r"), 0)
        return bool(self.ready_at)


class Run:
    """The processes of one run.  A process that stops itself goes on after a pause that is drawn here."""

    def __init__(self, folder: Path, rng: random.Random, pause: float) -> None:
        self.folder, self.rng, self.pause = folder, rng, pause
        self.gate_path = folder / "gate"
        self.gate = Gate(self.gate_path)
        self.lives: list[Life] = []
        self.stopped: dict[int, float] = {}  # pid -> when it goes on
        self.expected: set[int] = set()  # stopped by us, and when to go on is known
        self.data = b""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])]),
        }
        self.nursery = subprocess.Popen([sys.executable, "-m", "tests.histories.nursery"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=environment, cwd=folder)  # fmt: skip
        self.starting: list[Life] = []

    def start(self, who: str, role: str, /, **order: Any) -> Life:
        life = Life(who, {"role": role, **order}, self.folder)
        if "record" in order:
            life.order["record"] = str(life.record)
        self.lives.append(life)
        self.starting.append(life)
        assert self.nursery.stdin is not None
        self.nursery.stdin.write(json.dumps(life.order).encode() + b"\n")
        self.nursery.stdin.flush()
        self.until(lambda: life.pid, f"{who} to be started")
        return life

    def step(self, seconds: float = 0.002) -> None:
        """Takes what the nursery says, and lets go on whoever has been stopped for long enough."""
        assert self.nursery.stdout is not None
        if select.select([self.nursery.stdout], [], [], seconds)[0]:
            more = os.read(self.nursery.stdout.fileno(), 1 << 16)
            if not more:
                raise Failed("the nursery has ended")
            *said, self.data = (self.data + more).split(b"\n")
            for line in said:
                self.hear(json.loads(line))
        now = time.monotonic()
        for pid in [pid for pid, when in self.stopped.items() if when <= now]:
            del self.stopped[pid]
            self.signal(pid, signal.SIGCONT)

    def hear(self, what: dict[str, int]) -> None:
        if "started" in what:
            self.starting.pop(0).pid = what["started"]
        elif "stopped" in what:
            pid = what["stopped"]
            if pid not in self.stopped:
                self.stopped[pid] = time.monotonic() + self.rng.uniform(0.3, 2.5) * self.pause
        else:
            life = next(life for life in self.lives if life.pid == what["ended"])
            life.status = what["status"]
            self.stopped.pop(life.pid, None)
            if life.status != (-signal.SIGKILL if life.killed else 0):
                raise Failed(f"{life.who} ended with {life.status}")

    def signal(self, pid: int, number: int) -> None:
        if any(life.pid == pid and life.status is None for life in self.lives):
            os.kill(
                pid, number
            )  # the nursery has not said that it is gone; until it reaps it, nobody else has its number

    def until(self, fact: Any, what: str) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (found := fact()):
            if time.monotonic() > deadline:
                raise Failed(f"waited for {what} for {SECONDS} s")
            self.step()
        return found

    def ready(self, *lives: Life) -> None:
        for life in lives:
            self.until(life.ready, f"{life.who} to be ready")

    def kill(self, life: Life) -> None:
        life.killed = time.monotonic_ns()
        self.signal(life.pid, signal.SIGKILL)
        self.until(lambda: life.status is not None, f"{life.who} to be gone")

    def stop(self, life: Life, seconds: float) -> None:
        self.stopped[life.pid] = time.monotonic() + seconds
        self.signal(life.pid, signal.SIGSTOP)

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.step()

    def end(self, *lives: Life) -> None:
        """Until these have ended by themselves."""
        for life in lives:
            self.until(lambda life=life: life.status is not None, f"{life.who} to end")

    def terminate(self, life: Life) -> None:
        self.signal(life.pid, signal.SIGCONT)
        self.signal(life.pid, signal.SIGTERM)
        self.end(life)

    def close(self) -> None:
        self.gate.close()
        assert self.nursery.stdin is not None and self.nursery.stdout is not None
        self.nursery.stdin.close()
        try:
            self.nursery.wait(SECONDS)
        finally:
            self.nursery.kill()
            self.nursery.wait()
            self.nursery.stdout.close()


@contextmanager
def run(rng: random.Random, pause: float, folder: Path | None = None) -> Iterator[Run]:
    """A run in a folder of its own, which is gone afterwards."""
    place = Path(tempfile.mkdtemp(dir=folder or os.environ["TESTS_MEMORY"]))
    try:
        running = Run(place, rng, pause)
        try:
            yield running
        finally:
            running.close()
    finally:
        shutil.rmtree(place)

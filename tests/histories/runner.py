"""Starts servers and clients, kills, stops and continues them, and gathers their records."""

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
    """A process of the run ended with a wrong status, or the run waited for too long."""


class Process:
    """One process of a run, from its start to its end."""

    def __init__(self, name: str, order: dict[str, Any], folder: Path) -> None:
        self.name, self.order = name, order
        self.record = folder / f"{name}.record"
        self.pid = 0
        self.status: int | None = None
        self.killed = 0  # time of the kill, ns; 0: not killed
        self.ready_at = 0

    def records(self) -> list[Path]:
        """Return the records of its threads."""
        return [self.record, *sorted(self.record.parent.glob(f"{self.record.name}.*"))]

    def ready(self) -> bool:
        if not self.ready_at:
            self.ready_at = next((line[1] for line in lines(self.record) if line[0] == "r"), 0)
        return bool(self.ready_at)


class Run:
    """The processes of one run. It continues a process that stopped itself after a drawn pause."""

    def __init__(self, folder: Path, rng: random.Random, pause: float) -> None:
        self.folder, self.rng, self.pause = folder, rng, pause
        self.gate_path = folder / "gate"
        self.gate = Gate(self.gate_path)
        self.processes: list[Process] = []
        self.stopped: dict[int, float] = {}  # pid -> time at which it is continued
        self.data = b""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])]),
        }
        self.fork_server = subprocess.Popen(
            [sys.executable, "-m", "tests.histories.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
        )
        self.starting: list[Process] = []

    def start(self, name: str, role: str, /, **order: Any) -> Process:
        process = Process(name, {"role": role, **order}, self.folder)
        if "record" in order:
            process.order["record"] = str(process.record)
        self.processes.append(process)
        self.starting.append(process)
        assert self.fork_server.stdin is not None
        self.fork_server.stdin.write(json.dumps(process.order).encode() + b"\n")
        self.fork_server.stdin.flush()
        self.until(lambda: process.pid, f"{name} to start")
        return process

    def step(self, seconds: float = 0.002) -> None:
        """Take the fork server's reports, and continue processes whose pause is over."""
        assert self.fork_server.stdout is not None
        if select.select([self.fork_server.stdout], [], [], seconds)[0]:
            more = os.read(self.fork_server.stdout.fileno(), 1 << 16)
            if not more:
                raise Failed("the fork server has ended")
            *reports, self.data = (self.data + more).split(b"\n")
            for report in reports:
                self.take(json.loads(report))
        now = time.monotonic()
        for pid in [pid for pid, when in self.stopped.items() if when <= now]:
            del self.stopped[pid]
            self.signal(pid, signal.SIGCONT)

    def take(self, report: dict[str, int]) -> None:
        if "started" in report:
            self.starting.pop(0).pid = report["started"]
        elif "stopped" in report:
            pid = report["stopped"]
            if pid not in self.stopped:
                self.stopped[pid] = time.monotonic() + self.rng.uniform(0.3, 2.5) * self.pause
        else:
            process = next(each for each in self.processes if each.pid == report["ended"])
            process.status = report["status"]
            self.stopped.pop(process.pid, None)
            if process.status != (-signal.SIGKILL if process.killed else 0):
                raise Failed(f"{process.name} ended with {process.status}")

    def signal(self, pid: int, number: int) -> None:
        # The fork server has not reported its end. Until the fork server reaps it, no other
        # process can have its pid.
        if any(process.pid == pid and process.status is None for process in self.processes):
            os.kill(pid, number)

    def until(self, fact: Any, event: str) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (found := fact()):
            if time.monotonic() > deadline:
                raise Failed(f"waited {SECONDS} s for {event}")
            self.step()
        return found

    def ready(self, *processes: Process) -> None:
        for process in processes:
            self.until(process.ready, f"{process.name} to be ready")

    def kill(self, process: Process) -> None:
        process.killed = time.monotonic_ns()
        self.signal(process.pid, signal.SIGKILL)
        self.until(lambda: process.status is not None, f"the end of {process.name} after a kill")

    def stop(self, process: Process, seconds: float) -> None:
        self.stopped[process.pid] = time.monotonic() + seconds
        self.signal(process.pid, signal.SIGSTOP)

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.step()

    def end(self, *processes: Process) -> None:
        """Wait until these processes have ended by themselves."""
        for process in processes:
            self.until(
                lambda process=process: process.status is not None, f"the end of {process.name}"
            )

    def terminate(self, process: Process) -> None:
        self.signal(process.pid, signal.SIGCONT)
        self.signal(process.pid, signal.SIGTERM)
        self.end(process)

    def close(self) -> None:
        self.gate.close()
        assert self.fork_server.stdin is not None and self.fork_server.stdout is not None
        self.fork_server.stdin.close()
        try:
            self.fork_server.wait(SECONDS)
        finally:
            self.fork_server.kill()
            self.fork_server.wait()
            self.fork_server.stdout.close()


@contextmanager
def run(rng: random.Random, pause: float, folder: Path | None = None) -> Iterator[Run]:
    """A run in a folder of its own, which is removed afterwards."""
    place = Path(tempfile.mkdtemp(dir=folder or os.environ["TESTS_MEMORY"]))
    try:
        running = Run(place, rng, pause)
        try:
            yield running
        finally:
            running.close()
    finally:
        shutil.rmtree(place)
